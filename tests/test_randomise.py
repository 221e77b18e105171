"""Networks with random weights from the top down: what is drawn, how, what stays, and that the bundles are bundles."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from export import prefix, randomise
from export.build import build
from export.gradient import trace_to_onnx
from export.onnx import to_onnx
from export.preprocessing import Preprocessing
from export.randomise import Block, Stage, blocks, cascade, randomised
from tests.bundles import PREPROCESSING, small_bundle
from tests.networks import OLD_IR, SIZE, D, network
from transforms import bundle
from transforms.core.errors import BundleError, UsageError
from transforms.core.images import Resize
from transforms.runtime import SimilarityModel, session

DEMO = Path(__file__).parents[1] / "pipeline" / "demo" / "bundles"
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
    build(folder, similarity=model, similarity_preprocessing=PREPROCESSING, resize=Resize(SIZE, "squash"), **how)
    return folder


# What a block is


def test_blocks_of_a_convolution_and_a_dense_layer() -> None:
    top, bottom = blocks(served(network()))
    assert top.weights == ("dense",)
    assert top.deviations == pytest.approx((math.sqrt(2 / 4),))
    assert top.resets == (("shift", 0.0),)
    assert top.parameters == 4 * D + D
    assert bottom.weights == ("kernel",)
    assert bottom.deviations == pytest.approx((math.sqrt(2 / 27),))
    assert bottom.resets == (("bias", 0.0),)
    assert bottom.parameters == 4 * 27 + 4


def test_the_layers_within_a_residual_connection_are_one_block() -> None:
    nodes = [
        node("Conv", ["stem", "layer.0.weight"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "layer.1.weight", "layer.1.bias"], ["c"], pads=[1] * 4),
        node("Add", ["c", "stem"], ["trunk"]),
    ]
    tensors = {
        "layer.0.weight": noise(4, 4, 3, 3),
        "layer.1.weight": noise(4, 4, 3, 3, seed=2),
        "layer.1.bias": noise(4),
    }
    made = blocks(served(with_trunk(nodes, tensors)))
    assert [block.name for block in made] == ["head", "layer.1", "stem"]
    assert made[1].weights == ("layer.0.weight", "layer.1.weight")
    assert made[1].resets == (("layer.1.bias", 0.0),)


def test_names_are_scopes_or_nodes_and_no_two_are_the_same() -> None:
    nodes = [
        node("Conv", ["stem", "onnx::Conv_7"], ["a"], name="/body/conv/Conv"),
        node("Conv", ["a", "same.weight_v"], ["b"]),
        node("Conv", ["b", "same.weight_g"], ["c"]),
        node("Conv", ["c", "bare"], ["trunk"]),
    ]
    tensors = {
        name: noise(4, 4, 1, 1, seed=at)
        for at, name in enumerate(("onnx::Conv_7", "same.weight_v", "same.weight_g", "bare"))
    }
    made = blocks(served(with_trunk(nodes, tensors)))
    assert [block.name for block in made] == ["head", "bare", "same", "same#2", "body/conv/Conv", "stem"]


def test_a_weight_of_two_layers_is_drawn_once_and_belongs_to_the_upper_one() -> None:
    nodes = [
        node("Conv", ["stem", "tied.weight", "lower.bias"], ["a"]),
        node("Conv", ["a", "other.weight"], ["b"]),
        node("Conv", ["b", "tied.weight"], ["trunk"]),
    ]
    tensors = {"tied.weight": noise(4, 4, 1, 1), "other.weight": noise(4, 4, 1, 1, seed=1), "lower.bias": noise(4)}
    made = blocks(served(with_trunk(nodes, tensors)))
    assert [block.weights for block in made] == [
        ("head.weight",),
        ("tied.weight",),
        ("other.weight",),
        ("stem.weight",),
    ]
    assert made[3].resets == (("lower.bias", 0.0),)  # a block without weights of its own is part of the one below


# How weights are drawn


@pytest.mark.parametrize(
    ("made", "place", "shape", "other"),
    [
        (node("Conv", ["x", "w"], ["y"]), 1, (6, 4, 3, 2), (1, 4, 7, 8)),
        (node("Conv", ["x", "w"], ["y"], group=6), 1, (6, 1, 3, 5), (1, 6, 7, 8)),
        (node("Conv", ["x", "w"], ["y"], group=2), 1, (6, 3, 1, 2), (1, 6, 7, 8)),
        (node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 3]), 1, (4, 5, 2, 3), (1, 4, 7, 8)),
        (node("ConvTranspose", ["x", "w"], ["y"], group=2), 1, (4, 5, 2, 3), (1, 4, 7, 8)),
        (node("Gemm", ["x", "w"], ["y"]), 1, (6, 4), (2, 6)),
        (node("Gemm", ["x", "w"], ["y"], transB=1), 1, (6, 4), (2, 4)),
        (node("Gemm", ["w", "x"], ["y"]), 0, (6, 4), (4, 3)),
        (node("Gemm", ["w", "x"], ["y"], transA=1), 0, (6, 4), (6, 3)),
        (node("MatMul", ["x", "w"], ["y"]), 1, (6, 4), (2, 3, 6)),
        (node("MatMul", ["x", "w"], ["y"]), 1, (2, 6, 4), (2, 3, 6)),
        (node("MatMul", ["x", "w"], ["y"]), 1, (6,), (2, 6)),
        (node("MatMul", ["w", "x"], ["y"]), 0, (6, 4), (2, 4, 3)),
        (node("Einsum", ["x", "w"], ["y"], equation="btc, chd -> bthd"), 1, (5, 2, 3), (1, 4, 5)),
        (node("Einsum", ["x", "w"], ["y"], equation="bthd,hdc->btc"), 1, (2, 3, 4), (1, 4, 2, 3)),
    ],
)
def test_fan_in_is_how_many_ones_a_result_sums_up(
    made: onnx.NodeProto, place: int, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    graph = helper.make_graph(
        [made],
        "ones",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=OLD_IR)
    ones = {"x": np.ones(other, np.float32), "w": np.ones(shape, np.float32)}
    found = session(model.SerializeToString()).run(None, ones)
    assert randomise._fan_in(made, place, shape) == found[0].max()


def test_draws_have_the_deviation_of_he_and_depend_on_seed_name_and_shape_alone() -> None:
    nodes = [node("Conv", ["stem", "wide.weight"], ["trunk"])]
    graph = served(with_trunk(nodes, {"wide.weight": noise(500, 4, 1, 1)}, channels=500))
    made = blocks(graph)
    drawn = values(randomised(graph, made, 5))
    for name, fan_in in (("head.weight", 500), ("wide.weight", 4)):
        assert drawn[name].std() == pytest.approx(math.sqrt(2 / fan_in), rel=0.06)
        assert abs(drawn[name].mean()) < 4 * math.sqrt(2 / fan_in / drawn[name].size)
    for block in made:
        alone = randomised(graph, [block], 5)
        assert changed(graph, alone) == {*block.weights, *(name for name, _ in block.resets)}
        assert all(np.array_equal(values(alone)[name], drawn[name]) for name in block.weights)
    again, other = randomised(graph, made, 5), values(randomised(graph, made, 6))
    assert not changed(randomised(graph, made, 5), again)
    assert not np.isclose(other["head.weight"], drawn["head.weight"]).any()


def test_layers_of_one_shape_are_drawn_apart() -> None:
    nodes = [node("Conv", ["stem", "a.weight"], ["a"]), node("Conv", ["a", "b.weight"], ["trunk"])]
    graph = served(with_trunk(nodes, {"a.weight": noise(4, 4, 1, 1), "b.weight": noise(4, 4, 1, 1)}))
    drawn = values(randomised(graph, blocks(graph), 0))
    assert not np.isclose(drawn["a.weight"], drawn["b.weight"]).any()


def test_normalisations_biases_and_factors_are_those_of_a_fresh_network() -> None:
    nodes = [
        node("Conv", ["stem", "conv.weight"], ["a"]),
        node("BatchNormalization", ["a", "bn.scale", "bn.shift", "bn.mean", "bn.var"], ["b"]),
        node("PRelu", ["b", "slope"], ["c"]),
        node("Mul", ["c", "layer_scale"], ["d"]),
        node("Add", ["shift", "d"], ["e"]),
        node("Mul", ["e", "temperature"], ["f"]),
        node("InstanceNormalization", ["f", "in.scale", "in.shift"], ["trunk"]),
    ]
    behind, own = head("trunk", 4)
    tensors = {
        "stem.weight": noise(4, 3, 3, 3),
        "conv.weight": noise(4, 4, 1, 1),
        **{name: noise(4) for name in ("bn.scale", "bn.shift", "bn.mean", "in.scale", "in.shift")},
        "bn.var": np.abs(noise(4)) + 1,
        **{name: noise(4, 1, 1) for name in ("slope", "layer_scale", "shift")},
        "temperature": np.array([3.0], np.float32),
        **own,
        "neck": noise(D),
    }
    behind[-1].output[0] = "z"
    last = [
        node("Conv", ["x", "stem.weight"], ["stem"], pads=[1] * 4),
        *nodes,
        *behind,
        node("Add", ["z", "neck"], ["y"]),
    ]
    graph = served(assembled(last, tensors))
    made = blocks(graph)
    fresh = {**dict.fromkeys(("bn.scale", "bn.var", "layer_scale", "in.scale"), 1.0), "slope": 0.25}
    fresh |= dict.fromkeys(("bn.shift", "bn.mean", "shift", "in.shift"), 0.0)
    assert dict(made[1].resets) == fresh
    assert dict(made[0].resets) == {"head.bias": 0.0, "neck": 0.0}
    after = randomised(graph, made, 0)
    assert changed(graph, after) == {*fresh, "conv.weight", "stem.weight", "head.weight", "head.bias", "neck"}
    assert all((values(after)[name] == value).all() for name, value in fresh.items())
    onnx.checker.check_model(after, full_check=True)


def test_tokens_positions_and_norms_of_a_transformer() -> None:
    tokens = H * W
    nodes = [
        node("Conv", ["x", "patch.weight"], ["planes"], pads=[1] * 4),
        node("Reshape", ["planes", "flatten"], ["sequence"]),
        node("Transpose", ["sequence"], ["rows"], perm=[0, 2, 1]),
        node("Shape", ["rows"], ["all"]),
        node("Slice", ["all", "zero", "one"], ["batch"]),
        node("Concat", ["batch", "token_shape"], ["wanted"], axis=0),
        node("Expand", ["class.token", "wanted"], ["spread"]),
        node("Concat", ["spread", "rows"], ["joined"], axis=1),
        node("Add", ["joined", "positions"], ["placed"]),
        node("LayerNormalization", ["placed", "norm.weight", "norm.bias"], ["normed"]),
        node("MatMul", ["normed", "val_1"], ["mixed"]),
        node("Add", ["mixed", "mlp.bias"], ["shifted"]),
        node("Add", ["shifted", "mask"], ["masked"]),
        node("Gather", ["masked", "first"], ["token"], axis=1),
        node("Gemm", ["token", "head.weight"], ["y"], transB=1),
    ]
    mask = np.zeros((1, tokens + 1, 4), np.float32)
    mask[:, ::2] = -100
    floats = {
        "patch.weight": noise(4, 3, 3, 3),
        "class.token": noise(1, 1, 4),
        "positions": noise(1, tokens + 1, 4),
        **{name: noise(4) for name in ("norm.weight", "norm.bias", "mlp.bias")},
        "val_1": noise(4, 4),
        "mask": mask,
        "head.weight": noise(D, 4),
    }
    integers = {"flatten": [0, 4, -1], "zero": [0], "one": [1], "token_shape": [1, 4]}
    whole = {name: np.array(value, np.int64) for name, value in integers.items()} | {"first": np.array(0, np.int64)}
    graph = served(assembled(nodes, {**floats, **whole}))
    made = blocks(graph)
    assert [block.weights for block in made] == [
        ("head.weight",),
        ("val_1",),
        ("positions",),
        ("class.token",),
        ("patch.weight",),
    ]
    assert made[1].name == "mlp"  # the exporter kept no name of the weight, but that of the bias behind it
    assert dict(made[1].resets) == {"mlp.bias": 0.0}
    assert dict(made[2].resets) == {"norm.weight": 1.0, "norm.bias": 0.0}
    assert made[2].deviations == pytest.approx((float(floats["positions"].std()),), rel=1e-5)
    assert "mask" not in changed(graph, randomised(graph, made, 0))


def test_what_stands_in_front_of_the_first_layer_stays() -> None:
    behind, own = head("trunk", 4)
    nodes = [
        node("Sub", ["x", "own_mean"], ["a"]),
        node("Div", ["a", "own_std"], ["b"]),
        node("Gather", ["b", "swap"], ["c"], axis=1),
        node("Sub", ["c", "mean_image"], ["d"]),
        node("Conv", ["d", "stem.weight", "stem.bias"], ["trunk"], pads=[1] * 4),
        *behind,
    ]
    before = {"own_mean": noise(1, 3, 1, 1), "own_std": noise(1, 3, 1, 1) + 2, "mean_image": noise(3, H, W)}
    tensors = {**before, "swap": np.array([2, 1, 0]), "stem.weight": noise(4, 3, 3, 3), "stem.bias": noise(4), **own}
    graph = served(assembled(nodes, tensors))
    after = randomised(graph, blocks(graph), 0)
    assert changed(graph, after) == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert any(name.startswith("whymatch/") for name in values(graph))  # the bundle's own prefix is among what stayed


def test_weights_in_constant_nodes_behind_views_and_within_functions() -> None:
    constant = node("Constant", [], ["stored"], value=numpy_helper.from_array(noise(4, 4, 1, 1), "any"))
    vector = node("Constant", [], ["vector"], value_floats=[0.5, 1.5, 2.5, 3.5])
    own = helper.make_function(
        "own", "Turned", ["t", "w"], ["r"], [node("MatMul", ["t", "w"], ["r"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        constant,
        vector,
        node("Identity", ["stored"], ["same"]),
        node("Conv", ["stem", "same", "vector"], ["a"]),
        node("GlobalAveragePool", ["a"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        node("Transpose", ["single"], ["turned"], perm=[1, 0]),
        node("Turned", ["flat", "turned"], ["y"], domain="own"),
    ]
    stem = [node("Conv", ["x", "stem.weight"], ["stem"], pads=[1] * 4)]
    tensors = {"stem.weight": noise(4, 3, 3, 3), "half": noise(D, 4, kind=np.float16)}
    graph = served(assembled([*stem, *nodes], tensors, functions=[own]))
    top, middle, _ = blocks(graph)
    assert top.weights == ("half",)
    assert top.deviations == pytest.approx((math.sqrt(2 / 4),))  # of the transposed operand [4, D], not of [D, 4]
    assert middle.weights == ("stored",)
    assert middle.resets == (("vector", 0.0),)
    after = randomised(graph, [top, middle], 0)
    assert values(after)["half"].dtype == np.float16
    assert changed(graph, after) == {"half"}
    stored = {made.output[0]: made.attribute[0].t for made in after.graph.node if made.op_type == "Constant"}
    assert not np.isclose(numpy_helper.to_array(stored["stored"]), noise(4, 4, 1, 1)).any()
    assert not numpy_helper.to_array(stored["vector"]).any()
    session(after.SerializeToString())


def test_bfloat16_stays_bfloat16() -> None:
    graph = served(network())
    kernel = next(tensor for tensor in graph.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(helper.make_tensor("kernel", TensorProto.BFLOAT16, [4, 3, 3, 3], noise(108).tolist()))
    after = next(t for t in randomised(graph, blocks(graph), 0).graph.initializer if t.name == "kernel")
    assert after.data_type == TensorProto.BFLOAT16
    assert numpy_helper.to_array(after).astype(np.float32).std() == pytest.approx(math.sqrt(2 / 27), rel=0.3)


# The cascade


@given(st.integers(2, 60), st.integers(3, 70))
def test_stages_are_spread_over_the_depth_with_both_ends_and_the_half(count: int, stages: int) -> None:
    found = randomise._depths(count, stages)
    assert found == sorted(set(found))
    assert len(found) == min(count, stages)
    assert {found[0], found[-1]} == {1, count}
    assert min(depth for depth in range(1, count + 1) if depth / count >= 0.5) in found
    assert randomise._depths(count, None) == list(range(1, count + 1))


def test_four_stages_of_thirty_two_blocks() -> None:
    assert randomise._depths(32, 4) == [1, 16, 22, 32]  # 11 and 22 are the thirds; 11 is nearest to the half


def test_the_bundles_of_a_cascade_nest_load_and_give_other_embeddings(tmp_path: Path) -> None:
    original = small_bundle(tmp_path / "made")
    stages = cascade(tmp_path / "made", tmp_path / "out", stages=None, seed=4)
    assert [(stage.block, stage.depth) for stage in stages] == [("dense", 0.5), ("kernel", 1.0)]
    graphs = [onnx.load(folder / "similarity.onnx") for folder in (tmp_path / "made", *(s.folder for s in stages))]
    assert changed(graphs[0], graphs[1]) == {"dense", "shift"}
    assert changed(graphs[1], graphs[2]) == {"kernel", "bias"}
    rows = [embeddings(folder) for folder in (tmp_path / "made", *(stage.folder for stage in stages))]
    models = {original.model_id}
    for stage, found in zip(stages, rows[1:], strict=True):
        (tmp_path / stage.folder.name).mkdir()
        fetched = bundle.fetch(str(stage.folder), tmp_path / stage.folder.name)  # verifies every sha256
        models.add(fetched.model_id)
        assert fetched.training["randomised"]["of"] == original.model_id
        assert (fetched.attributes, fetched.vocabulary, fetched.missing) == (None, (), original.missing)
        assert (fetched.resize, fetched.fill_mean) == (original.resize, original.fill_mean)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        onnx.checker.check_model(onnx.load(stage.folder / "similarity.onnx"), full_check=True)
    assert len(models) == 3
    assert np.abs(rows[0] - rows[1]).max() > 0.05
    assert np.abs(rows[1] - rows[2]).max() > 0.05
    again = cascade(tmp_path / "made", tmp_path / "again", stages=3, seed=4)
    assert [bundle.read(str(stage.folder)).model_id for stage in again] == [
        bundle.read(str(stage.folder)).model_id for stage in stages
    ]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), [True, False]),
        (("Gemm",), [True, True, False]),
        (("Gemm", "Relu"), [True, False, False]),
        (("Softmax",), [False, False]),
    ],
)
def test_a_stage_is_head_only_while_what_is_random_is_linear(
    tmp_path: Path, layers: tuple[str, ...], expected: list[bool]
) -> None:
    nodes, tensors = head("stem", 4)
    value, channels = "flat", 4
    between = []
    for at, kind in enumerate(layers):
        if kind == "Gemm":
            between.append(node("Gemm", [value, "between.weight"], [f"v{at}"]))
            tensors |= {"between.weight": noise(4, 6), "head.weight": noise(D, 6)}
            channels = 6
        elif kind == "Relu":
            between.append(node("Relu", [value], [f"v{at}"]))
        value = f"v{at}" if kind != "Softmax" else value
    assert tensors["head.weight"].shape == (D, channels)
    nodes[-1].input[0] = value
    behind = []
    if "Softmax" in layers:
        nodes[-1].output[0] = "z"
        behind = [node("Softmax", ["z"], ["y"], axis=1)]
    stem = node("Conv", ["x", "stem.weight"], ["raw"], pads=[1] * 4)
    model = assembled(
        [stem, node("Relu", ["raw"], ["stem"]), *nodes[:2], *between, nodes[-1], *behind],
        {"stem.weight": noise(4, 3, 3, 3), **tensors},
    )
    stages = cascade(bundled(tmp_path / "made", model), tmp_path / "out", stages=None, seed=0)
    assert [stage.head_only for stage in stages] == expected


@pytest.mark.parametrize(("pool", "expected"), [("GlobalAveragePool", True), ("GlobalMaxPool", False)])
def test_a_linear_layer_in_front_of_an_average_is_a_head(tmp_path: Path, pool: str, expected: bool) -> None:
    nodes = [
        node("Conv", ["x", "stem.weight"], ["raw"], pads=[1] * 4),
        node("Relu", ["raw"], ["stem"]),
        node("Conv", ["stem", "last.weight"], ["map"]),
        node(pool, ["map"], ["mean"]),
        node("Flatten", ["mean"], ["y"]),
    ]
    model = assembled(nodes, {"stem.weight": noise(4, 3, 3, 3), "last.weight": noise(D, 4, 1, 1)})
    stages = cascade(bundled(tmp_path / "made", model), tmp_path / "out", stages=None, seed=0)
    assert [stage.head_only for stage in stages] == [expected, False]


def test_the_projection_is_that_of_the_random_network(tmp_path: Path) -> None:
    small_bundle(tmp_path / "made", attributes=False)
    assert bundle.read(str(tmp_path / "made")).projection is not None
    for stage in cascade(tmp_path / "made", tmp_path / "out", stages=None, seed=1):
        check_projection(stage)


def check_projection(stage: Stage) -> None:
    described = bundle.read(str(stage.folder))
    assert described.projection is not None
    height, width = described.resize.size
    images = np.random.default_rng(8).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    expected, features = SimilarityModel(described, stage.folder, "cpu", 1, 4).features(images)
    graph = session(stage.folder / described.projection.file)
    local, constant = graph.run(["local", "bias"], {"features": features})
    found = local.sum(axis=(2, 3)) + constant
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-5)


def test_a_bundle_with_conditions_a_fixed_batch_or_half_precision(tmp_path: Path) -> None:
    masks = {"colour": (1.0, 0.0, 1.0, 0.5, 2.0)}
    fixed = bundled(tmp_path / "fixed", network(head="static_expand", batch=2), conditions=masks)
    for stage in cascade(fixed, tmp_path / "out-fixed", stages=None, seed=0):
        described = bundle.read(str(stage.folder))
        assert described.conditions == masks
        assert described.similarity.batch == 2
        assert np.isfinite(embeddings(stage.folder, rows=2)).all()
    half = bundled(tmp_path / "half", network(half=True))
    for stage in cascade(half, tmp_path / "out-half", stages=None, seed=0):
        assert values(onnx.load(stage.folder / "similarity.onnx"))["dense"].dtype == np.float16
        assert bundle.read(str(stage.folder)).similarity.precision == "float16"
        assert np.isfinite(embeddings(stage.folder)).all()
        assert np.abs(embeddings(stage.folder) - embeddings(half)).max() > 0.05


def test_data_beside_the_file_is_taken_into_the_copies(tmp_path: Path) -> None:
    described = small_bundle(tmp_path / "inside", attributes=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    model = onnx.load(tmp_path / "inside" / "similarity.onnx")
    onnx.save(model, outside / "similarity.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    files = {name: bundle.file_sha256(outside / name) for name in ("similarity.onnx", "weights.data")}
    bundle.write(replace(described, similarity=replace(described.similarity, files=files), projection=None), outside)
    stages = [
        cascade(folder, tmp_path / f"of-{folder.name}", stages=None, seed=2)
        for folder in (tmp_path / "inside", outside)
    ]
    for inner, outer in zip(*stages, strict=True):
        assert [path.name for path in sorted(outer.folder.iterdir())] == ["bundle.json", "similarity.onnx"]
        np.testing.assert_array_equal(embeddings(inner.folder), embeddings(outer.folder))


# The demo's bundles, gradient and all


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, ...]:
    return cascade(DEMO / "category", tmp_path_factory.mktemp("demo") / "out", stages=3, seed=0)


def test_the_demo_is_random_from_the_head_to_the_image(demo: tuple[Stage, ...]) -> None:
    assert [stage.depth for stage in demo] == pytest.approx([1 / 6, 3 / 6, 1])
    assert [stage.head_only for stage in demo] == [True, False, False]
    assert [stage.block for stage in demo] == ["head", "backbone.layers.9", "backbone.layers.0"]
    trained = onnx.load(DEMO / "category" / "similarity.onnx")
    names = [{name for name in values(trained) if "backbone" in name or "head" in name}]
    assert changed(trained, onnx.load(demo[-1].folder / "similarity.onnx")) == names[0]
    rows = [embeddings(folder) for folder in (DEMO / "category", *(stage.folder for stage in demo))]
    for at, found in enumerate(rows):
        cosines = (found @ found.T)[np.triu_indices(len(found), 1)]
        assert np.isfinite(found).all()
        assert cosines.max() < 0.9999
        assert all(np.abs(found - other).max() > 0.05 for other in rows[:at])
    for stage in demo:
        check_projection(stage)


def test_without_a_gradient_the_reason_stays(tmp_path: Path) -> None:
    missing = bundle.read(str(DEMO / "brand")).missing
    assert "gradient" in missing
    for stage in cascade(DEMO / "brand", tmp_path / "out", stages=3, seed=0):
        assert bundle.read(str(stage.folder)).missing == missing


@pytest.mark.usefixtures("one_torch_thread")
def test_the_gradient_of_a_random_stage_is_that_of_torch(demo: tuple[Stage, ...]) -> None:
    for stage in demo:
        described = bundle.read(str(stage.folder))
        assert described.gradient is not None
        assert described.missing == {}
        height, width = described.resize.size
        rng = np.random.default_rng(21)
        image = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        fill = rng.uniform(0, 255, (1, 1, 1, 3)).astype(np.float32)
        masks = rng.random((2, height, width), dtype=np.float32)
        references = embeddings(stage.folder, rows=2)
        graph = session(stage.folder / described.gradient.file)
        feeds = {"image": image, "mask": masks, "fill": fill, "noise": np.zeros((1, 1, 1, 3), np.float32)}
        similarity, gradient, embedding = graph.run(None, {**feeds, "reference": references})
        served_graph = session(stage.folder / described.similarity.file)
        expected = served_graph.run(["embedding"], {"image": image, "mask": masks[..., None], "fill": fill})[0]
        np.testing.assert_allclose(embedding, expected, atol=2e-6)
        np.testing.assert_allclose(similarity, (expected * references).sum(1), atol=2e-6)
        slopes = torch_slopes(
            described, values(onnx.load(stage.folder / described.similarity.file)), image, fill, masks, references
        )
        np.testing.assert_allclose(gradient, slopes, atol=2e-4 * np.abs(slopes).max())


def torch_slopes(
    described: bundle.Bundle, stored: dict[str, Array], image: Array, fill: Array, masks: Array, references: Array
) -> Array:
    """d similarity / d mask [B,H,W] of the demo's network with the weights ``stored``, in double precision."""
    weights = {name: torch.tensor(value).double() for name, value in stored.items() if value.dtype == np.float32}
    used = Preprocessing(
        **{key: described.similarity.preprocessing[key] for key in ("layout", "channels", "scale", "mean", "std")}
    )
    mean, std = torch.tensor(used.mean).double(), torch.tensor(used.std).double()
    mask = torch.tensor(masks).double().requires_grad_()
    pixels = torch.tensor(fill).double() + mask[..., None] * torch.tensor(image - fill.astype(np.float64))
    x = ((pixels * used.scale - mean) / std).permute(0, 3, 1, 2)
    for layer, stride in ((0, 2), (3, 2), (6, 1), (9, 2), (12, 1)):
        name = f"backbone.layers.{layer}.weight"
        x = F.relu(F.conv2d(x, weights[name], weights[f"{name}_bias"], stride=stride, padding=1))
    embedding = F.normalize(F.linear(x.mean((2, 3)), weights["head.weight"], weights["head.bias"]))
    (embedding * torch.tensor(references).double()).sum().backward()  # type: ignore[no-untyped-call]
    assert mask.grad is not None
    return mask.grad.numpy()


class Inverted(nn.Module):
    """Normalised convolutions whose ReLU6 knows scale, one of them depthwise, one with a bias, one skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU6())
        self.inner = nn.Sequential(
            nn.Conv2d(6, 10, 1, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU6(),
            nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU6(),
            nn.Conv2d(10, 6, 1, bias=False),
            nn.BatchNorm2d(6),
        )
        self.last = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU6())
        self.head = nn.Linear(8, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        embedding: Tensor = self.head(self.last(x + self.inner(x)).mean((2, 3)))
        return embedding


@pytest.mark.usefixtures("one_torch_thread")
def test_a_gradient_with_normalisations_of_its_own_is_that_of_the_folded_network(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Inverted()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                ends = ((layer.weight, 0.5, 4), (layer.bias, -1, 1), (layer.running_mean, -1, 1))
                for tensor, low, high in (*ends, (layer.running_var, 0.2, 3)):
                    assert tensor is not None
                    nn.init.uniform_(tensor, low, high)
    module.eval()
    made = tmp_path / "made"
    build(
        made,
        similarity=to_onnx(module, SIZE, ("embedding",)),
        similarity_preprocessing=PREPROCESSING,
        resize=Resize(SIZE, "squash"),
        gradient=trace_to_onnx(module, SIZE, "cosine"),
    )
    stages = cascade(made, tmp_path / "out", stages=None, seed=0)
    assert [stage.block for stage in stages] == ["head", "last.0", "inner.6", "first.0"]
    for stage in stages:
        described = bundle.read(str(stage.folder))
        assert described.missing == {}
        assert described.gradient is not None
        rng = np.random.default_rng(5)
        image = rng.integers(0, 256, (1, H, W, 3), dtype=np.uint8)
        mask, move = rng.random((2, 1, H, W), dtype=np.float32)
        black = np.zeros((1, 1, 1, 3), np.float32)
        feeds = {"image": image, "fill": black}
        reference = embeddings(stage.folder, rows=1)
        graph = session(stage.folder / described.gradient.file)
        rows = described.gradient.batch or 1
        repeated = {"mask": np.repeat(mask, rows, 0), "reference": np.repeat(reference, rows, 0), "noise": black}
        _, slope, found = graph.run(None, {**feeds, **repeated, "image": np.repeat(image, rows, 0)})
        similarity = session(stage.folder / described.similarity.file)
        step = 1e-3
        masks = np.concatenate([mask, mask + step * move, mask - step * move])[..., None]
        at, ahead, behind = similarity.run(["embedding"], {**feeds, "mask": masks})[0]
        np.testing.assert_allclose(found[0], at, atol=1e-5)
        expected = float((ahead - behind) @ reference[0]) / (2 * step)
        largest = float(np.abs(slope[0] * move).sum())
        assert float((slope[0] * move).sum()) == pytest.approx(expected, abs=3e-3 * largest)


@pytest.mark.parametrize(
    ("tensor", "factor", "reason"),
    [
        ("_param_constant9", 1.01, "could not be traced to the similarity graph"),
        ("unsqueeze_5", 1.5, "could not be traced to the similarity graph"),
        ("scalar_tensor_default_1", 0.5, "difference quotients"),
    ],
)
def test_a_gradient_that_is_not_the_networks_is_left_out(
    tmp_path: Path, tensor: str, factor: float, reason: str
) -> None:
    described = bundle.read(str(DEMO / "category"))
    assert described.gradient is not None
    assert described.projection is not None
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("similarity.onnx", "projection.onnx"):
        (odd / name).write_bytes((DEMO / "category" / name).read_bytes())
    graph = onnx.load(DEMO / "category" / "gradient.onnx")
    target = next(stored for stored in graph.graph.initializer if stored.name == tensor)
    value = numpy_helper.to_array(target).copy()
    value.flat[0] *= factor
    target.CopyFrom(numpy_helper.from_array(value, tensor))
    onnx.save(graph, odd / "gradient.onnx")
    files = {"gradient.onnx": bundle.file_sha256(odd / "gradient.onnx")}
    gradient = replace(described.gradient, files=files)
    bundle.write(replace(described, gradient=gradient, attributes=None, vocabulary=(), priors=None), odd)
    for stage in cascade(odd, tmp_path / "out", stages=3, seed=0):
        made = bundle.read(str(stage.folder))
        assert made.gradient is None
        assert reason in made.missing["gradient"]
        assert made.missing["gradient"].startswith("the randomised copy of this bundle has no gradient graph, since ")
        assert not (stage.folder / "gradient.onnx").exists()


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 5))
def test_a_rearranged_tensor_is_found_and_rearranged_alike(
    groups: int, rows: int, columns: int, mirrored: bool, seed: int
) -> None:
    """The weights of a transposed convolution, as ``export.gradient`` turns them, against torch's own operations."""
    rng = np.random.default_rng(seed)
    before, after = (rng.normal(size=(groups * rows, columns, 2, 3)).astype(np.float32) for _ in range(2))

    def turned(value: Array) -> Array:
        weight = torch.tensor(value)
        weight = weight.flip([2, 3]) if mirrored else weight
        parts = weight.reshape(groups, rows, columns, 2, 3).transpose(1, 2)
        return parts.reshape(groups * columns, rows, 2, 3).numpy()

    trace = randomise._Trace({"turned": turned(before)}, [(before, after)], [groups])
    np.testing.assert_array_equal(trace.found["turned"], turned(after))


def test_a_tensor_of_two_origins_is_not_guessed() -> None:
    same = noise(4, 2)
    with pytest.raises(randomise._Untraced, match="either of two"):
        randomise._Trace({"turned": same.T.copy()}, [(same, noise(4, 2, seed=1)), (same, noise(4, 2, seed=2))], [])


# What cannot be randomised


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    made = tmp_path / "made"
    small_bundle(made, attributes=False)
    with pytest.raises(UsageError, match="2 stages are too few"):
        cascade(made, tmp_path / "few", stages=2, seed=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        cascade(made, tmp_path / "full", stages=None, seed=0)
    assert (tmp_path / "full" / "note.txt").read_text() == "mine"
    with pytest.raises(BundleError, match="is of another network"):
        randomised(served(network()), [Block("other", ("nothing",), (1.0,), (), 1)], 0)
    with pytest.raises(BundleError, match="no output 'embedding'"):
        blocks(network())


def test_networks_that_are_quantised_or_have_no_weights() -> None:
    behind, own = head("trunk", 4)
    integers: dict[str, Array] = {"kernel": np.ones((4, 3, 1, 1), np.int8), "scale": np.array(0.1, np.float32), **own}
    quantised = [node("DequantizeLinear", ["kernel", "scale"], ["w"]), node("Conv", ["x", "w"], ["trunk"]), *behind]
    with pytest.raises(BundleError, match=r"is quantised: DequantizeLinear 'w'.*the float network"):
        blocks(served(assembled(quantised, integers)))
    bare = [node("GlobalAveragePool", ["x"], ["mean"]), node("Flatten", ["mean"], ["y"])]
    with pytest.raises(BundleError, match="no weights were found"):
        blocks(served(assembled(bare, {})))


def test_control_flow_with_layers_in_it_is_refused() -> None:
    inner = [
        helper.make_graph(
            [node("Conv", ["stem", name], [f"{name}.out"])], name, [], [onnx.ValueInfoProto(name=f"{name}.out")]
        )
        for name in ("one", "two")
    ]
    nodes = [node("If", ["which"], ["trunk"], name="choice", then_branch=inner[0], else_branch=inner[1])]
    tensors: dict[str, Array] = {"one": noise(4, 4, 1, 1), "two": noise(4, 4, 1, 1), "which": np.array(True)}
    with pytest.raises(BundleError, match=r"If 'choice' has layers within it"):
        blocks(served(with_trunk(nodes, tensors)))


def test_a_tensor_that_is_shift_and_scale_has_no_fresh_value() -> None:
    nodes = [
        node("Conv", ["stem", "a.weight", "both"], ["a"]),
        node("InstanceNormalization", ["a", "both", "shift"], ["trunk"]),
    ]
    with pytest.raises(BundleError, match="'both' is both a shift and a scale"):
        blocks(served(with_trunk(nodes, {"a.weight": noise(4, 4, 1, 1), "both": noise(4), "shift": noise(4)})))


def failing(tmp_path: Path, model: onnx.ModelProto) -> str:
    """What is said of ``model``, of which no stage may be left behind."""
    made = bundled(tmp_path / "made", model)
    with pytest.raises(BundleError) as caught:
        cascade(made, tmp_path / "out", stages=None, seed=0)
    assert str(made / "similarity.onnx") in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    return str(caught.value)


def test_one_block_is_no_cascade(tmp_path: Path) -> None:
    nodes = [
        node("Flatten", ["x"], ["pixels"]),
        node("MatMul", ["pixels", "dense"], ["y"]),
    ]
    assert "has one block, 'dense'" in failing(tmp_path, assembled(nodes, {"dense": noise(3 * H * W, D)}))


def test_values_that_leave_half_precision_are_refused(tmp_path: Path) -> None:
    nodes = [node("Mul", ["stem", "large"], ["trunk"])]
    large, small = np.array([60000], np.float16), (noise(4, 3, 3, 3) / 1000).astype(np.float16)
    model = with_trunk(nodes, {"large": large, "stem.weight": small}, kind=TensorProto.FLOAT16)
    assert "not finite" in (said := failing(tmp_path, model))
    assert "float32" in said


def test_a_network_that_lets_nothing_through_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["stem", "loud.weight"], ["a"]),
        node("Add", ["a", "threshold"], ["b"]),
        node("Relu", ["b"], ["trunk"]),
    ]
    loud: dict[str, Array] = {"loud.weight": np.abs(noise(4, 4, 1, 1)) * 1e4, "threshold": np.array(-100, np.float32)}
    assert "all images have one embedding" in failing(tmp_path, with_trunk(nodes, loud))


def test_the_manifest_says_what_is_random(tmp_path: Path) -> None:
    small_bundle(tmp_path / "made", attributes=False)
    first, last = cascade(tmp_path / "made", tmp_path / "out", stages=None, seed=9)
    found = [
        json.loads((stage.folder / "bundle.json").read_text())["training"]["randomised"] for stage in (first, last)
    ]
    assert [record["blocks"] for record in found] == [["dense"], ["dense", "kernel"]]
    assert all(record["seed"] == 9 and record["all_blocks"] == 2 for record in found)
