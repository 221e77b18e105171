"""Nodes put around a network, without touching what is in it.

onnx.compose is not used for this: its add_prefix leaves the old name where an inner graph uses an initializer of an
outer one, and its merge checks models by serialising them, which ends at 2 GiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graphs.network_file import graphs

NAMESPACE = "whymatch/"
"""What the names of all values and nodes begin with that are put around a network, but for ``RESERVED``."""
RESERVED = frozenset(
    ("image", "mask", "fill", "embedding", "features", "scores", "maps", "noise", "reference", "similarity", "gradient")
)
"""The inputs and outputs of a bundle's graphs."""


@dataclass
class Pieces:
    """Nodes and constants that go in front of or behind a network, in one namespace."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, NAMESPACE + name))
        return NAMESPACE + name

    def node(
        self, kind: str, inputs: list[str], name: str | None = None, *, output: str | None = None, **attributes: Any
    ) -> str:
        """Adds a node; its value is called ``output``, or ``name`` in the namespace."""
        value = output or f"{NAMESPACE}{name}"
        label = f"{NAMESPACE}{name or output}"
        self.nodes.append(helper.make_node(kind, inputs, [value], name=label, **attributes))
        return value

    def reduce_l2(self, value: str) -> str:
        """The length [B,1] of every row; its axes became an input with opset 18."""
        if self.opset < 18:
            return self.node("ReduceL2", [value], "raw_length", axes=[1], keepdims=1)
        return self.node("ReduceL2", [value, self.constant("rows", np.array([1], np.int64))], "raw_length", keepdims=1)


def merge(
    merged: onnx.ModelProto,
    before: Pieces,
    behind: Pieces,
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Puts ``before``, which makes the value that was the network's input, and ``behind`` around ``merged``."""
    graph = merged.graph
    network = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*before.nodes, *network, *behind.nodes])
    graph.initializer.extend([*before.constants, *behind.constants])
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    merged.ir_version = max(merged.ir_version, 4)  # before 4, every initializer had to be an input too
    merged.producer_name = "whymatch"
    merged.ClearField("metadata_props")  # exporters write paths of the machine that they ran on
    return merged


def copy_apart(network: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    """A copy in which no value has a name that the pieces around it use, and the new names of those that had one.

    Value names are unique over nested graphs, so renaming is a plain replacement everywhere.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(network)
    found = set(_names(copied.graph))
    prefix = "network/"
    while any(name.startswith(prefix) for name in found):
        prefix = f"_{prefix}"
    names = {name: prefix + name for name in found if name in RESERVED or name.startswith(NAMESPACE)}
    if names:
        rename(copied.graph, names)
    return copied, names


def renamed(value: onnx.ValueInfoProto, names: Mapping[str, str]) -> onnx.ValueInfoProto:
    """``value`` under its new name of ``names``, if it has one."""
    return helper.make_value_info(names.get(value.name, value.name), value.type)


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives values of ``graph``, and of the graphs inside of its nodes, the new names of ``names``, in place."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = names.get(value.name, value.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values of ``graph`` and of the graphs inside of its nodes."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            yield value.name
        for sparse in inner.sparse_initializer:
            yield sparse.values.name
        for node in inner.node:
            yield from (name for name in (*node.input, *node.output) if name)
