"""Networks put together of nodes for tests, the bundles around them, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bundling import prefix
from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import OLD_IR, SIZE, D, weights
from transforms.core.imaging.images import Resize
from transforms.serving import bundle
from transforms.serving.similarity_model import SimilarityModel

H, W = SIZE
Array = NDArray[Any]
node = helper.make_node


def noise(*shape: int, seed: int = 0, kind: Any = np.float32) -> Array:
    return np.random.default_rng([seed, *shape]).normal(0, 0.3, shape).astype(kind)


def assembled(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Array],
    *,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A network from "x" [n,3,12,16] to "y" [n,D]."""
    graph = helper.make_graph(
        list(nodes),
        "assembled",
        [helper.make_tensor_value_info("x", kind, ["n", 3, H, W])],
        [helper.make_tensor_value_info("y", kind, ["n", "D"])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=OLD_IR, functions=list(functions))


def served(model: onnx.ModelProto, **how: Any) -> onnx.ModelProto:
    """The similarity graph of a bundle around ``model``."""
    return prefix.wrap_similarity(model, preprocessing=PREPROCESSING, size=SIZE, **how)


def head(source: str, channels: int) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Mean over positions and a dense layer to D; transposed, as torch writes it."""
    nodes = [
        node("GlobalAveragePool", [source], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    return nodes, {"head.weight": noise(D, channels), "head.bias": noise(D)}


def with_trunk(
    nodes: list[onnx.NodeProto], tensors: dict[str, Array], channels: int = 4, **how: Any
) -> onnx.ModelProto:
    """A 3x3 convolution "stem" with ReLU from "x" to "stem" [n,4,12,16], ``nodes`` from there to "trunk", the head."""
    stem = [node("Conv", ["x", "stem.weight"], ["raw"], name="stem", pads=[1] * 4), node("Relu", ["raw"], ["stem"])]
    behind, own = head("trunk", channels)
    kind = next(iter(tensors.values())).dtype if tensors else np.dtype(np.float32)
    every = {"stem.weight": noise(4, 3, 3, 3, seed=1), **own}
    return assembled(
        [*stem, *nodes, *behind], {**{name: value.astype(kind) for name, value in every.items()}, **tensors}, **how
    )


def values(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    old, new = values(before), values(after)
    assert list(old) == list(new)
    return {name for name in old if not np.array_equal(old[name], new[name])}


def embeddings(folder: Path, seed: int = 3, rows: int = 4) -> Array:
    """What the bundle in ``folder``, read and verified as a worker does, makes of images of noise."""
    described = bundle.read(str(folder))
    height, width = described.resize.size
    images = np.random.default_rng(seed).integers(0, 256, (rows, height, width, 3), dtype=np.uint8)
    return SimilarityModel(described, folder, "cpu", 1, rows).embed(images)


def bundled(folder: Path, model: onnx.ModelProto, **how: Any) -> Path:
    build(folder, BundleSpec(SimilarityGraph(model, PREPROCESSING), Resize(SIZE, "squash"), **how))
    return folder


def ending(nodes: list[onnx.NodeProto], last: str, *, opset: int = 17, **stored: Any) -> onnx.ModelProto:
    """Convolution and ReLU to "positive" [B,4,H,W], then ``nodes`` to the value ``last``, with constants ``stored``."""
    w = {**weights(), **stored}
    first = [
        node("Conv", ["input", "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        node("Relu", ["convolved"], ["positive"], name="last_relu"),
    ]
    nodes = [*first, *nodes, node("Identity", [last], ["output"])]
    used = {name for one in nodes for name in one.input}
    arrays = {
        name: np.asarray(array, np.float32 if np.asarray(array).dtype.kind == "f" else np.int64)
        for name, array in w.items()
    }
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, H, W])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OLD_IR)
