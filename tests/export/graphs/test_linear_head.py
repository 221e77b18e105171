"""Which networks project linearly, with what weights, and what a bundle and the runtime make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from export.bundling.preprocessing import Preprocessing
from export.graphs.linear_head import NoProjection, Projection, project
from tests.support.models.assembled import ending
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import SIZE, D, compute, network, weights
from transforms.core.errors import BundleError, ModelFailed
from transforms.core.imaging.images import Resize
from transforms.core.saliency.decomposition import decompose
from transforms.core.similarity import similarities
from transforms.serving.bundle import Bundle
from transforms.serving.projection_model import ProjectionModel
from transforms.serving.runtime import session
from transforms.serving.similarity_model import SimilarityModel

H, W = SIZE
SQUASH = Resize(SIZE, "squash")
Nodes = list[onnx.NodeProto]
node = helper.make_node
GAP = node("GlobalAveragePool", ["positive"], ["mean"], name="pool")
FLAT = node("Flatten", ["mean"], ["flat"], axis=1)
DENSE = node("Gemm", ["flat", "dense", "shift"], ["dense_out"], name="dense")


def projected(model: onnx.ModelProto, *, normalise: bool = True, layout: Any = "nchw", batch: Any = None) -> Projection:
    fed = replace(PREPROCESSING, layout=layout).apply(pictures(5))
    half = model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    return project(
        model,
        fed.astype(np.float16) if half else fed,
        input=model.graph.input[0].name,
        output=model.graph.output[0].name,
        batch=batch,
        normalise=normalise,
        open_session=lambda one: session(one.SerializeToString()),
    )


def reason(model: onnx.ModelProto, **how: Any) -> str:
    with pytest.raises(NoProjection) as refused:
        projected(model, **how)
    return str(refused.value)


def is_dense(found: Projection, scale: float = 1.0, tolerance: float = 1e-6) -> None:
    """The weights are those of :func:`tests.support.models.networks.compute`'s dense layer, times ``scale``."""
    w = weights()
    np.testing.assert_allclose(found.weights, scale * w["dense"].T, atol=tolerance)
    np.testing.assert_allclose(found.bias, scale * w["shift"], atol=tolerance)


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 18, 21])
@pytest.mark.parametrize("head", ["flatten", "pooled"])
def test_the_weights_are_found(head: Any, opset: int) -> None:
    found = projected(network(head=head, opset=opset))
    is_dense(found)
    assert (found.features.name, found.layout) == ("positive", "nchw")
    assert [dim.dim_value for dim in found.features.type.tensor_type.shape.dim[1:]] == [4, H, W]
    assert found.weights.dtype == found.bias.dtype == np.float64


@pytest.mark.parametrize(("head", "batch"), [("static_reshape", 3), ("static_expand", 4), ("static_expand", 1)])
def test_a_fixed_batch(head: Any, batch: int) -> None:
    is_dense(projected(network(head=head, batch=batch), batch=batch))


def test_half_precision() -> None:
    """The tail is measured in single precision: the weights come out as they are stored."""
    found = projected(network(half=True))
    w = {name: value.astype(np.float16).astype(np.float64) for name, value in weights().items()}
    np.testing.assert_allclose(found.weights, w["dense"].T, atol=1e-6)
    np.testing.assert_allclose(found.bias, w["shift"], atol=1e-6)
    assert found.features.type.tensor_type.elem_type == TensorProto.FLOAT16


MEANS = {
    "attribute": ([node("ReduceMean", ["positive"], ["flat"], axes=[2, 3], keepdims=0)], 13),
    "negative": ([node("ReduceMean", ["positive"], ["mean"], axes=[-1, -2]), FLAT], 13),
    "input": ([node("ReduceMean", ["positive", "axes"], ["mean"]), FLAT], 18),
    "constant node": (
        [
            node("Constant", [], ["axes_of"], value_ints=[2, 3]),
            node("ReduceMean", ["positive", "axes_of"], ["flat"], keepdims=0),
        ],
        18,
    ),
    "average pool": ([node("AveragePool", ["positive"], ["mean"], kernel_shape=[H, W]), FLAT], 13),
    "squeeze": ([GAP, node("Squeeze", ["mean", "axes"], ["flat"])], 13),
    "dynamic reshape": (
        [
            GAP,
            node("Shape", ["input"], ["shape"]),
            node("Gather", ["shape", "first"], ["rows"]),
            node("Concat", ["rows", "rest"], ["target"], axis=0),
            node("Reshape", ["mean", "target"], ["flat"]),
        ],
        13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(MEANS))
def test_ways_to_average(kind: str) -> None:
    nodes, opset = MEANS[kind]
    model = ending([*nodes, DENSE], "dense_out", opset=opset, axes=[2, 3], first=[0], rest=[-1])
    is_dense(projected(model))


def test_channels_last() -> None:
    """A map [B,H,W,C] as TensorFlow has it, averaged over its axes 1 and 2."""
    nodes = [
        node("Transpose", ["positive"], ["last"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["last"], ["flat"], axes=[1, 2], keepdims=0),
        DENSE,
    ]
    found = projected(ending(nodes, "dense_out", opset=13))
    is_dense(found)
    assert (found.features.name, found.layout) == ("last", "nhwc")
    is_dense(projected(network(layout="nhwc"), layout="nhwc"))


def test_several_linear_layers_are_one() -> None:
    rng = np.random.default_rng(1)
    second, mean, gamma, beta = rng.normal(0, 1, (D, 3)), *rng.normal(0, 1, (3, 3))
    variance = rng.uniform(0.5, 2, 3)
    nodes = [
        GAP, FLAT, node("Dropout", ["flat"], ["kept"]), node("Gemm", ["kept", "dense", "shift"], ["one"]),
        node("MatMul", ["one", "second"], ["two"]), node("Add", ["two", "beta"], ["three"]),
        node("BatchNormalization", ["three", "gamma", "beta", "mean_of", "variance"], ["four"], epsilon=0.0),
        node("Mul", ["four", "beta"], ["five"]), node("Div", ["five", "variance"], ["six"]),
        node("Sub", ["six", "gamma"], ["seven"]), node("Add", ["seven", "six"], ["eight"]),
    ]  # fmt: skip
    stored = {"second": second, "gamma": gamma, "beta": beta, "mean_of": mean, "variance": variance}
    found = projected(ending(nodes, "eight", **stored))

    def tail(x: NDArray[Any]) -> NDArray[Any]:
        x = (x @ weights()["dense"] + weights()["shift"]) @ second + beta
        x = ((x - mean) / np.sqrt(variance) * gamma + beta) * beta / variance
        return np.asarray(x - gamma + x)

    np.testing.assert_allclose(found.bias, tail(np.zeros((1, 4)))[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.weights.T, tail(np.eye(4)) - tail(np.zeros((1, 4))), rtol=1e-4, atol=1e-5)


def test_a_large_bias_costs_the_weights_no_digits() -> None:
    nodes = [GAP, FLAT, node("Gemm", ["flat", "dense", "large"], ["out"])]
    found = projected(ending(nodes, "out", large=np.full(D, 3e3)))
    np.testing.assert_allclose(found.weights, weights()["dense"].T, atol=1e-5)


NORMS: dict[str, Nodes] = {
    "operator": [node("LpNormalization", ["dense_out"], ["unit"], axis=1, p=2)],
    "torch": [
        node("ReduceL2", ["dense_out"], ["length"], axes=[1], keepdims=1),
        node("Clip", ["length", "tiny"], ["clipped"]),
        node("Shape", ["dense_out"], ["shape_of"]),
        node("Expand", ["clipped", "shape_of"], ["expanded"]),
        node("Div", ["dense_out", "expanded"], ["unit"]),
    ],
    "tensorflow": [
        node("Mul", ["dense_out", "dense_out"], ["square"]),
        node("ReduceSum", ["square", "one"], ["sum"], keepdims=1),
        node("Max", ["sum", "tiny"], ["at_least"]),
        node("Sqrt", ["at_least"], ["root"]),
        node("Reciprocal", ["root"], ["inverse"]),
        node("Mul", ["inverse", "dense_out"], ["unit"]),
    ],
    "of a view": [
        node("Flatten", ["dense_out"], ["view"], axis=1),
        node("ReduceL2", ["dense_out"], ["length"], axes=[1], keepdims=1),
        node("Div", ["view", "length"], ["unit"]),
    ],
    "scaled": [
        node("LpNormalization", ["dense_out"], ["before"], axis=1, p=2),
        node("Mul", ["before", "sixteen"], ["unit"]),
    ],
}


@pytest.mark.parametrize("kind", list(NORMS))
def test_a_networks_own_norm_is_left_out_for_cosine(kind: str, tmp_path: Path) -> None:
    model = ending([GAP, FLAT, DENSE, *NORMS[kind]], "unit", tiny=np.float32(1e-12), one=[1], sixteen=np.float32(16))
    is_dense(projected(model))
    text = reason(model, normalise=False)
    assert "the network ends in an L2 norm" in text
    assert "cosine" in text
    made = built(tmp_path / "b", model)
    assert worst_of(made, tmp_path / "b") < 1e-5


def test_what_only_looks_like_a_norm() -> None:
    gate = [node("Sigmoid", ["dense_out"], ["gate"]), node("Mul", ["dense_out", "gate"], ["out"], name="gated")]
    assert reason(ending([GAP, FLAT, DENSE, *gate], "out")).startswith(
        "between the pooling and the embedding stands Mul 'gated'"
    )
    negative = [
        node("LpNormalization", ["dense_out"], ["unit"], axis=1, name="norm"),
        node("Mul", ["unit", "minus"], ["out"]),
    ]
    assert "LpNormalization 'norm'" in reason(ending([GAP, FLAT, DENSE, *negative], "out", minus=np.float32(-1)))


REFUSED: dict[str, tuple[Nodes, str, str]] = {
    "relu": (
        [GAP, FLAT, DENSE, node("Relu", ["dense_out"], ["out"], name="node_12")],
        "out",
        "between the pooling and the embedding stands Relu 'node_12', which is not linear",
    ),
    "two layers": (
        [GAP, FLAT, DENSE, node("Relu", ["dense_out"], ["middle"], name="r"), node("Neg", ["middle"], ["out"])],
        "out",
        "between the pooling and the embedding stands Relu 'r', which is not linear",
    ),
    "max pool": (
        [node("GlobalMaxPool", ["positive"], ["mean"], name="x"), FLAT, DENSE],
        "dense_out",
        "the embedding is pooled by GlobalMaxPool 'x', which is no average",
    ),
    "max pool and relu": (
        [node("GlobalMaxPool", ["positive"], ["mean"], name="x"), FLAT, DENSE, node("Relu", ["dense_out"], ["out"])],
        "out",
        "the embedding is pooled by GlobalMaxPool 'x', which is no average, and behind it stands Relu 'out'",
    ),
    "both pools": (
        [
            GAP, node("GlobalMaxPool", ["positive"], ["highest"], name="x"),
            node("Concat", ["mean", "highest"], ["joined"], axis=1), node("Flatten", ["joined"], ["out"]),
        ],
        "out",
        "the embedding is pooled by GlobalMaxPool 'x', which is no average",
    ),
    "two maps": (
        [
            GAP, node("GlobalAveragePool", ["convolved"], ["other"], name="y"), node("Add", ["mean", "other"], ["sum"]),
            node("Flatten", ["sum"], ["out"]),
        ],
        "out",
        "the embedding is made of more than one pooling: GlobalAveragePool 'pool' and GlobalAveragePool 'y'",
    ),
    "gem": (
        [
            node("Pow", ["positive", "three"], ["cubed"]), node("GlobalAveragePool", ["cubed"], ["mean"]), FLAT,
            node("Pow", ["flat", "three"], ["out"], name="root"),
        ],
        "out",
        "between the pooling and the embedding stands Pow 'root', which is not linear",
    ),
    "windows": (
        [
            node("AveragePool", ["positive"], ["small"], kernel_shape=[3, 4], strides=[3, 4], name="local"),
            node("Flatten", ["small"], ["out"]),
        ],
        "out",
        "AveragePool 'local' averages windows of 3x4 of a map of 12x16, not the whole map",
    ),
    "over one axis": (
        [
            node("ReduceMean", ["positive"], ["rows"], axes=[2], keepdims=0, name="m"),
            node("Flatten", ["rows"], ["out"]),
        ],
        "out",
        "the embedding is pooled by ReduceMean 'm', which does not average over rows and columns of a map",
    ),
    "tokens": (
        [
            node("Reshape", ["positive", "tokens"], ["sequence"]),
            node("ReduceMean", ["sequence"], ["out"], axes=[2, 3], keepdims=0, name="m"),
        ],
        "out",
        "averages a value of 5 dimensions, not a map [B,C,h,w]",
    ),
    "flat": (
        [node("Flatten", ["positive"], ["out"])],
        "out",
        "the embedding comes from Relu 'last_relu', which is not linear, and no average pooling over positions was",
    ),
    "softmax": (
        [node("Reshape", ["positive", "flat_rows"], ["tokens2"]), node("Softmax", ["tokens2"], ["out"], name="s")],
        "out",
        "the embedding comes from Softmax 's', which is not linear, and no average pooling over positions was found",
    ),
    "linear all the way": (
        [node("Flatten", ["input"], ["out"])],
        "out",
        "between the image and the embedding stands no average pooling",
    ),
    "the image beside the map": (
        [
            GAP, FLAT, node("Flatten", ["input"], ["pixels"]), node("Concat", ["flat", "pixels"], ["out"], axis=1),
        ],
        "out",
        "the embedding is made of the image itself as well as of GlobalAveragePool 'pool'",
    ),
    "rounded": (
        [GAP, FLAT, node("Cast", ["flat"], ["whole"], to=TensorProto.INT64, name="c"),
         node("Cast", ["whole"], ["out"], to=TensorProto.FLOAT)],
        "out",
        "between the pooling and the embedding stands Cast 'c', which is not linear",
    ),
    "dropout that is on": (
        [GAP, FLAT, node("Dropout", ["flat", "", "on"], ["out"], name="d"), node("Not", ["on"], ["off"]),
         node("Constant", [], ["on"], value=numpy_helper.from_array(np.array(True)))],
        "out",
        "between the pooling and the embedding stands Dropout 'd', which is not linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(REFUSED))
def test_reasons(kind: str) -> None:
    nodes, last, text = REFUSED[kind]
    stored = {"three": np.float32(3), "tokens": [0, 2, 2, H, W], "flat_rows": [0, -1]}
    assert text in reason(ending(nodes, last, opset=13, **stored))


def test_what_is_linear_only_by_name_is_found_by_running_it() -> None:
    """How many values of an image are above 0: a shape, a constant to the walk, and another one for each image."""
    nodes = [
        GAP, FLAT, DENSE, node("NonZero", ["positive"], ["places"]), node("Shape", ["places"], ["shape"]),
        node("Slice", ["shape", "one", "two"], ["found"]), node("Cast", ["found"], ["count"], to=TensorProto.FLOAT),
        node("Div", ["dense_out", "count"], ["out"]),
    ]  # fmt: skip
    text = reason(ending(nodes, "out", one=[1], two=[2]), normalise=False, batch=1)
    assert text.startswith("what stands behind GlobalAveragePool 'pool' looks linear, but differs from a projection by")


def built(out: Path, model: onnx.ModelProto, **how: Any) -> Bundle:
    return build(out, BundleSpec(SimilarityGraph(model, PREPROCESSING), SQUASH, **how))


def opened(made: Bundle, folder: Path, batch: int = 3) -> tuple[SimilarityModel, ProjectionModel]:
    return SimilarityModel(made, folder, "cpu", 1, batch), ProjectionModel(made, folder, "cpu", 1, batch)


def pictures(count: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(8).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def worst_of(made: Bundle, folder: Path, size: tuple[int, int] = SIZE) -> float:
    """The largest difference of map plus bias from the served similarity, over all pairs of a few images."""
    model, projection = opened(made, folder)
    images = pictures(4, size)
    embeddings, features = model.features(images)
    np.testing.assert_array_equal(embeddings, model.embed(images))
    local, bias = projection.local(features)
    worst = 0.0
    for one, row in zip(local, embeddings, strict=True):
        found = decompose(one, bias, embeddings, made.similarity_function, size)
        expected = similarities(embeddings, row[None], made.similarity_function)[:, 0]
        difference = found.maps.sum(axis=(1, 2)) + found.bias - expected
        worst = max(worst, float(np.abs(difference).max() / max(1.0, np.abs(expected).max())))
    return worst


@pytest.mark.parametrize(
    "habits",
    [
        {},
        {"head": "pooled", "opset": 11},
        {"head": "static_reshape", "batch": 3},
        {"head": "static_expand", "batch": 4},
        {"opset": 21},
        {"half": True},
        {"names": ("image", "features")},
        {"names": ("features", "embedding")},
    ],
)
def test_bundles_of_hand_built_networks(habits: dict[str, Any], tmp_path: Path) -> None:
    made = built(tmp_path / "b", network(**habits))
    assert "projection" not in made.missing
    assert worst_of(made, tmp_path / "b") < (1e-2 if habits.get("half") else 1e-6)
    served = onnx.load(tmp_path / "b" / "similarity.onnx")
    onnx.checker.check_model(served, full_check=True)
    onnx.checker.check_model(onnx.load(tmp_path / "b" / "projection.onnx"), full_check=True)
    assert [value.name for value in served.graph.output] == ["embedding", "features"]
    (maker,) = [one for one in served.graph.node if "features" in one.output]
    assert maker.op_type == "Relu"  # the network's own value, no copy of it


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_local_parts_against_the_definition(function: Any, tmp_path: Path) -> None:
    """Convolution, ReLU and dense layer in numpy, position by position."""
    made = built(tmp_path / "b", network(), similarity_function=function)
    model, projection = opened(made, tmp_path / "b")
    images = pictures(5)
    local, bias = projection.local(model.features(images)[1])
    assert local.shape == (5, D, H, W)
    assert local.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(bias, weights()["shift"], atol=1e-6)
    planes = PREPROCESSING.apply(images)
    np.testing.assert_allclose(local.sum(axis=(2, 3)) + bias, compute(planes), atol=1e-5)
    blank = planes.copy()
    blank[..., :, 7:] = 0  # what a position gives depends on its 3x3 surroundings alone
    padded = np.pad(blank[:1], ((0, 0), (0, 0), (1, 1), (1, 1)))
    w = weights()
    window = padded[0, :, 4:7, 3:6]
    feature = np.maximum(np.einsum("cij,ocij->o", window, w["kernel"]) + w["bias"], 0)
    np.testing.assert_allclose(local[0, :, 4, 3], feature @ w["dense"] / (H * W), atol=1e-6)
    np.testing.assert_array_equal(projection.local(model.features(images[2:3])[1])[0][0], local[2])


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_users_channels_last_networks(channels: Any, tmp_path: Path) -> None:
    mean, std = PREPROCESSING.mean, PREPROCESSING.std
    if channels == "bgr":
        mean, std = (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])
    preprocessing = Preprocessing("nhwc", channels, PREPROCESSING.scale, mean, std)
    made = build(
        tmp_path / "b", BundleSpec(SimilarityGraph(network(layout="nhwc", channels=channels), preprocessing), SQUASH)
    )
    plain = built(tmp_path / "plain", network())
    (model, projection), (other, straight) = opened(made, tmp_path / "b"), opened(plain, tmp_path / "plain")
    images = pictures(2)
    found, expected = projection.local(model.features(images)[1]), straight.local(other.features(images)[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_a_map_of_channels_last_is_served_as_it_is(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["positive"], ["last"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["last"], ["flat"], axes=[1, 2], keepdims=0),
        DENSE,
    ]
    made = built(tmp_path / "b", ending(nodes, "dense_out", opset=13))
    model, projection = opened(made, tmp_path / "b")
    features = model.features(pictures(2))[1]
    assert features.shape == (2, H, W, 4)
    assert projection.local(features)[0].shape == (2, D, H, W)
    assert worst_of(made, tmp_path / "b") < 1e-6


def test_the_map_may_be_the_image_itself(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", ["input"], ["mean"]), FLAT, node("Neg", ["flat"], ["out"])]
    made = built(tmp_path / "b", ending(nodes, "out"))
    assert worst_of(made, tmp_path / "b") < 1e-5


def test_a_map_of_one_position(tmp_path: Path) -> None:
    nodes = [
        node("AveragePool", ["positive"], ["small"], kernel_shape=[H, W], strides=[H, W]),
        node("Relu", ["small"], ["again"]),
        node("GlobalAveragePool", ["again"], ["mean"]),
        FLAT,
        DENSE,
    ]
    made = built(tmp_path / "b", ending(nodes, "dense_out"))
    model, projection = opened(made, tmp_path / "b")
    assert projection.local(model.features(pictures(1))[1])[0].shape == (1, D, 1, 1)
    assert worst_of(made, tmp_path / "b") < 1e-6


def test_a_bundle_without_a_projection_says_why(tmp_path: Path) -> None:
    nodes, last, text = REFUSED["relu"]
    made = built(tmp_path / "b", ending(nodes, last))
    assert made.projection is None
    assert text in made.missing["projection"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["bundle.json", "similarity.onnx"]
    model = SimilarityModel(made, tmp_path / "b", "cpu", 1, 3)
    with pytest.raises(BundleError, match=r"stands Relu 'node_12', which is not linear\. .* such as rise"):
        ProjectionModel(made, tmp_path / "b", "cpu", 1, 3)
    with pytest.raises(BundleError, match="this bundle has no projection, which decomposition needs: between"):
        model.features(pictures(1))


def test_features_of_no_use_are_refused(tmp_path: Path) -> None:
    made = built(tmp_path / "b", network())
    _, projection = opened(made, tmp_path / "b")
    with pytest.raises(ModelFailed, match="the projection failed"):
        projection.local(np.zeros((1, 3, H, W), np.float32))
    with pytest.raises(ModelFailed, match="NaN or infinity"):
        projection.local(np.full((1, 4, H, W), np.inf, np.float32))


@pytest.mark.usefixtures("one_torch_thread")
def test_resnet_from_torch(tmp_path: Path) -> None:
    """ResNet-18 with a linear head, not square: the map against torch's own last feature map, by a hook."""
    torch = pytest.importorskip("torch", reason="needs the extra export")
    from export.bundling.from_torch import to_onnx
    from export.training.networks.backbones import backbone
    from export.training.networks.similarity_network import EmbeddingNetwork

    size = (64, 96)
    torch.manual_seed(0)
    net = EmbeddingNetwork(backbone("resnet18", None), size=size, embedding=7).eval()
    made = build(
        tmp_path / "b",
        BundleSpec(SimilarityGraph(to_onnx(net, size, ("embedding",)), PREPROCESSING), Resize(size, "squash")),
    )
    assert worst_of(made, tmp_path / "b", size) < 1e-5
    model, projection = opened(made, tmp_path / "b")
    images, seen = pictures(2, size), []
    net.backbone.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        query, reference = net(torch.from_numpy(PREPROCESSING.apply(images)))
        features = seen[0][0]
        parts = torch.einsum("dc,chw,d->hw", net.head.weight, features, reference) / features[0].numel()
        expected = parts / (query.norm() * reference.norm())
        constant = net.head.bias @ reference / (query.norm() * reference.norm())
    embeddings, maps = model.features(images)
    local, bias = projection.local(maps)
    found = decompose(local[0], bias, embeddings[1:], "cosine", (2, 3))  # a frame of one pixel a position
    np.testing.assert_allclose(found.maps[0], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.bias[0], float(constant), atol=1e-5)
