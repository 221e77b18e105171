"""What is drawn, how, and what stays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graphs.blocks import Block, blocks
from export.randomisation.randomise import randomised
from tests.support.models.assembled import assembled, changed, head, node, noise, served, values, with_trunk
from tests.support.models.networks import SIZE, D, network
from transforms.core.errors import BundleError
from transforms.serving.runtime import session

DEMO = Path(__file__).parents[3] / "pipeline" / "demo" / "bundles"
H, W = SIZE


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


def test_blocks_of_another_network_are_refused() -> None:
    with pytest.raises(BundleError, match="is of another network"):
        randomised(served(network()), [Block("other", ("nothing",), (1.0,), (), 1)], 0)
