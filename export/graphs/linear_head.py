"""Whether a network's embedding is a sum over the positions of a feature map, and the linear map that makes it one.

    feature map F [B,C,h,w] ─ mean over positions ─ linear layers ─► embedding = W mean(F) + b ─ (L2 norm)

Works on anybody's ONNX file; onnx and numpy only, no torch. Which operators stand behind the pooling decides whether
they are linear; what they compute is not interpreted but measured: they are cut out and run on unit vectors, which
gives W and b whatever reshapes lie between them. The result is then compared with the network itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from export.graphs.network_file import TOLERANCE, Layout, Opener
from transforms.core.errors import BundleError
from transforms.core.records import Float64

_VIEWS = frozenset(("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast", "Transpose"))
_LINEAR: dict[str, tuple[int, ...]] = {
    **dict.fromkeys((*_VIEWS, "Gather", "Slice", "Split", "Expand", "Neg", "Div", "BatchNormalization"), (0,)),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Concat"), tuple(range(64))),
    "Gemm": (0, 1, 2),
    **dict.fromkeys(("MatMul", "Mul", "Conv"), (0, 1)),
}
"""Operators that are linear, up to a constant, in these of their inputs while all others are constants."""
_PRODUCTS = frozenset(("Gemm", "MatMul", "Mul", "Conv"))  # of the first two inputs: one of them has to be constant
AVERAGES = frozenset(("GlobalAveragePool", "AveragePool", "ReduceMean"))
_OTHER_POOLS = frozenset(("GlobalMaxPool", "GlobalLpPool", "MaxPool", "LpPool", "ReduceMax", "ReduceL1"))
_LENGTHS = frozenset(("ReduceL2", "ReduceSumSquare", "ReduceL1"))
_OF_LENGTHS = _VIEWS | {"Clip", "Max", "Expand", "Add", "Sqrt", "Reciprocal", "Pow", "Mul", "Abs"}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_OPSET, _IR_VERSION = 13, 7  # of the projection's own graph, which any ONNX Runtime of the last years reads
_SCALE = 1024.0  # of the unit vectors: a large bias then costs W none of its digits


class NoProjection(Exception):  # a reason, which becomes part of the bundle and not of a traceback
    """Why an embedding is no sum over positions, as half a sentence for users."""


@dataclass(frozen=True)
class Pooling:
    """The average pooling of a network, and what stands between it and the embedding.

    ``features`` and ``pooled`` are the values in front of it and behind it, in ``layout``; ``tail`` are the nodes from
    there to ``target``: the embedding, or, where ``unit``, the value in front of the network's own L2 norm.
    """

    node: onnx.NodeProto
    layout: Layout
    tail: tuple[onnx.NodeProto, ...]
    target: str
    unit: bool

    @property
    def features(self) -> str:
        return str(self.node.input[0])

    @property
    def pooled(self) -> str:
        return str(self.node.output[0])


@dataclass(frozen=True)
class Projection:
    """``embedding = weights @ mean over positions of the feature map + bias``, before the L2 norm.

    ``features`` declares the feature map: its name in the network, its type, and its shape [B,C,h,w], or [B,h,w,C].
    """

    features: onnx.ValueInfoProto
    layout: Layout
    weights: Float64  # [D, C]
    bias: Float64  # [D]


def project(
    network: onnx.ModelProto,
    fed: NDArray[Any],
    *,
    input: str,
    output: str,
    batch: int | None,
    normalise: bool,
    open_session: Opener,
) -> Projection:
    """The projection of ``network`` from its last feature map to its embedding ``output``.

    Args:
      fed: what the network is fed, in its layout and type: a few images, on which the result is verified.
      batch: the only batch size that the network takes, None for any.
      normalise: whether only the embedding's direction counts; a network's own L2 norm at its end is then left out.

    Raises:
      NoProjection: there is none; the message says why.
    """
    pooling = find_pooling(network, input, output, normalise=normalise)
    try:
        return _Measurement(network, pooling, fed, input, output, batch, open_session).projection()
    except BundleError as error:
        raise NoProjection(f"its parts could not be run: {error}") from None


def find_pooling(network: onnx.ModelProto, input: str, output: str, *, normalise: bool) -> Pooling:
    """Walks back from ``output`` through what is linear, to the average pooling; NoProjection where that fails."""
    graph = HeadGraph(network, input)
    target, norm = graph.without_norm(output)
    if norm is not None and not normalise:
        raise NoProjection(
            f"the network ends in an L2 norm ({_label(norm)}), which is not linear; with the similarity function "
            "cosine, which compares its embeddings in the same way, there is a projection"
        )
    wanted, tail, pools = {target}, [], []
    for node in reversed(network.graph.node):
        if not wanted.intersection(node.output):
            continue
        if node.op_type in AVERAGES and graph.layout(node) is not None:
            pools.append(node)
            continue
        graph.check_linear(node)
        tail.append(node)
        wanted.update(graph.inputs(node))
    if len(pools) != 1:
        listed = " and ".join(_label(node) for node in reversed(pools))
        raise NoProjection(
            f"the embedding is made of more than one pooling: {listed}"
            if pools
            else "between the image and the embedding stands no average pooling over all positions"
        )
    if input in wanted:
        raise NoProjection(f"the embedding is made of the image itself as well as of {_label(pools[0])}")
    layout = graph.layout(pools[0])
    assert layout is not None
    return Pooling(pools[0], layout, tuple(reversed(tail)), target, norm is not None)


def projection_graph(projection: Projection) -> onnx.ModelProto:
    """projection.onnx: features as the similarity graph gives them -> local [I,D,h,w], bias [1,D], float32."""
    kind = projection.features.type.tensor_type.elem_type
    given = projection.features.type.tensor_type.shape.dim
    height, width = _sides([dim.dim_value for dim in given], projection.layout)
    size = projection.weights.shape[0]
    kernel = (projection.weights / (height * width)).astype(np.float32)[:, :, None, None]
    constants = [("kernel", kernel), ("constant", projection.bias.astype(np.float32)[None])]
    nodes, value = [], "features"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["float"], to=TensorProto.FLOAT))
        value = "float"
    if projection.layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [value], ["planes"], perm=[0, 3, 1, 2]))
        value = "planes"
    nodes.append(helper.make_node("Conv", [value, "kernel"], ["local"]))
    nodes.append(helper.make_node("Identity", ["constant"], ["bias"]))
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("features", kind, ["I", *(dim.dim_value for dim in given[1:])])],
        [
            helper.make_tensor_value_info("local", TensorProto.FLOAT, ["I", size, height, width]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, size]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="whymatch", ir_version=_IR_VERSION
    )


class HeadGraph:
    """What the walk asks of a network's outer graph."""

    def __init__(self, network: onnx.ModelProto, input: str) -> None:
        self.makers = {name: node for node in network.graph.node for name in node.output if name}
        self.stored = {tensor.name: tensor for tensor in network.graph.initializer}
        self.input = input
        self.moving = {input}
        """The values that depend on what the image shows, not only on how many images there are."""
        for node in network.graph.node:
            inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
            if node.op_type not in ("Shape", "Size") and (inner or self.moving.intersection(node.input)):
                self.moving.update(name for name in node.output if name)

    def inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of ``node`` that depend on the image."""
        return [name for name in node.input if name in self.moving]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of an initializer or of a Constant node; None for what is neither, or lies outside of the file."""
        tensor = self.stored.get(name)
        maker = self.makers.get(name)
        if tensor is None and maker is not None and maker.op_type == "Constant":
            given = maker.attribute[0]
            if given.name != "value":
                return np.array(helper.get_attribute_value(given)) if given.type != AttributeProto.STRING else None
            tensor = given.t
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def layout(self, node: onnx.NodeProto) -> Layout | None:
        """The layout of the map that ``node`` averages over its positions; None for another kind of average."""
        if node.op_type != "ReduceMean":
            return "nchw"
        given: Any = _attribute(node, "axes")
        if given is None and len(node.input) > 1:
            given = self.constant(node.input[1])
        axes = None if given is None else sorted(int(axis) % 4 for axis in np.ravel(given))
        return "nchw" if axes == [2, 3] else "nhwc" if axes == [1, 2] else None

    def without_norm(self, output: str) -> tuple[str, onnx.NodeProto | None]:
        """The value in front of an L2 norm that ends the network, and the norm's node; else ``output`` and None.

        Behind the norm only views may stand, and factors above 0, which leave the direction as it is.
        """
        value = output
        while (node := self.makers.get(value)) is not None and len(moving := self.inputs(node)) in (1, 2):
            if node.op_type == "LpNormalization":
                return moving[0], node
            if len(moving) == 2:
                rows = {"Div": [0], "Mul": [0, 1]}.get(node.op_type, [])
                found = [place for place in rows if self._is_length(node.input[1 - place], node.input[place])]
                return (node.input[found[0]], node) if found else (output, None)
            if node.op_type not in _VIEWS and not self._is_factor(node):
                break
            value = moving[0]
        return output, None

    def _is_factor(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Mul", "Div") or (node.op_type == "Div" and node.input[1] in self.moving):
            return False
        factor = self.constant(next((name for name in node.input if name not in self.moving), ""))
        return factor is not None and factor.size == 1 and bool(factor.ravel()[0] > 0)

    def _is_length(self, length: str, of: str) -> bool:
        """Whether ``length`` is computed from nothing but ``of``, with a reduction, by what only lengths need."""
        ends = {of}
        while (node := self.makers.get(of)) is not None and node.op_type in _VIEWS:
            of = node.input[0]
            ends.add(of)
        seen, left, kinds = {length}, [length], set()
        while left:
            value = left.pop()
            if value in ends:
                continue
            node = self.makers.get(value)
            if node is None or node.op_type not in _OF_LENGTHS | _LENGTHS | {"ReduceSum"}:
                return False
            kinds.add(node.op_type)
            fresh = [name for name in self.inputs(node) if name not in seen]
            seen.update(fresh)
            left.extend(fresh)
        squared = "ReduceSum" in kinds and not kinds.isdisjoint(("Mul", "Pow", "Abs"))
        return squared or not kinds.isdisjoint(_LENGTHS)

    def check_linear(self, node: onnx.NodeProto) -> None:
        """NoProjection, with a text for users, where ``node`` is not linear in the inputs that depend on the image."""
        moving = [place for place, name in enumerate(node.input) if name in self.moving]
        good = node.domain in ("", "ai.onnx") and set(moving) <= set(_LINEAR.get(node.op_type, ()))
        if node.op_type in _PRODUCTS:
            good = good and not {0, 1} <= set(moving)
        if node.op_type == "Cast":
            good = good and _attribute(node, "to") in FLOATS
        if node.op_type == "BatchNormalization":
            good = good and not _attribute(node, "training_mode")
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            training = self.constant(node.input[2])
            good = good and training is not None and not training.any()
        if not good:
            raise NoProjection(self._why(node))

    def _why(self, node: onnx.NodeProto) -> str:
        if node.op_type in _OTHER_POOLS:
            return f"the embedding is pooled by {_label(node)}, which is no average"
        if node.op_type == "ReduceMean":
            return f"the embedding is pooled by {_label(node)}, which does not average over rows and columns of a map"
        for other in self._shortly_before(node):
            if other.op_type in AVERAGES and self.layout(other) is not None:
                return f"between the pooling and the embedding stands {_label(node)}, which is not linear"
            if other.op_type in _OTHER_POOLS:
                return (
                    f"the embedding is pooled by {_label(other)}, which is no average, and behind it stands "
                    f"{_label(node)}, which is not linear"
                )
        return (
            f"the embedding comes from {_label(node)}, which is not linear, and no average pooling over positions was "
            "found before it (a transformer's class token has none)"
        )

    def _shortly_before(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The nodes that ``node`` is computed from, nearest first, up to what works on a whole map or on tokens."""
        left, seen = list(self.inputs(node)), set(self.inputs(node))
        while left:
            maker = self.makers.get(left.pop(0))
            if maker is None:
                continue
            yield maker
            kernel = _attribute(maker, "kernel_shape") or ()
            if maker.op_type in ("Softmax", "Attention") or any(side > 1 for side in kernel):
                continue
            fresh = [name for name in self.inputs(maker) if name not in seen]
            seen.update(fresh)
            left.extend(fresh)


class _Measurement:
    """One run of the network on images, with what happens around its pooling, and the tail on unit vectors."""

    def __init__(
        self,
        network: onnx.ModelProto,
        pooling: Pooling,
        fed: NDArray[Any],
        input: str,
        output: str,
        batch: int | None,
        open_session: Opener,
    ) -> None:
        self.network, self.pooling, self.open = network, pooling, open_session
        self.rows = batch or len(fed)
        made = {name for node in pooling.tail for name in node.output}
        stored = {tensor.name for tensor in network.graph.initializer}
        needed = {name for node in pooling.tail for name in node.input if name}
        self.frozen = sorted(needed - made - stored - {pooling.pooled})
        """What the tail takes beside the pooled features and stored weights: constants, and shapes."""
        names = dict.fromkeys((pooling.features, pooling.pooled, output, *self.frozen))
        self.first, self.features, self.embeddings = self._run(list(names), fed, input, output)

    def projection(self) -> Projection:
        """Measured, and verified on the images."""
        features, pooling = self.features, self.pooling
        if features.ndim != 4:
            raise NoProjection(
                f"{_label(pooling.node)} averages a value of {features.ndim} dimensions, not a map [B,C,h,w]"
            )
        if features.dtype not in (np.float32, np.float16):
            raise NoProjection(f"the feature map is of type {features.dtype}, expected float32 or float16")
        sides = _sides(features.shape, pooling.layout)
        kernel = _attribute(pooling.node, "kernel_shape")
        channels = features.shape[1 if pooling.layout == "nchw" else 3]
        if self.first[pooling.pooled][0].size != channels or (kernel is not None and tuple(kernel) != sides):
            raise NoProjection(
                f"{_label(pooling.node)} averages windows of {_by(kernel or ())} of a map of {_by(sides)}, not the "
                "whole map"
            )
        bias, weights = self._tail(channels)
        means = features.astype(np.float64).mean(axis=(2, 3) if pooling.layout == "nchw" else (1, 2))
        self._verify(means @ weights.T + bias)
        kind = helper.np_dtype_to_tensor_dtype(features.dtype)
        declared = helper.make_tensor_value_info(pooling.features, kind, ["B", *features.shape[1:]])
        return Projection(declared, pooling.layout, weights, bias)

    def _run(
        self, names: list[str], fed: NDArray[Any], input: str, output: str
    ) -> tuple[dict[str, NDArray[Any]], NDArray[Any], Float64]:
        """The values ``names`` of the first batch; feature map and embedding [.,D] of all images."""
        model = onnx.ModelProto()
        model.CopyFrom(self.network)
        own = {value.name for value in model.graph.output}
        fetched = [name for name in names if name != input]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetched if name not in own)
        session = self.open(model)
        runs = []
        for start in range(0, len(fed), self.rows):
            block = fed[start : start + self.rows]
            block = np.concatenate([block, np.repeat(block[-1:], self.rows - len(block), axis=0)])
            try:
                runs.append({input: block, **dict(zip(fetched, session.run(fetched, {input: block}), strict=True))})
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise BundleError(str(error)) from None
        maps, rows = (
            np.concatenate([run[name] for run in runs])[: len(fed)] for name in (self.pooling.features, output)
        )
        return runs[0], maps, rows.reshape(len(rows), -1).astype(np.float64)

    def _tail(self, channels: int) -> tuple[Float64, Float64]:
        """b [D] and W [D,C]: what the tail makes of zeros and of unit vectors, in float32 whatever its own type."""
        shape = self.first[self.pooling.pooled].shape[1:]
        vectors = np.concatenate([np.zeros((1, channels)), _SCALE * np.eye(channels)]).astype(np.float32)
        if self.pooling.target == self.pooling.pooled:
            return np.zeros(channels), np.eye(channels)
        session = self.open(self._cut(shape))
        rows = []
        for start in range(0, len(vectors), self.rows):
            block = np.zeros((self.rows, channels), np.float32)
            block[: len(vectors) - start] = vectors[start : start + self.rows]
            try:
                found = session.run(None, {self.pooling.pooled: block.reshape(self.rows, *shape)})[0]
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise BundleError(str(error)) from None
            rows.append(found.reshape(self.rows, -1))
        found = np.concatenate(rows)[: len(vectors)].astype(np.float64)
        return found[0], np.ascontiguousarray((found[1:] - found[0]).T / _SCALE)

    def _cut(self, shape: tuple[int, ...]) -> onnx.ModelProto:
        """The tail as a model of its own, for exactly ``rows`` rows."""
        needed = {name for node in self.pooling.tail for name in node.input}
        stored = [tensor for tensor in self.network.graph.initializer if tensor.name in needed]
        frozen = [numpy_helper.from_array(self.first[name], name) for name in self.frozen]
        graph = helper.make_graph(
            [_in_float32(node) for node in self.pooling.tail],
            "tail",
            [helper.make_tensor_value_info(self.pooling.pooled, TensorProto.FLOAT, [self.rows, *shape])],
            [onnx.ValueInfoProto(name=self.pooling.target)],
            [_tensor_in_float32(tensor) for tensor in (*stored, *frozen)],
        )
        return helper.make_model(
            graph, opset_imports=list(self.network.opset_import), ir_version=max(self.network.ir_version, 4)
        )

    def _verify(self, found: Float64) -> None:
        expected = self.embeddings
        if self.pooling.unit:  # up to the factors that may stand behind the norm
            found, expected = (
                rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (found, expected)
            )
        same = found.shape == expected.shape
        worst = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12)) if same else np.inf
        if not worst <= TOLERANCE[str(self.features.dtype)]:
            raise NoProjection(
                f"what stands behind {_label(self.pooling.node)} looks linear, but differs from a projection by "
                f"{worst:.1g} of the largest value on random images"
            )


def _in_float32(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.op_type != "Cast" or _attribute(node, "to") != TensorProto.FLOAT16:
        return node
    return helper.make_node("Cast", node.input, node.output, name=node.name, to=TensorProto.FLOAT)


def _tensor_in_float32(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Half precision widened; data outside of the file is left, and with it the tail of such a network fails."""
    if tensor.data_type != TensorProto.FLOAT16 or tensor.data_location == TensorProto.EXTERNAL:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return None


def _sides(shape: Any, layout: Layout) -> tuple[int, int]:
    """(h, w) of a map's shape."""
    rows, columns = (2, 3) if layout == "nchw" else (1, 2)
    return int(shape[rows]), int(shape[columns])


def _by(sides: Any) -> str:
    return "x".join(map(str, sides))


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {(node.name or node.output[0])!r}"
