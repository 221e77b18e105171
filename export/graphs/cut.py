"""A similarity graph cut in two at one of its values: what stands in front of that layer, and what makes of it the
embedding. Works on any bundle's graph; onnx and numpy only, no torch.

    trunk   image, mask, fill ─► embedding, layer [I,...]      the whole graph, with the layer as a further output
    tail    layer float32 [rows,...] ─► embedding float32 [rows,D]

A value can be a layer where every path from the image to the embedding goes through it (it dominates the embedding). A
graph's nodes stand in an order in which data can flow; what dominates is then the only value still needed right behind
the node that makes it, so one pass over the nodes finds all. Shapes do not count as paths: what the tail takes of them
beside the layer (a batch size, a class token spread over the batch) is measured once for batches of ``rows`` and stored
in the tail.

What the cut computes is then compared with the whole network on random images. A tail of half precision is widened to
single: differences of its results are what it is there for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graphs import batching as batches
from export.graphs.compose import NAMESPACE
from export.graphs.network_file import TOLERANCE, Layout, Opener, all_nodes, graphs, load, tensors
from transforms.core.errors import BundleError
from transforms.core.records import Float32, Image
from transforms.serving import runtime
from transforms.serving.bundle import Network

_Kind = TypeVar("_Kind", bound=np.generic)

_EMBEDDING, _FEATURES = "embedding", "features"  # a similarity graph's outputs (transforms.serving.bundle)
_AT_ONCE = 8  # values of a graph that are looked at in one pass: a large network's maps fill a memory
_LISTED = 24

_CHANNELS_FIRST = frozenset((
    *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "LRN", "DepthToSpace", "SpaceToDepth"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization"),
))  # fmt: skip
_CHANNELS_LAST = frozenset((
    *("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "Attention", "MultiHeadAttention"),
    *("LayerNormalization", "SkipLayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
))  # fmt: skip
_SAME_AXES = frozenset((
    *("Identity", "Cast", "Dropout", "Concat", "Pad", "Resize", "Slice", "Split", "Where"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Mean", "Sqrt", "Neg", "Abs", "Exp", "Reciprocal", "Erf"),
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Elu", "Selu"),
    *("Celu", "Mish", "Softplus", "Softsign", "Gelu", "FastGelu", "BiasGelu", "QuickGelu"),
    *("QuantizeLinear", "DequantizeLinear"),
))  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A similarity graph cut at ``layer``, a value of ``shape`` (one image's, without the batch).

    ``axis`` is the channels' among all axes, the batch's included: 1 for [I,C,h,w], 3 for [I,h,w,C], 2 for [I,T,C].
    The tail takes exactly ``rows`` rows.
    """

    layer: str
    shape: tuple[int, ...]
    axis: int
    trunk: onnx.ModelProto
    tail: onnx.ModelProto
    rows: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis - 1]

    @property
    def positions(self) -> int:
        return math.prod(self.shape) // self.channels


def cut(
    network: onnx.ModelProto,
    record: Network,
    size: tuple[int, int],
    *,
    layer: str | None = None,
    features: Layout | None = None,
    rows: int = 32,
    open_session: Opener = lambda model: runtime.session(model.SerializeToString()),
) -> Cut:
    """Cuts a bundle's similarity graph for frames of ``size`` (H, W).

    Args:
      network, record: the graph, all of its data in it (:func:`whole`), and what the bundle says of it.
      layer: the name of a value; None for the output "features", and where the graph has none, or cannot be cut there,
        for the last value of three axes or more, and of more than one position, that can be a cut.
      features: the layout of the output "features", where there is one.
      rows: of the tail's batches; a network of a fixed batch overrules it.

    Raises:
      BundleError: there is no such value, it cannot be a cut, or the parts do not compute what the whole does.
    """
    graph = CutGraph(network)
    probe = _Probe(network, record, size, record.batch or rows, open_session)
    names = graph.cuts()
    if layer is not None:
        if layer not in names:
            listed = [f"{name} {_shape_text(value.shape)}" for name, value in probe.values(reversed(names))]
            more = f" and {len(listed) - _LISTED} before these" if len(listed) > _LISTED else ""
            raise BundleError(
                f"--layer {layer}: every path from the image to the embedding must go through the layer, and this is "
                f"no such value of the graph. Those that are, the last first: {', '.join(listed[:_LISTED])}{more}"
            )
        found = next(probe.values([layer]), None)
        if found is None:
            raise BundleError(f"--layer {layer}: its values are no rows of floats, one for each image")
        return _cut(graph, probe, layer, found[1], features)
    reason = "none has positions"
    first = [_FEATURES] if _FEATURES in names else []
    for name, value in probe.values([*first, *(name for name in reversed(names) if name != _FEATURES)]):
        axis = graph.channel_axis(name, value.ndim) or _usual_axis(record, value.ndim)
        if name != _FEATURES and (value.ndim < 3 or value[0].size == value.shape[axis]):
            continue
        try:
            return _cut(graph, probe, name, value, features)
        except BundleError as error:
            reason = str(error)
    raise BundleError(
        "no value of this network with positions can be the layer of its concepts: all paths from the image to the "
        f"embedding must go through it ({reason}). Name another value with --layer"
    )


def whole(path: Any) -> onnx.ModelProto:
    """The graph at ``path`` with all of its data in it; BundleError where it is more than one file holds."""
    source = load(path)
    if source.external:
        raise BundleError(
            "the similarity network keeps more data beside its ONNX file than one file can hold; whymatch cannot cut "
            "such a network, so its concepts have no priors"
        )
    return source.model


def _cut(graph: CutGraph, probe: _Probe, layer: str, value: NDArray[Any], features: Layout | None) -> Cut:
    nodes, beside = graph.tail(layer)
    tail = graph.model(layer, nodes, probe.frozen(beside), (probe.rows, *value.shape[1:]))
    if probe.record.precision == "float16":
        _widen(tail)
    if layer == _FEATURES and features is not None:
        axis = _axis(features, value.ndim)
    else:
        axis = graph.channel_axis(layer, value.ndim) or _usual_axis(probe.record, value.ndim)
    trunk = with_outputs(graph.network, [_EMBEDDING, layer])
    made = Cut(layer, value.shape[1:], axis, trunk, tail, probe.rows)
    probe.verify(made)
    return made


def _axis(layout: Layout, rank: int) -> int:
    return 1 if layout == "nchw" else rank - 1


def _usual_axis(record: Network, rank: int) -> int:
    """Where channels stand when no operator says so: last in sequences, else as in the network's input."""
    return _axis("nhwc" if rank == 3 else record.preprocessing.get("layout", "nchw"), rank)


class CutGraph:
    """What a cut asks of a similarity graph: its paths, and which nodes stand behind a value."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.network = network
        self.nodes = list(network.graph.node)
        self.taken = [_taken(node) for node in self.nodes]
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.stored = {tensor.name for tensor in network.graph.initializer}
        self.stored.update(sparse.values.name for sparse in network.graph.sparse_initializer)
        self.given = {value.name for value in network.graph.input} - self.stored
        self.moving = set(self.given)
        """The values that depend on what the images show, not only on how many there are."""
        for node, taken in zip(self.nodes, self.taken, strict=True):
            if node.op_type not in ("Shape", "Size") and not self.moving.isdisjoint(taken):
                self.moving.update(name for name in node.output if name)

    def cuts(self) -> list[str]:
        """The network's values through which every path from the inputs to the embedding goes, in the graph's order."""
        wanted, last, path = {_EMBEDDING}, dict[str, int](), list[int]()
        for index in range(len(self.nodes) - 1, -1, -1):
            if not wanted.isdisjoint(self.nodes[index].output):
                path.append(index)
                for name in self.taken[index] & self.moving:
                    wanted.add(name)
                    last.setdefault(name, index)
        found, alive = [], self.given & set(last)
        for index in reversed(path):
            node = self.nodes[index]
            alive -= {name for name in alive if last[name] <= index}
            made = [name for name in node.output if name in last]
            alive.update(made)
            if len(made) == 1 and alive == set(made) and not node.name.startswith(NAMESPACE):
                found.append(made[0])
        return found

    def tail(self, layer: str) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes from ``layer`` to the embedding, and the shapes and constants that only earlier nodes can make."""
        known, frozen, able = {layer, *self.stored}, set[str](), list[int]()
        for index, node in enumerate(self.nodes):
            made = {name for name in node.output if name}
            if layer in made:
                continue
            if self.taken[index] <= (known | frozen if made & self.moving else known):
                able.append(index)
                known |= made
            elif not made & self.moving:
                frozen |= made
        if _EMBEDDING not in known:
            raise BundleError(f"not every path from the image to the embedding goes through {layer!r}")
        wanted, chosen = {_EMBEDDING}, list[int]()
        for index in reversed(able):
            if not wanted.isdisjoint(self.nodes[index].output):
                chosen.append(index)
                wanted |= self.taken[index]
        return [self.nodes[index] for index in reversed(chosen)], sorted(wanted & frozen)

    def model(
        self, layer: str, nodes: Sequence[onnx.NodeProto], frozen: Sequence[onnx.TensorProto], shape: Sequence[int]
    ) -> onnx.ModelProto:
        """``nodes`` as a model of their own, from ``layer`` of ``shape`` to the embedding."""
        needed = {name for node in nodes for name in _taken(node)}
        old = self.network.graph
        graph = helper.make_graph(
            nodes,
            "tail",
            [helper.make_tensor_value_info(layer, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(_EMBEDDING, TensorProto.FLOAT, [shape[0], "D"])],
            [*(tensor for tensor in old.initializer if tensor.name in needed), *frozen],
            sparse_initializer=[sparse for sparse in old.sparse_initializer if sparse.values.name in needed],
        )
        return helper.make_model(
            graph,
            opset_imports=list(self.network.opset_import),
            functions=list(self.network.functions),
            ir_version=max(self.network.ir_version, 4),
            producer_name="whymatch",
        )

    def channel_axis(self, value: str, rank: int) -> int | None:
        """The axis of the channels of ``value``, as the operators in front of it have it; None where none says so."""
        passed: list[Sequence[int]] = []  # the permutations between an operator that knows and the value
        seen = {value}
        while (node := self.makers.get(value)) is not None:
            if node.op_type in _CHANNELS_FIRST or node.op_type in _CHANNELS_LAST:
                axis = 1 if node.op_type in _CHANNELS_FIRST else rank - 1
                for order in reversed(passed):
                    axis = list(order).index(axis)
                return axis or None
            if node.op_type == "Transpose":
                passed.append(next((a.ints for a in node.attribute if a.name == "perm"), range(rank)[::-1]))
            elif node.op_type not in _SAME_AXES:
                return None
            value = next((name for name in node.input if name in self.moving and name not in seen), "")
            seen.add(value)
        return None


class _Probe:
    """The whole network on a few random images, unmasked: values of it, and what a cut of it has to compute."""

    def __init__(
        self, network: onnx.ModelProto, record: Network, size: tuple[int, int], rows: int, open_session: Opener
    ) -> None:
        self.network, self.record, self.rows, self.open = network, record, rows, open_session
        self.images: Image = np.random.default_rng(0).integers(0, 256, (batches.PROBES, *size, 3), dtype=np.uint8)

    def values(self, names: Iterable[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Those of ``names`` that are rows of floats, one for each image, with their values [2 or the batch,...]."""
        left = list(names)
        rows = self.record.batch or 2
        for start in range(0, len(left), _AT_ONCE):
            some = left[start : start + _AT_ONCE]
            for name, value in zip(some, self.run(with_outputs(self.network, some), some, rows), strict=True):
                floats = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float16)
                if floats and value.ndim > 1 and len(value) == rows and value[0].size > 1:
                    yield name, value

    def frozen(self, names: Sequence[str]) -> list[onnx.TensorProto]:
        """What ``names`` are in batches of ``rows``, to be stored."""
        if not names:
            return []
        found = self.run(with_outputs(self.network, names), names, self.rows)
        if odd := [name for name, value in zip(names, found, strict=True) if not isinstance(value, np.ndarray)]:
            raise BundleError(f"behind the layer stands {odd[0]!r}, which is no tensor")
        return [numpy_helper.from_array(value, name) for name, value in zip(names, found, strict=True)]

    def run(self, model: onnx.ModelProto, names: Sequence[str], rows: int) -> list[Any]:
        return run_network(self.open(model), names, self.images[np.arange(rows) % len(self.images)])

    def verify(self, made: Cut) -> None:
        """BundleError where the tail of what the trunk gives is not the network's embedding."""
        expected, values = run_trunk(self.open(made.trunk), made, self.images, self.record.batch)
        found = run_tail(self.open(made.tail), made, values)
        difference = float(np.abs(found - expected).max())
        largest = max(float(np.abs(expected).max()), 1e-6)
        if not difference <= TOLERANCE[self.record.precision] * largest:
            raise BundleError(
                f"cut at {made.layer!r}, the network's embeddings differ by {difference:.2g}, of at most {largest:.2g}"
            )


def run_trunk(session: Any, made: Cut, images: Image, batch: int | None = None) -> tuple[Float32, Float32]:
    """Embeddings [I,D] of ``images`` uint8 [I,H,W,3], and the layer's values [I,...]; in full batches of ``batch``."""
    parts = []
    for block, count in full_batches(images, batch or len(images)):
        embeddings, values = run_network(session, [_EMBEDDING, made.layer], block)
        parts.append((embeddings[:count], values[:count].astype(np.float32)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def run_tail(session: Any, made: Cut, values: Float32) -> Float32:
    """Embeddings [B,D] of the layer's ``values`` [B,...], in the tail's batches."""
    parts = []
    for block, count in full_batches(values, made.rows):
        try:
            parts.append(session.run([_EMBEDDING], {made.layer: block})[0][:count])
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"the part behind {made.layer!r} fails: {runtime.first_line(error)}") from None
    return np.concatenate(parts)


def run_network(session: Any, names: Sequence[str], images: Image) -> list[Any]:
    """The outputs ``names`` for ``images``, unmasked."""
    mask, fill = np.ones((1, *images.shape[1:3], 1), np.float32), np.zeros((1, 1, 1, 3), np.float32)
    try:
        found: list[Any] = session.run(list(names), {"image": images, "mask": mask, "fill": fill})
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise BundleError(f"the network fails on images of shape {images.shape}: {runtime.first_line(error)}") from None
    return found


def full_batches(rows: NDArray[_Kind], size: int) -> Iterator[tuple[NDArray[_Kind], int]]:
    """Full batches of ``rows``, the last one filled up with its last row, and how many rows of each are real."""
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)]), len(block)


def _taken(node: onnx.NodeProto) -> set[str]:
    """The names of the values that a node takes, those of the graphs inside of it too, but not what these make."""
    taken, made = set(node.input), set[str]()
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for graph in graphs(inner):
                made.update(value.name for value in (*graph.input, *graph.initializer))
                made.update(sparse.values.name for sparse in graph.sparse_initializer)
                taken.update(value.name for value in graph.output)
                for one in graph.node:
                    taken.update(one.input)
                    made.update(one.output)
    return taken - made - {""}


def with_outputs(network: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``network`` with the values ``names`` among its outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    own = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return model


def _widen(model: onnx.ModelProto) -> None:
    """Makes single of half precision, in place: weights, constants, casts, and what inner graphs declare."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    for tensor in tensors(model):
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in all_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == half:
                value.type.tensor_type.elem_type = single


def _shape_text(shape: Sequence[int]) -> str:
    return f"[I,{','.join(map(str, shape[1:]))}]"
