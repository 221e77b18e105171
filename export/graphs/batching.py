"""What a network does with batches, found out by running it.

Exporters like to write the batch size of their example into the graph. Here a fixed batch dimension is made dynamic and
kept so where every row still comes out as it did before; else the network is served at its own batch size. A network
that only claims to take any batch is found out the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graphs.network_file import TOLERANCE, Opener, graphs, image_input, precision, shape
from transforms.core.errors import BundleError
from transforms.core.records import Float32

PROBES = 5  # images; batches of 1, 2 and all of them are compared

Rows = list[NDArray[Any]]


@dataclass(frozen=True)
class SettledBatch:
    """A network and the only batch size that it takes (None: any), with its outputs for the probes, float32."""

    network: onnx.ModelProto
    batch: int | None
    outputs: list[Float32]  # each [PROBES, ...]


def settle_batch(
    network: onnx.ModelProto, probes: Float32, *, input: str, outputs: Sequence[str], open_session: Opener
) -> SettledBatch:
    """Makes the batch dimension of ``network`` dynamic if that changes nothing.

    Args:
      network: any network of one image input.
      probes: [PROBES, ...], what the network is fed, in its layout.
      input, outputs: names.
      open_session: see ``Opener``.

    Raises:
      BundleError: the network fails even at its own batch size, or gives NaN or infinity.
    """
    entry = image_input(network, input)
    declared = shape(entry)[0] if shape(entry) else None
    kind = precision(entry)
    fed = probes.astype(kind)
    expected = _run(open_session(network), fed, declared or 1, input, outputs)
    for name, rows in zip(outputs, expected, strict=True):
        if not np.isfinite(rows).all():
            raise BundleError(
                f"output {name!r} holds NaN or infinity for random images: check scale, mean and std"
                + (", or export the network in float32" if kind == "float16" else "")
            )
    for candidate in [network] if declared is None else _dynamic(network, input, declared):
        if _agrees(candidate, fed, expected, input, outputs, open_session, TOLERANCE[kind]):
            return SettledBatch(candidate, None, expected)
    return SettledBatch(network, declared or 1, expected)


def _run(session: Any, fed: NDArray[Any], batch: int, input: str, outputs: Sequence[str]) -> list[Float32]:
    """The outputs for all of ``fed``, ``batch`` rows at a time; the last batch is filled up with its last row."""
    rows: list[Rows] = [[] for _ in outputs]
    for start in range(0, len(fed), batch):
        block = fed[start : start + batch]
        padding = np.repeat(block[-1:], batch - len(block), axis=0)
        try:
            results = session.run(list(outputs), {input: np.concatenate([block, padding])})
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"the network fails on random images of shape {block.shape}: {error}") from None
        for name, collected, result in zip(outputs, rows, results, strict=True):
            if result.ndim < 2 or len(result) != batch:
                raise BundleError(
                    f"output {name!r} has shape {result.shape} for {batch} images, expected a row for each image"
                )
            collected.append(result[: len(block)])
    return [np.concatenate(collected).astype(np.float32) for collected in rows]


def _agrees(
    candidate: onnx.ModelProto,
    fed: NDArray[Any],
    expected: list[Float32],
    input: str,
    outputs: Sequence[str],
    open_session: Opener,
    tolerance: float,
) -> bool:
    try:
        session = open_session(candidate)
        found = [_run(session, fed, batch, input, outputs) for batch in (1, 2, len(fed))]
    except BundleError:
        return False
    return all(
        theirs.shape == ours.shape
        and np.all(np.abs(theirs - ours) <= tolerance * max(float(np.abs(theirs).max()), 1e-6))
        for results in found
        for theirs, ours in zip(expected, results, strict=True)
    )


def _dynamic(network: onnx.ModelProto, input: str, batch: int) -> Iterator[onnx.ModelProto]:
    """``network`` with a dynamic batch dimension: at its ends, then also in what Reshape nodes were told."""
    loose = onnx.ModelProto()
    loose.CopyFrom(network)
    for graph in graphs(loose.graph):
        del graph.value_info[:]  # they repeat the fixed size for every value within
    for value in (*loose.graph.input, *loose.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and (value.name == input or dims[0].dim_value == batch):
            dims[0].dim_param = "batch"
    yield loose
    if _free_reshapes(loose.graph, batch):
        yield loose


def _free_reshapes(graph: onnx.GraphProto, batch: int) -> bool:
    """Lets Reshape nodes that ask for ``batch`` rows keep the rows that they get. Whether any did so."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    changed = False
    for node in list(graph.node):
        tensor = stored.get(node.input[1]) or constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if tensor is None:
            continue
        wanted = numpy_helper.to_array(tensor)
        if wanted.ndim != 1 or len(wanted) < 2 or wanted[0] != batch or 0 in wanted[1:]:
            continue
        name = f"{node.output[0]}/any_batch"  # a constant of its own: others may share the old one
        graph.initializer.append(numpy_helper.from_array(np.array([0, *wanted[1:]], np.int64), name))
        node.input[1] = name
        for attribute in node.attribute:
            if attribute.name == "allowzero":
                attribute.i = 0  # 0 is to mean: as many as there are
        changed = True
    return changed
