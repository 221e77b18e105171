"""The perturbing prefix: an ONNX graph in front of anybody's embedding network. onnx and numpy only, no torch.

    image uint8 [I,H,W,3] ─ transpose, channel order, (x * scale - mean) / std ─► u [I,3,H,W]
    fill float32 [1,h,w,3] ─ the same ────────────────────────────────────────► v [1,3,h,w]
    mask float32 [M,H,W,1] ─► v + mask * (u - v) [max(I,M),3,H,W] ─► network ─► (L2 norm) ─► embedding float32 [.,D]

All per-pixel work but one multiplication and one addition is done on the one image and the one fill, in the network's
layout, so that masks cost two passes over [M,3,H,W] and nothing else. The normalisation is affine, so perturbing its
result equals perturbing the pixels.

``u`` and ``v`` are rounded to multiples of a power of two, 2^-23 of their range (about 1e-5 of a grey level). On such a
grid ``u - v`` and ``v + (u - v)`` are exact in float32: a mask of ones gives exactly the image whatever the fill, and a
mask of zeros exactly the fill, to the bit. An image therefore has one embedding, with any fill and in any table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.network import default_opset, graphs, image_input, pick_output
from transforms.core.errors import UsageError
from transforms.core.types import Float32, Image

Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]
Activation = Literal["none", "sigmoid", "softmax"]

_NAMESPACE = "whymatch/"
_RESERVED = frozenset(("image", "mask", "fill", "embedding", "scores", "maps"))
_GRID_BITS = 23  # of the 24 of a float32; the spare one absorbs the rounding of the product before it
_TINY = 1e-12  # the smallest length that the L2 norm divides by, as torch's normalize: a zero vector stays zero


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects in front of it: ``(x * scale - mean) / std`` of pixels x in 0 to 255.

    ``mean`` and ``std`` are in the order of ``channels``, the order in which the network takes them (a BGR network's
    mean begins with blue), and apply after ``scale``, which is 1/255 for networks that take 0 to 1.
    """

    layout: Layout = "nchw"
    channels: Channels = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("layout", self.layout, ("nchw", "nhwc")),
            ("channels", self.channels, ("rgb", "bgr")),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}, expected {' or '.join(allowed)}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"scale is {self.scale}, expected a positive number, such as {1 / 255:.8f} for 0 to 1")
        if len(self.mean) != 3 or not np.isfinite(self.mean).all():
            raise UsageError(f"mean is {self.mean}, expected three numbers, one a channel")
        if len(self.std) != 3 or not (np.isfinite(self.std).all() and min(self.std) > 0):
            raise UsageError(f"std is {self.std}, expected three positive numbers, one a channel")

    @property
    def fill_mean(self) -> tuple[float, float, float]:
        """The colour that the network sees as zero: the mean in RGB pixel units, cut to 0 to 255."""
        colour = [min(max(value / self.scale, 0.0), 255.0) for value in self.mean]
        red, green, blue = colour if self.channels == "rgb" else colour[::-1]
        return (red, green, blue)

    def apply(self, images: Image | Float32) -> Float32:
        """What the network is to be fed, float32 in its layout, for ``images`` [I,H,W,3] RGB, 0 to 255.

        Written down as a user's own pipeline would, with no trick of the graph in it: the graph is checked against it.
        """
        pixels = images[..., ::-1] if self.channels == "bgr" else images
        normalised = (pixels * np.float64(self.scale) - np.array(self.mean)) / np.array(self.std)
        ordered = normalised.transpose(0, 3, 1, 2) if self.layout == "nchw" else normalised
        return np.ascontiguousarray(ordered, dtype=np.float32)


def wrap_similarity(
    network: onnx.ModelProto,
    *,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    input: str | None = None,
    output: str | None = None,
    normalise: bool = True,
) -> onnx.ModelProto:
    """The similarity graph of a bundle (``transforms.bundle``) around ``network``, which is left as it is.

    Args:
      network: an embedding network of one image input, float32 or float16, and an output [B,D] or [B,D,1,1].
      preprocessing: what the network expects in front of it.
      size: (H, W) of the input frame.
      input, output: names; None where the network has only one.
      normalise: whether the graph ends in the L2 norm.

    Raises:
      BundleError: the input or output does not exist, is not unique, or has a wrong type.
    """
    merged, names = _copy(network)
    graph = _Pieces(default_opset(network))
    image = _pixels(graph, preprocessing, "image", integer=True)
    fill = _pixels(graph, preprocessing, "fill", integer=False)
    shape = graph.constant("mask_shape", np.array([-1, 1, *size], np.int64))
    mask = graph.node("Reshape", ["mask", shape], "mask_nchw")  # one channel: no data moves
    delta = graph.node("Sub", [image, fill], "delta")
    masked = graph.node("Mul", [mask, delta], "masked")
    perturbed = graph.node("Add", [masked, fill], "perturbed")
    _feed(graph, preprocessing, perturbed, _renamed(image_input(network, input), names))
    behind = _Pieces(graph.opset)
    last = _renamed(pick_output(network, output), names)
    embedding = _flat(behind, last, None if normalise else "embedding")
    if normalise:
        length = behind.reduce_l2(embedding)
        at_least = behind.node("Max", [length, behind.constant("tiny", np.array(_TINY, np.float32))], "length")
        behind.node("Div", [embedding, at_least], output="embedding")
    height, width = size
    return _merge(
        merged,
        graph,
        behind,
        inputs=[
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["I", height, width, 3]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["M", height, width, 1]),
            helper.make_tensor_value_info("fill", TensorProto.FLOAT, [1, "fill_height", "fill_width", 3]),
        ],
        outputs=[helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["max_I_M", "D"])],
    )


def wrap_attributes(
    network: onnx.ModelProto,
    *,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    input: str | None = None,
    scores_output: str,
    maps_output: str,
    activation: Activation = "none",
    maps_layout: Layout = "nchw",
) -> onnx.ModelProto:
    """The attribute graph of a bundle around ``network``: image to scores [I,A] in [0, 1] and maps [I,A,h,w].

    ``activation`` is what turns the network's scores into [0, 1]: "none" where they are already. Maps of a network
    that gives [I,h,w,A] (``maps_layout`` "nhwc") are transposed. Other arguments as for :func:`wrap_similarity`.
    """
    merged, names = _copy(network)
    graph = _Pieces(default_opset(network))
    image = _pixels(graph, preprocessing, "image", integer=True)
    _feed(graph, preprocessing, image, _renamed(image_input(network, input), names))
    behind = _Pieces(graph.opset)
    last = _renamed(pick_output(network, scores_output), names)
    flat = _flat(behind, last, "scores" if activation == "none" else None)
    if activation == "sigmoid":
        behind.node("Sigmoid", [flat], output="scores")
    elif activation == "softmax":
        behind.node("Softmax", [flat], output="scores", axis=1)
    maps = _as_float32(behind, _renamed(pick_output(network, maps_output), names), "maps_float32")
    if maps_layout == "nhwc":
        behind.node("Transpose", [maps], output="maps", perm=[0, 3, 1, 2])
    else:
        behind.node("Identity", [maps], output="maps")
    height, width = size
    return _merge(
        merged,
        graph,
        behind,
        inputs=[helper.make_tensor_value_info("image", TensorProto.UINT8, ["I", height, width, 3])],
        outputs=[
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["I", "A"]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["I", "A", "h", "w"]),
        ],
    )


@dataclass
class _Pieces:
    """Nodes and constants that go in front of or behind a network, in one namespace."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, _NAMESPACE + name))
        return _NAMESPACE + name

    def node(
        self, kind: str, inputs: list[str], name: str | None = None, *, output: str | None = None, **attributes: Any
    ) -> str:
        """Adds a node; its value is called ``output``, or ``name`` in the namespace."""
        value = output or f"{_NAMESPACE}{name}"
        label = f"{_NAMESPACE}{name or output}"
        self.nodes.append(helper.make_node(kind, inputs, [value], name=label, **attributes))
        return value

    def reduce_l2(self, value: str) -> str:
        """The length [B,1] of every row; its axes became an input with opset 18."""
        if self.opset < 18:
            return self.node("ReduceL2", [value], "raw_length", axes=[1], keepdims=1)
        return self.node("ReduceL2", [value, self.constant("rows", np.array([1], np.int64))], "raw_length", keepdims=1)


def _pixels(graph: _Pieces, preprocessing: Preprocessing, source: str, *, integer: bool) -> str:
    """``source`` [.,h,w,3] RGB 0 to 255, normalised, as float32 [.,3,h,w] in the network's channel order, on the grid.

    Always channels first: a mask [M,1,H,W] then multiplies whole planes. Where the network wants channels last, one
    Transpose follows, which ONNX Runtime cancels against the one that such exports begin with.
    """
    step, slope, offset = _grid(preprocessing)
    value = graph.node("Transpose", [source], f"{source}_nchw", perm=[0, 3, 1, 2])
    if preprocessing.channels == "bgr":
        order = graph.constant(f"{source}_bgr_order", np.array([2, 1, 0], np.int64))
        value = graph.node("Gather", [value, order], f"{source}_bgr", axis=1)
    if integer:
        value = graph.node("Cast", [value], f"{source}_float", to=TensorProto.FLOAT)
    for kind, operand in (("Mul", slope), ("Add", offset)):
        name = f"{source}_{kind.lower()}"
        value = graph.node(kind, [value, graph.constant(f"{name}_by", operand)], name)
    value = graph.node("Floor", [value], f"{source}_floor")
    return graph.node("Mul", [value, graph.constant(f"{source}_step", step)], f"{source}_normalised")


def _grid(preprocessing: Preprocessing) -> tuple[Float32, Float32, Float32]:
    """``step, slope, offset`` [1,3,1,1] with normalised x = floor(x * slope + offset) * step; step a power of two."""
    slope = preprocessing.scale / np.array(preprocessing.std)
    offset = -np.array(preprocessing.mean) / np.array(preprocessing.std)
    reach = np.max([255 * slope, np.abs(offset), np.abs(255 * slope + offset)], axis=0)  # of u, v and u - v
    step = np.exp2(np.ceil(np.log2(reach)) - _GRID_BITS)
    step, slope, offset = (
        value.astype(np.float32).reshape(1, 3, 1, 1) for value in (step, slope / step, offset / step + 0.5)
    )
    return step, slope, offset


def _feed(graph: _Pieces, preprocessing: Preprocessing, value: str, entry: onnx.ValueInfoProto) -> None:
    """Ends the prefix: ``value`` [.,3,H,W] becomes the network's input in its layout and precision."""
    if preprocessing.layout == "nhwc":
        value = graph.node("Transpose", [value], "network_nhwc", perm=[0, 2, 3, 1])
    if entry.type.tensor_type.elem_type == TensorProto.FLOAT:
        graph.node("Identity", [value], output=entry.name)
    else:
        graph.node("Cast", [value], output=entry.name, to=entry.type.tensor_type.elem_type)


def _as_float32(behind: _Pieces, value: onnx.ValueInfoProto, name: str) -> str:
    if value.type.tensor_type.elem_type == TensorProto.FLOAT:
        return value.name
    return behind.node("Cast", [value.name], name, to=TensorProto.FLOAT)


def _flat(behind: _Pieces, value: onnx.ValueInfoProto, output: str | None) -> str:
    """[B,D,1,1] as [B,D]; of [B,D] only a view."""
    return behind.node("Flatten", [_as_float32(behind, value, "output_float32")], "flat", output=output, axis=1)


def _merge(
    merged: onnx.ModelProto,
    before: _Pieces,
    behind: _Pieces,
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


def _copy(network: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    """A copy in which no value has a name that the pieces around it use, and the new names of those that had one.

    Value names are unique over nested graphs, so renaming is a plain replacement everywhere. onnx.compose.add_prefix
    is not used: where an inner graph uses an outer graph's initializer, it leaves the old name.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(network)
    found = set(_names(copied.graph))
    prefix = "network/"
    while any(name.startswith(prefix) for name in found):
        prefix = f"_{prefix}"
    names = {name: prefix + name for name in found if name in _RESERVED or name.startswith(_NAMESPACE)}
    if names:
        _rename(copied.graph, names)
    return copied, names


def _renamed(value: onnx.ValueInfoProto, names: Mapping[str, str]) -> onnx.ValueInfoProto:
    return helper.make_value_info(names.get(value.name, value.name), value.type)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values of ``graph`` and of the graphs inside of its nodes."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            yield value.name
        for sparse in inner.sparse_initializer:
            yield sparse.values.name
        for node in inner.node:
            yield from (name for name in (*node.input, *node.output) if name)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = names.get(value.name, value.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
