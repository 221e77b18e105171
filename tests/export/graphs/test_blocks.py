"""The blocks of a network: where they end, what in them is a weight, and what cannot be told apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graphs.blocks import blocks
from export.graphs.parameters import fan_in
from tests.support.models.assembled import Array, assembled, head, node, noise, served, with_trunk
from tests.support.models.networks import OLD_IR, SIZE, D, network
from transforms.core.errors import BundleError
from transforms.serving.runtime import session

DEMO = Path(__file__).parents[3] / "pipeline" / "demo" / "bundles"
H, W = SIZE


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
        (node("Einsum", ["x", "w"], ["y"], equation="bc, cd"), 1, (3, 4), (2, 3)),
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
    assert fan_in(made, place, shape) == found[0].max()


def test_networks_that_are_quantised_or_have_no_weights() -> None:
    behind, own = head("trunk", 4)
    integers: dict[str, Array] = {"kernel": np.ones((4, 3, 1, 1), np.int8), "scale": np.array(0.1, np.float32), **own}
    quantised = [node("DequantizeLinear", ["kernel", "scale"], ["w"]), node("Conv", ["x", "w"], ["trunk"]), *behind]
    with pytest.raises(BundleError, match=r"is quantised: DequantizeLinear 'w'.*the float network"):
        blocks(served(assembled(quantised, integers)))
    bare = [node("GlobalAveragePool", ["x"], ["mean"]), node("Flatten", ["mean"], ["y"])]
    with pytest.raises(BundleError, match="no weights were found"):
        blocks(served(assembled(bare, {})))
    with pytest.raises(BundleError, match="no output 'embedding'"):
        blocks(network())


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


@pytest.mark.parametrize(
    ("kind", "domain"), [("FusedConv", "com.microsoft"), ("DeformConv", ""), ("LSTM", ""), ("ConvInteger", "")]
)
def test_layers_whose_weights_are_unknown_are_refused(kind: str, domain: str) -> None:
    nodes = [node(kind, ["stem", "own.weight"], ["trunk"], name="odd", domain=domain)]
    with pytest.raises(BundleError, match=f"{kind} 'odd'.*(without ONNX Runtime's optimisations|the float network)"):
        blocks(served(with_trunk(nodes, {"own.weight": noise(4, 4, 1, 1)})))


def test_operators_of_onnx_runtime_without_weights_are_none_of_a_block() -> None:
    nodes = [node("QuickGelu", ["stem"], ["trunk"], domain="com.microsoft")]
    assert [block.name for block in blocks(served(with_trunk(nodes, {})))] == ["head", "stem"]


def test_sparse_weights_are_refused() -> None:
    model = served(with_trunk([node("Identity", ["stem"], ["trunk"])], {}))
    dense = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    places = numpy_helper.from_array(np.arange(4 * D), "places")
    values = helper.make_tensor("head.weight", TensorProto.FLOAT, [4 * D], noise(4 * D).tolist())
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [D, 4]))
    model.graph.initializer.remove(dense)
    with pytest.raises(BundleError, match=r"'head\.weight' is sparse"):
        blocks(model)
