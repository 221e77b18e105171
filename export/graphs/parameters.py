"""What the nodes of a similarity graph take of the tensors that training has made, and what a fresh network has there.

Weights of layers are drawn with the variance 2 / fan_in (He et al. 2015, arXiv 1502.01852, eq. 10). Biases become 0;
normalisations get scale 1, shift 0, mean 0 and variance 1; vectors that are multiplied by (LayerScale) become 1, those
that are added 0; slopes of PReLU 0.25 (section 2.1 there). Exporters fold a batch normalisation into the convolution in
front of it, its scale into the weights and its shift into the bias; such a convolution with He's weights and no bias is
a fresh one with an identity behind it. Tables that are added or joined (positions, class tokens) have no fan-in; they
keep their own standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.graphs import cut
from export.graphs.linear_head import FLOATS
from export.graphs.network_file import all_nodes
from transforms.core.errors import BundleError

_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), (1,)),
    **dict.fromkeys(("Gemm", "MatMul", "Einsum"), (0, 1)),
}
"""The inputs of layers that are weights where they are constant."""
_RESETS: Mapping[str, Mapping[int, float]] = {
    **{kind: {2: 0.0} for kind in ("Conv", "ConvTranspose", "Gemm")},
    "BatchNormalization": {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    **{f"{kind}Normalization": {1: 1.0, 2: 0.0} for kind in ("Layer", "Group", "Instance", "RMS")},
    "PRelu": {1: 0.25},
}
"""What biases, normalisations' parameters and statistics of a fresh layer are, by the input that takes them."""
_VECTORS: Mapping[str, float] = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_INTEGER_LAYERS = frozenset(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"))
_OTHER_LAYERS = frozenset(("RNN", "GRU", "LSTM", "DeformConv"))


@dataclass(frozen=True)
class Use:
    """A stored tensor that a node takes: a weight of a standard deviation, or what is filled with ``reset``."""

    tensor: str
    deviation: float = 0.0
    reset: float | None = None


class Parameters:
    """The trained tensors of a similarity graph that :func:`plain` made, as its nodes take them.

    BundleError where some of its weights are no floats, are not stored, or belong to layers of an unknown kind.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph, self.stored = model, cut.CutGraph(model), stored(model)
        sparse = {one.values.name for one in model.graph.sparse_initializer}
        for node in self.graph.nodes:
            if reason := self._obstacle(node):
                raise BundleError(reason)
            if found := sparse.intersection(node.input):
                raise BundleError(f"tensor {min(found)!r} is sparse: store it densely, whymatch cannot randomise it")

    def uses(self, node: onnx.NodeProto) -> Iterator[Use]:
        """What ``node`` takes of trained tensors of more than one float."""
        for place, name in enumerate(node.input):
            for tensor in self._stored_behind(name):
                if self.stored[tensor].data_type in FLOATS and (use := self._use(node, place, tensor)) is not None:
                    yield use

    def is_layer(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _WEIGHTS and any(use.reset is None for use in self.uses(node))

    def _use(self, node: onnx.NodeProto, place: int, tensor: str) -> Use | None:
        kind, operand, dims = node.op_type, node.input[place], self.stored[tensor].dims
        if place in _WEIGHTS.get(kind, ()):
            if operand != tensor and len(dims) < 2:
                return None  # a factor or a shape that the weights are computed with
            return Use(tensor, math.sqrt(2 / max(fan_in(node, place, self._shape(operand)), 1)))
        if (reset := _RESETS.get(kind, {}).get(place)) is not None:
            return Use(tensor, reset=reset)
        if kind in _VECTORS and sum(side > 1 for side in dims) == 1:
            return Use(tensor, reset=_VECTORS[kind])
        if kind in ("Add", "Concat"):
            values = numpy_helper.to_array(self.stored[tensor]).astype(np.float64)
            if np.isfinite(values).all() and len(np.unique(values)) > 2:  # masks of attention are two numbers
                return Use(tensor, float(values.std()))
        return None

    def _stored_behind(self, name: str) -> list[str]:
        """The stored tensors of more than one number that ``name`` is made of, if the image has no part in it."""
        if not name or name in self.graph.moving:
            return []
        return [one for one in self._behind(name) if one in self.stored and math.prod(self.stored[one].dims) > 1]

    def _behind(self, name: str) -> dict[str, None]:
        """``name`` and all values that it is made of, but for what images are made of and shapes."""
        left, seen = [name], {name: None}
        while left:
            maker = self.graph.makers.get(value := left.pop())
            if value in self.stored or maker is None or maker.op_type in ("Shape", "Size"):
                continue
            fresh = [one for one in maker.input if one and one not in seen and one not in self.graph.moving]
            seen.update(dict.fromkeys(fresh))
            left.extend(fresh)
        return seen

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand that is a stored tensor, or is computed from stored tensors."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        needed = self._behind(name)
        nodes = [node for node in self.graph.nodes if not needed.keys().isdisjoint(node.output)]
        tensors = [tensor for tensor in self.model.graph.initializer if tensor.name in needed]
        graph = helper.make_graph(nodes, "operand", [], [onnx.ValueInfoProto(name=name)], tensors)
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(self.model.opset_import)))
            found: Any = evaluator.run(None, {})
            return tuple(np.shape(found[0]))
        except Exception as error:  # its operators raise every kind
            raise BundleError(
                f"the weights {name!r} are computed within the network, by what whymatch cannot run apart "
                f"({type(error).__name__}): export the network with constants folded"
            ) from None

    def _obstacle(self, node: onnx.NodeProto) -> str | None:
        """Why weights of ``node`` cannot be randomised; None for most nodes."""
        label = f"{node.op_type} {node.name or node.output[0]!r}"
        dequantised = node.op_type == "DequantizeLinear" and node.input[0] not in self.graph.moving
        if dequantised or node.op_type in _INTEGER_LAYERS:
            return (
                f"the network is quantised: {label} has weights of integers with a scale of their own. Randomise a "
                "bundle of the float network that it was made from"
            )
        fused = node.domain == "com.microsoft" and any(self._stored_behind(name) for name in node.input)
        if fused or node.op_type in _OTHER_LAYERS:
            return (
                f"{label} is a layer whose weights whymatch does not know: export the network without ONNX Runtime's "
                "optimisations, and without recurrent or deformable layers"
            )
        for attribute in node.attribute:
            for inner in all_nodes(one for graph in (attribute.g, *attribute.graphs) for one in graph.node):
                if inner.op_type in {*_WEIGHTS, *_INTEGER_LAYERS, *_OTHER_LAYERS}:
                    return (
                        f"{label} has layers within it ({inner.op_type} {inner.name!r}), which whymatch cannot tell "
                        "apart: export the network without control flow"
                    )
        return None


def fan_in(node: onnx.NodeProto, place: int, shape: tuple[int, ...]) -> int:
    """How many products of the operand of ``shape`` at ``place`` of a layer are summed up for one result."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    if node.op_type == "ConvTranspose":  # [C, M / group, ...]: under strides, a result lies under a part of the kernel
        steps: int = math.prod(given.get("strides", ()))
        return shape[0] // int(given.get("group", 1)) * math.prod(shape[2:]) // steps
    if node.op_type == "Einsum":
        taken, _, result = given["equation"].decode().replace(" ", "").partition("->")
        letters = taken.split(",")[place].replace(".", "")
        summed = [letter not in result if result else taken.count(letter) > 1 for letter in letters]
        return math.prod(side for side, own in zip(shape[-len(letters) :], summed, strict=True) if own)
    turned = bool(given.get("transB" if place else "transA", 0))
    return shape[0] if len(shape) == 1 else shape[-2 if (place == 1) != turned else -1]


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` without functions of its own, whose constants are tensors."""
    made = onnx.ModelProto()
    made.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    for node in made.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value_floats":
                values = numpy_helper.from_array(np.array(attribute.floats, np.float32))
                attribute.CopyFrom(helper.make_attribute("value", values))
    return made


def stored(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """The tensors of the outer graph's initializers and Constant nodes, which may be changed in place."""
    constants = {
        node.output[0]: attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    return {**{tensor.name: tensor for tensor in model.graph.initializer}, **constants}


def put(tensor: TensorProto, values: NDArray[Any]) -> None:
    """Changes the values of ``tensor`` in place, in its own type."""
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.astype(kind)), tensor.name))
