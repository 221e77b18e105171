"""Small ONNX networks built by hand, as users' exporters would write them, and what they compute, in numpy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = (12, 16)
D = 5
OLD_IR = 8

Head = Literal["flatten", "pooled", "static_reshape", "static_expand", "feature_map"]


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights of a 3x3 convolution to 4 channels, for RGB, and of a dense layer to D."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.3, 4).astype(np.float32),
        "dense": rng.normal(0, 1, (4, D)).astype(np.float32),
        "shift": rng.normal(0, 0.3, D).astype(np.float32),
    }


def compute(pixels: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Embeddings [B,D] of normalised RGB ``pixels`` [B,3,H,W]: convolution, ReLU, mean, dense. By definition."""
    w = {name: value.astype(np.float64) for name, value in weights(seed).items()}
    padded = np.pad(pixels.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [B,3,H,W,3,3]
    convolved = np.einsum("bcyxij,ocij->boyx", windows, w["kernel"]) + w["bias"][:, None, None]
    return np.asarray(np.maximum(convolved, 0).mean(axis=(2, 3)) @ w["dense"] + w["shift"])


def vectors(rows: int, seed: int, *, unit: bool) -> NDArray[np.float32]:
    """Drawn embeddings [rows, D], of length 1 where ``unit``."""
    drawn = np.random.default_rng(seed).normal(size=(rows, D))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True) if unit else drawn, np.float32)


def network(  # noqa: PLR0913  # each habit of an exporter is a parameter, and most tests name one
    *,
    layout: Literal["nchw", "nhwc"] = "nchw",
    channels: Literal["rgb", "bgr"] = "rgb",
    head: Head = "flatten",
    batch: int | str = "batch",
    size: tuple[int | str, int | str] = SIZE,
    half: bool = False,
    opset: int = 17,
    names: tuple[str, str] = ("input", "output"),
    seed: int = 0,
) -> onnx.ModelProto:
    """The network of :func:`compute` as an ONNX file of the given habits.

    head: "flatten" ends in [B,D]; "pooled" in [B,D,1,1]; "static_reshape" and "static_expand" have the batch size
    written into the graph, the first in a way that can be undone; "feature_map" ends before the mean.
    """
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    w = weights(seed)
    if channels == "bgr":
        w["kernel"] = np.ascontiguousarray(w["kernel"][:, ::-1])
    w["dense4d"] = np.ascontiguousarray(w["dense"].T[:, :, None, None])
    stored = {name: value.astype(dtype) for name, value in w.items()}
    source, target = names
    nodes = [helper.make_node("Transpose", [source], ["planes"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []
    nodes += [
        helper.make_node("Conv", ["planes" if nodes else source, "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], [target if head == "feature_map" else "positive"]),
    ]
    integers: dict[str, list[int]] = {}
    if head != "feature_map":
        nodes.append(helper.make_node("GlobalAveragePool", ["positive"], ["mean"]))
    if head == "pooled":
        nodes.append(helper.make_node("Conv", ["mean", "dense4d", "shift"], [target]))
    elif head != "feature_map":
        if head == "static_reshape":
            integers["rows"] = [int(batch), -1]
            literal: dict[str, Any] = {"allowzero": 1} if opset >= 14 else {}  # as torch writes it
            nodes.append(helper.make_node("Reshape", ["mean", "rows"], ["flat"], **literal))
        else:
            nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], axis=1))
        nodes.append(
            helper.make_node("Gemm", ["flat", "dense", "shift"], ["gemm" if head == "static_expand" else target])
        )
    if head == "static_expand":  # as a class token of a fixed batch: concatenated, then cut off
        stored["token"] = np.zeros((int(batch), 1), dtype)
        nodes += [
            helper.make_node("Concat", ["gemm", "token"], ["joined"], axis=1),
            helper.make_node("Gather", ["joined", "columns"], [target], axis=1),
        ]
        integers["columns"] = list(range(D))
    height, width = size
    taken = [batch, 3, height, width] if layout == "nchw" else [batch, height, width, 3]
    ends: dict[str, list[int | str]] = {"pooled": [batch, D, 1, 1], "feature_map": [batch, 4, height, width]}
    given = ends.get(head, [batch, D])
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items() if name in used]
    initializers += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()]
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info(source, kind, taken)],
        [helper.make_tensor_value_info(target, kind, given)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OLD_IR)


def attribute_network(
    *, layout: Literal["nchw", "nhwc"] = "nchw", names: int = 3, maps: bool = True, logits: bool = False
) -> onnx.ModelProto:
    """Scores [B,A] as means of activation maps [B,A,h,w] (or [B,h,w,A]) of a 3x3 convolution with stride 2."""
    kernel = np.random.default_rng(7).normal(0, 0.3, (names, 3, 3, 3)).astype(np.float32)
    first = "planes" if layout == "nhwc" else "input"
    nodes = [helper.make_node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []
    nodes += [
        helper.make_node("Conv", [first, "kernel"], ["planes_out"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["planes_out"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"], axis=1),
        helper.make_node("Sigmoid", ["logits"], ["confidences"]),
    ]
    height, width = SIZE[0] // 2, SIZE[1] // 2
    shape: list[int | str] = ["n", names, height, width]
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", ["planes_out"], ["activations"], perm=[0, 2, 3, 1]))
        shape = ["n", height, width, names]
    else:
        nodes.append(helper.make_node("Identity", ["planes_out"], ["activations"]))
    outputs = [helper.make_tensor_value_info("logits" if logits else "confidences", TensorProto.FLOAT, ["n", names])]
    if maps:
        outputs.append(helper.make_tensor_value_info("activations", TensorProto.FLOAT, shape))
    taken: list[int | str] = ["n", 3, *SIZE] if layout == "nchw" else ["n", *SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "attributes",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, taken)],
        outputs,
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=OLD_IR)
