"""The gradient graph of a bundle, with the random weights of its similarity graph. onnx and numpy only, no torch.

The gradient graph (``export.bundling.gradient``) holds the same weights, turned, mirrored, and with the batch
normalisations still apart, which the similarity graph has folded into its weights. Every tensor of more than one float
is traced to the similarity graph. It is one of

- a tensor of it, with axes in another order, mirrored, or regrouped,
- a weight and a batch normalisation, or the slope of one, whose product is a weight of it,
- the slope of a batch normalisation that was traced so,
- a single number throughout.

A weight that folds into a random one takes its values, and the normalisation becomes an identity.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.graphs.compose import NAMESPACE
from export.graphs.linear_head import FLOATS
from export.graphs.parameters import plain, put, stored

Array = NDArray[Any]

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_VIEWS = ("Slice", "Reshape", "Transpose", "Identity")
_SAME = 1e-5  # of the largest value: what folding a normalisation in single precision costs


class Untraced(Exception):  # a reason, which becomes part of the bundle and not of a traceback
    """Why a gradient graph cannot be randomised, as half a sentence for users."""


def randomised_gradient(
    gradient: onnx.ModelProto, network: onnx.ModelProto, randomised: onnx.ModelProto
) -> onnx.ModelProto:
    """A copy of the gradient graph of ``network`` with the weights of ``randomised``, a random copy of ``network``.

    Untraced where a tensor's origin is not found, or not clear.
    """
    copied = plain(gradient)
    tensors = stored(copied)
    given = {value.name for value in copied.graph.input}  # a condition has a value where nobody gives one
    values = {name: value for name, value in _floats(tensors).items() if name not in given}
    old, new = _floats(stored(plain(network))), _floats(stored(randomised))
    groups = [int(one.i) for node in copied.graph.node for one in node.attribute if one.name == "group"]
    trace = Trace(values, [(value, new[name]) for name, value in old.items()], groups)
    _trace_normalisations(trace, copied.graph.node)
    _trace_slopes(trace, copied.graph.node)
    for name in values:
        put(tensors[name], trace.value(name))
    return copied


def _trace_normalisations(trace: Trace, nodes: Sequence[onnx.NodeProto]) -> None:
    makers = {name: node for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type == "BatchNormalization" and trace.values.keys() >= set(node.input[1:]):
            trace.normalisation(node, makers.get(node.input[0]))


def _trace_slopes(trace: Trace, nodes: Sequence[onnx.NodeProto]) -> None:
    """Traces factors in front of layers: exporters fold a normalisation in the forward pass, and not in the backward.

    The layer may look at its weights in another order or shape.
    """
    makers = {name: node for node in nodes for name in node.output}
    layers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        if node.op_type in _LAYERS:
            layers[node.input[0]].append(node)
    for node in nodes:
        for factor in node.input if node.op_type == "Mul" else ():
            for layer in layers.get(node.output[0], ()):
                weight = layer.input[1]
                while (maker := makers.get(weight)) is not None and maker.op_type in _VIEWS:
                    weight = maker.input[0]
                trace.slope(factor, weight)


class Trace:
    """Where the tensors ``values`` of a gradient graph come from, and what becomes of them.

    ``found`` holds what they are now. ``origins`` are the tensors of the similarity graph, as they were and as they are
    now, and ``groups`` the numbers of groups of the gradient graph's convolutions.
    """

    def __init__(self, values: Mapping[str, Array], origins: list[tuple[Array, Array]], groups: Iterable[int]) -> None:
        self.values, self.origins = values, origins
        self.groups = sorted({1, *groups})
        self.contents: dict[tuple[int, ...], list[tuple[Array, Array]]] = defaultdict(list)
        for before, after in origins:
            self.contents[_content(before)].append((before, after))
        self.slopes: list[tuple[Array, Array]] = []
        self.found = {name: value for name, value in values.items() if name.startswith(NAMESPACE)}
        for name in values.keys() - self.found.keys():
            self._rearrangement(name)

    def normalisation(self, node: onnx.NodeProto, layer: onnx.NodeProto | None) -> None:
        """Traces the batch normalisation ``node`` and the weights of ``layer`` in front of it, if those fold into one.

        What was random in the weights becomes the normalisation's identity, and the layer's bias 0.
        """
        scale, shift, mean, variance = node.input[1:5]
        epsilon = next((float(attribute.f) for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        if layer is not None and layer.op_type in _LAYERS:
            slope = self.values[scale] / np.sqrt(self.values[variance].astype(np.float64) + epsilon)
            random = self._fold(layer.input[1], slope)
            if random is not None:
                fresh = {scale: 1.0, shift: 0.0, mean: 0.0, variance: 1.0 - epsilon}
                fresh |= {name: 0.0 for name in layer.input[2:3] if name in self.values}
                for name, value in fresh.items():
                    self.found[name] = np.full(self.values[name].shape, value) if random else self.values[name]
        if {scale, variance} <= self.found.keys():
            before, after = (
                where[scale].astype(np.float64) / np.sqrt(where[variance].astype(np.float64) + epsilon)
                for where in (self.values, self.found)
            )
            self.slopes.append((before, after))

    def slope(self, factor: str, weight: str) -> None:
        """Traces ``factor`` [1,C,1,1] and the ``weight`` behind it, if both fold into one of the similarity graph."""
        if factor in self.values and factor not in self.found:
            value = self.values[factor]
            random = self._fold(weight, value.ravel())
            if random is not None:
                self.found[factor] = np.ones_like(value) if random else value

    def value(self, name: str) -> Array:
        """What the tensor ``name`` is now, which may come from tensors that were traced before; Untraced if unknown."""
        value = self.values[name]
        if name in self.found or self._rearrangement(name):
            return self.found[name]
        near = [after for before, after in self.slopes if _close(value.ravel(), before)]
        if any(not np.allclose(near[0], other, rtol=1e-4) for other in near):
            raise Untraced(f"its tensor {name!r} may come from either of two normalisations")
        if near:
            return near[0].reshape(value.shape)
        if (value == value.flat[0]).all():
            return value
        raise Untraced(f"its tensor {name!r} of shape {list(value.shape)} could not be traced to the similarity graph")

    def _rearrangement(self, name: str) -> bool:
        value = self.values[name]
        results = [
            now
            for before, after in self.contents.get(_content(value), ())
            for was, now in self._rearranged(value.shape, before, after)
            if np.array_equal(was, value)
        ]
        return self._settle(name, results)

    def _fold(self, weight: str, slope: Array) -> bool | None:
        """Traces ``weight``, which times ``slope`` [C] is a weight of the similarity graph; whether that is random."""
        if weight not in self.values or weight in self.found:
            return None
        value, results, random = self.values[weight], list[Array](), False
        for before, after in self.origins:
            for factors in _along(slope, before.shape) if before.size == value.size else ():
                for was, now, factor in self._rearranged(value.shape, before, after, factors):
                    if _close(value[:1] * factor[:1], was[:1]) and _close(value * factor, was):  # the first tells most
                        same = np.array_equal(before, after)
                        results.append(value if same else now)
                        random = random or not same
        if not self._settle(weight, results):
            return None
        self.contents[_content(value)].append((value, self.found[weight]))
        return random

    def _settle(self, name: str, results: list[Array]) -> bool:
        if any(not np.array_equal(results[0], other) for other in results):
            raise Untraced(f"its tensor {name!r} may be either of two of the similarity graph")
        if results:
            self.found[name] = results[0]
        return bool(results)

    def _rearranged(self, shape: tuple[int, ...], *tensors: Array) -> Iterator[tuple[Array, ...]]:
        """``tensors``, all of one shape, as ``shape``: rearranged alike, in every way that gives it."""
        return zip(*(rearrangements(one, shape, self.groups) for one in tensors), strict=True)


def rearrangements(values: Array, shape: tuple[int, ...], groups: Iterable[int]) -> Iterator[Array]:
    """``values`` as ``shape``: regrouped, mirrored, and with its axes in every order that gives it."""
    sides = [side for side in shape if side > 1]
    for count in groups:
        if count > 1 and (values.ndim < 3 or len(values) % count):
            continue
        grouped = _regrouped(values, count) if count > 1 else values
        spatial = tuple(range(2, grouped.ndim))
        mirrors = (grouped, np.flip(grouped, spatial)) if math.prod(grouped.shape[2:]) > 1 else (grouped,)
        for turned in (mirrored.squeeze() for mirrored in mirrors):
            for order in itertools.permutations(range(turned.ndim)):
                if [turned.shape[axis] for axis in order] == sides:
                    yield turned.transpose(order).reshape(shape)


def _regrouped(values: Array, count: int) -> Array:
    """Weights [G*O,I,...] of ``count`` groups G, turned within each of them: [G*I,O,...]."""
    parts = values.reshape(count, len(values) // count, *values.shape[1:]).swapaxes(1, 2)
    return parts.reshape(count * values.shape[1], len(values) // count, *values.shape[2:])


def _along(slope: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """``slope`` [C] spread over ``shape``, along the first axis and along the second, where they have C places."""
    for axis in (0, 1) if len(shape) > 1 else ():
        if shape[axis] == slope.size:
            yield np.broadcast_to(slope.reshape([-1 if one == axis else 1 for one in range(len(shape))]), shape)


def _content(values: Array) -> tuple[int, ...]:
    """Numbers that are the same for the same values in whatever order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return values.size, int(bits.sum()), int((bits * bits).sum())


def _floats(tensors: Mapping[str, TensorProto]) -> dict[str, Array]:
    """The tensors of more than one float, in single precision."""
    return {
        name: numpy_helper.to_array(tensor).astype(np.float32)
        for name, tensor in tensors.items()
        if tensor.data_type in FLOATS and math.prod(tensor.dims) > 1
    }


def _close(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= _SAME * np.abs(other).max())
