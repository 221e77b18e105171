"""Image, mask, fill and noise in front of a traced gradient, and the way back to the mask. onnx and numpy only.

    image uint8 [I,H,W,3] ─► u [I,3,H,W]      both normalised on the grid of ``export.bundling.prefix``
    fill float32 [F,h,w,3] ─► v [F,3,h,w]
    x = v + mask * (u - v) + noise [B,3,H,W] ─► traced core ─► similarity [B], ds/dx [B,3,H,W], embedding [B,D]
    ds/dmask [B,H,W] = sum over channels of ds/dx * (u - v)

A core that takes a condition keeps that input, which nobody need give: it is ones by default, the embedding as it is.

The masked image is computed as in the similarity graph, operation by operation. Noise comes behind the normalisation,
because Mask adds it there (Fong & Vedaldi 2017, arXiv 1704.03296, section 4.3); it does not depend on the mask.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.bundling.prefix import perturb
from export.bundling.preprocessing import Preprocessing
from export.graphs.compose import Pieces, copy_apart, merge, renamed
from export.graphs.network_file import default_opset
from transforms.core.errors import BundleError


def wrap_gradient(core: onnx.ModelProto, *, preprocessing: Preprocessing, size: tuple[int, int]) -> onnx.ModelProto:
    """The gradient graph of a bundle (``transforms.serving.bundle``) around ``core``, which is left as it is.

    ``core`` maps ``x`` [B,3,H,W] and ``reference`` [B,D] to ``similarity`` [B], ``gradient`` [B,3,H,W] and
    ``embedding`` [B,D] (``export.bundling.gradient``), with a third input ``condition`` [1,D] or without; a fixed B
    stays fixed. BundleError for a ``preprocessing`` of another layout: what was traced from torch has channels first.
    """
    if preprocessing.layout != "nchw":
        raise BundleError(f"a traced gradient takes channels first, got layout {preprocessing.layout}")
    inner, names = copy_apart(core)
    x, reference, *condition = (renamed(value, names).name for value in core.graph.input)
    similarity, slope, embedding = (renamed(value, names).name for value in core.graph.output)
    rows = core.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "B"
    dimension = core.graph.input[1].type.tensor_type.shape.dim[1].dim_value
    graph = Pieces(default_opset(core))
    perturbed, delta = perturb(graph, preprocessing, size)
    noise = graph.node("Transpose", ["noise"], "noise_nchw", perm=[0, 3, 1, 2])
    if preprocessing.channels == "bgr":
        order = graph.constant("noise_order", np.array([2, 1, 0], np.int64))
        noise = graph.node("Gather", [noise, order], "noise_bgr", axis=1)
    graph.node("Add", [perturbed, noise], output=x)
    graph.node("Identity", ["reference"], output=reference)
    behind = Pieces(graph.opset)
    moved = behind.node("Mul", [slope, delta], "moved")
    behind.node(
        "ReduceSum", [moved, behind.constant("channels", np.array([1], np.int64))], output="gradient", keepdims=0
    )
    behind.node("Identity", [similarity], output="similarity")
    behind.node("Identity", [embedding], output="embedding")
    # the core's own input is the graph's: an input with an initializer of its name is optional
    ones = np.ones((1, dimension), np.float32)
    graph.constants.extend(numpy_helper.from_array(ones, name) for name in condition)
    height, width = size
    kinds = TensorProto.UINT8, TensorProto.FLOAT
    return merge(
        inner,
        graph,
        behind,
        inputs=[
            helper.make_tensor_value_info("image", kinds[0], ["I", height, width, 3]),
            helper.make_tensor_value_info("mask", kinds[1], [rows, height, width]),
            helper.make_tensor_value_info("fill", kinds[1], ["F", "fill_height", "fill_width", 3]),
            helper.make_tensor_value_info("noise", kinds[1], [1, "noise_height", "noise_width", 3]),
            helper.make_tensor_value_info("reference", kinds[1], [rows, dimension]),
            *(helper.make_tensor_value_info(name, kinds[1], [1, dimension]) for name in condition),
        ],
        outputs=[
            helper.make_tensor_value_info("similarity", kinds[1], [rows]),
            helper.make_tensor_value_info("gradient", kinds[1], [rows, height, width]),
            helper.make_tensor_value_info("embedding", kinds[1], [rows, dimension]),
        ],
    )
