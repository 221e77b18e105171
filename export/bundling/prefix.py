"""The perturbing prefix: an ONNX graph in front of anybody's embedding network. onnx and numpy only, no torch.

    image uint8 [I,H,W,3] ─ transpose, channel order, (x * scale - mean) / std ─► u [I,3,H,W]
    fill float32 [1,h,w,3] ─ the same ────────────────────────────────────────► v [1,3,h,w]
    mask float32 [M,H,W,1] ─► v + mask * (u - v) [max(I,M),3,H,W] ─► network ─► (L2 norm) ─► embedding float32 [.,D]

All per-pixel work but one multiplication and one addition is done on the one image and the one fill, in the network's
layout, so that masks cost two passes over [M,3,H,W] and nothing else. The normalisation is affine, so perturbing its
result equals perturbing the pixels. The last feature map may be a second output (``export.graphs.linear_head``); it is
the network's own value, and passes that do not ask for it cost the same within 2 % (EfficientNet-Lite0, 112 px, batch
16).

``u`` and ``v`` are rounded to multiples of a power of two, 2^-23 of their range (about 5e-5 of a grey level). On such a
grid ``u - v`` and ``v + (u - v)`` are exact in float32: a mask of ones gives exactly the image whatever the fill, and a
mask of zeros exactly the fill, to the bit. An image therefore has one embedding, with any fill and in any table.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.bundling.preprocessing import Preprocessing
from export.graphs.compose import Pieces, copy_apart, merge, rename, renamed
from export.graphs.network_file import Layout, default_opset, image_input, pick_output
from transforms.core.records import Float32

Activation = Literal["none", "sigmoid", "softmax"]

_GRID_BITS = 23  # of the 24 of a float32; the spare one absorbs the rounding of the product before it
_TINY = 1e-12  # the smallest length that the L2 norm divides by, as torch's normalize: a zero vector stays zero


def wrap_similarity(
    network: onnx.ModelProto,
    *,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    input: str | None = None,
    output: str | None = None,
    normalise: bool = True,
    features: onnx.ValueInfoProto | None = None,
) -> onnx.ModelProto:
    """The similarity graph of a bundle (``transforms.serving.bundle``) around ``network``, which is left as it is.

    Args:
      network: an embedding network of one image input, float32 or float16, and an output [B,D] or [B,D,1,1].
      preprocessing: what the network expects in front of it.
      size: (H, W) of the input frame.
      input, output: names; None where the network has only one.
      normalise: whether the graph ends in the L2 norm.
      features: a value of the network, of shape [B,...], that is to be the second output "features". It is given as it
        is, in the network's layout and precision: its name is changed, and nothing is computed or copied for it.

    Raises:
      BundleError: the input or output does not exist, is not unique, or has a wrong type.
    """
    merged, names = copy_apart(network)
    graph = Pieces(default_opset(network))
    perturbed, _ = perturb(graph, preprocessing, size)
    _feed(graph, preprocessing, perturbed, renamed(image_input(network, input), names))
    behind = Pieces(graph.opset)
    last = renamed(pick_output(network, output), names)
    embedding = _flat(behind, last, None if normalise else "embedding")
    if normalise:
        length = behind.reduce_l2(embedding)
        at_least = behind.node("Max", [length, behind.constant("tiny", np.array(_TINY, np.float32))], "length")
        behind.node("Div", [embedding, at_least], output="embedding")
    height, width = size
    wrapped = merge(
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
    if features is not None:
        _expose(wrapped, renamed(features, names), "features")
    return wrapped


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
    merged, names = copy_apart(network)
    graph = Pieces(default_opset(network))
    image = _pixels(graph, preprocessing, "image", integer=True)
    _feed(graph, preprocessing, image, renamed(image_input(network, input), names))
    behind = Pieces(graph.opset)
    last = renamed(pick_output(network, scores_output), names)
    flat = _flat(behind, last, "scores" if activation == "none" else None)
    if activation == "sigmoid":
        behind.node("Sigmoid", [flat], output="scores")
    elif activation == "softmax":
        behind.node("Softmax", [flat], output="scores", axis=1)
    maps = _as_float32(behind, renamed(pick_output(network, maps_output), names), "maps_float32")
    if maps_layout == "nhwc":
        behind.node("Transpose", [maps], output="maps", perm=[0, 3, 1, 2])
    else:
        behind.node("Identity", [maps], output="maps")
    height, width = size
    return merge(
        merged,
        graph,
        behind,
        inputs=[helper.make_tensor_value_info("image", TensorProto.UINT8, ["I", height, width, 3])],
        outputs=[
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["I", "A"]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["I", "A", "h", "w"]),
        ],
    )


def perturb(graph: Pieces, preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[str, str]:
    """The normalised image under the mask, v + mask * (u - v) [.,3,H,W], and the difference u - v by itself."""
    image = _pixels(graph, preprocessing, "image", integer=True)
    fill = _pixels(graph, preprocessing, "fill", integer=False)
    shape = graph.constant("mask_shape", np.array([-1, 1, *size], np.int64))
    mask = graph.node("Reshape", ["mask", shape], "mask_nchw")  # one channel: no data moves
    delta = graph.node("Sub", [image, fill], "delta")
    masked = graph.node("Mul", [mask, delta], "masked")
    return graph.node("Add", [masked, fill], "perturbed"), delta


def _expose(wrapped: onnx.ModelProto, value: onnx.ValueInfoProto, name: str) -> None:
    """Makes ``value`` of ``wrapped`` a further output, called ``name``."""
    rename(wrapped.graph, {value.name: name})
    kept = [other for other in wrapped.graph.value_info if other.name != name]  # an output says it again
    del wrapped.graph.value_info[:]
    wrapped.graph.value_info.extend(kept)
    exposed = helper.make_value_info(name, value.type)
    exposed.type.tensor_type.shape.dim[0].dim_param = "max_I_M"
    wrapped.graph.output.append(exposed)


def _pixels(graph: Pieces, preprocessing: Preprocessing, source: str, *, integer: bool) -> str:
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


def _feed(graph: Pieces, preprocessing: Preprocessing, value: str, entry: onnx.ValueInfoProto) -> None:
    """Ends the prefix: ``value`` [.,3,H,W] becomes the network's input in its layout and precision."""
    if preprocessing.layout == "nhwc":
        value = graph.node("Transpose", [value], "network_nhwc", perm=[0, 2, 3, 1])
    if entry.type.tensor_type.elem_type == TensorProto.FLOAT:
        graph.node("Identity", [value], output=entry.name)
    else:
        graph.node("Cast", [value], output=entry.name, to=entry.type.tensor_type.elem_type)


def _as_float32(behind: Pieces, value: onnx.ValueInfoProto, name: str) -> str:
    if value.type.tensor_type.elem_type == TensorProto.FLOAT:
        return value.name
    return behind.node("Cast", [value.name], name, to=TensorProto.FLOAT)


def _flat(behind: Pieces, value: onnx.ValueInfoProto, output: str | None) -> str:
    """[B,D,1,1] as [B,D]; of [B,D] only a view."""
    return behind.node("Flatten", [_as_float32(behind, value, "output_float32")], "flat", output=output, axis=1)
