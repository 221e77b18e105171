"""Where a similarity graph can be cut, and that the parts are the whole: by hand, by brute force, on real habits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from torch import Tensor, nn

from benchmarks.support.networks import Block, SmallTransformer
from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from export.bundling.from_torch import to_onnx
from export.bundling.preprocessing import Preprocessing
from export.graphs import cut as tails
from export.graphs import network_file as networks
from export.graphs.cut import Cut, cut, run_tail, run_trunk, whole
from export.graphs.network_file import Layout
from export.training.networks.similarity_network import EmbeddingNetwork
from tests.support.models.assembled import ending
from tests.support.models.networks import SIZE, D, network, weights
from transforms.core.errors import BundleError
from transforms.core.imaging.images import Resize
from transforms.serving.bundle import Bundle
from transforms.serving.runtime import session

H, W = SIZE
node = helper.make_node


def bundled(folder: Path, model: onnx.ModelProto, **how: Any) -> Bundle:
    """A bundle of ``model``; ``how`` is what stands in front of it."""
    size = how.pop("size", SIZE)
    preprocessing = Preprocessing(how.pop("layout", "nchw"), "rgb", 1 / 255, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3))
    return build(folder, BundleSpec(SimilarityGraph(model, preprocessing), Resize(size, "squash"), **how))


def halved(folder: Path, bundle: Bundle, layer: str | None = None, features: Layout | None = None) -> Cut:
    graph = whole(folder / bundle.similarity.file)
    return cut(graph, bundle.similarity, bundle.resize.size, layer=layer, features=features, rows=4)


def is_whole(folder: Path, bundle: Bundle, made: Cut, tolerance: float = 1e-5) -> NDArray[Any]:
    """Checks the parts on images that the cut itself did not see; returns the layer's values of them."""
    height, width = bundle.resize.size
    images = np.random.default_rng(11).integers(0, 256, (6, height, width, 3), dtype=np.uint8)
    graph = session(folder / bundle.similarity.file)
    fixed = {"mask": np.ones((1, height, width, 1), np.float32), "fill": np.full((1, 1, 1, 3), 9, np.float32)}
    step = bundle.similarity.batch or 6
    padded = np.concatenate([images, images[:step]])
    expected = np.concatenate(
        [graph.run(["embedding"], {"image": padded[i : i + step], **fixed})[0] for i in range(0, 6, step)]
    )[:6]
    embeddings, values = run_trunk(session(made.trunk.SerializeToString()), made, images, bundle.similarity.batch)
    np.testing.assert_allclose(embeddings, expected, atol=tolerance)
    assert values.shape == (6, *made.shape)
    assert values.dtype == np.float32
    found = run_tail(session(made.tail.SerializeToString()), made, values)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    return values


def last_map(folder: Path, model: onnx.ModelProto, features: Layout | None = None, **how: Any) -> Cut:
    bundle = bundled(folder, model, **how)
    made = halved(folder, bundle, features=features)
    is_whole(folder, bundle, made, 2e-3 if bundle.similarity.precision == "float16" else 1e-5)
    return made


# Users' habits


@pytest.mark.parametrize(
    ("habits", "how"),
    [
        ({"head": "flatten"}, {}),
        ({"head": "pooled"}, {}),
        ({"head": "flatten", "opset": 9}, {}),
        ({"head": "static_reshape", "batch": 3}, {}),
        ({"head": "static_expand", "batch": 4}, {}),
        ({"head": "static_expand", "batch": 1}, {}),
        ({"layout": "nhwc"}, {"layout": "nhwc"}),
        ({"head": "flatten"}, {"similarity_function": "dot"}),
        ({"head": "flatten"}, {"similarity_function": "euclidean"}),
        ({"half": True}, {}),
        ({"half": True, "head": "static_expand", "batch": 2}, {}),
    ],
)
def test_habits(tmp_path: Path, habits: Any, how: Any) -> None:
    made = last_map(tmp_path / "b", network(**habits), "nchw", **how)
    assert (made.layer, made.shape, made.axis, made.channels, made.positions) == ("features", (4, H, W), 1, 4, H * W)
    assert made.rows == (habits["batch"] if habits.get("head") == "static_expand" else 4)


def test_the_tail_of_half_precision_is_of_single(tmp_path: Path) -> None:
    made = last_map(tmp_path / "b", network(half=True))
    halves = [tensor.name for tensor in networks.tensors(made.tail) if tensor.data_type == TensorProto.FLOAT16]
    assert not halves
    rng = np.random.default_rng(0)
    values = rng.random((4, 4, H, W), dtype=np.float32)
    w = {name: value.astype(np.float16).astype(np.float64) for name, value in weights().items()}
    expected = values.astype(np.float64).mean(axis=(2, 3)) @ w["dense"] + w["shift"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = run_tail(session(made.tail.SerializeToString()), made, values)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # half precision is off by 5e-4


def test_the_last_map_of_a_network_without_a_projection(tmp_path: Path) -> None:
    """Pooled by the maximum; its [B,4,1,1] has no positions and is passed over."""
    nodes = [node("GlobalMaxPool", ["positive"], ["peaks"]), node("Conv", ["peaks", "point"], ["out"])]
    point = np.ascontiguousarray(weights()["dense"].T[:, :, None, None])
    made = last_map(tmp_path / "b", ending([*nodes, node("Flatten", ["out"], ["flat"])], "flat", point=point))
    assert (made.layer, made.axis) == ("positive", 1)


def test_channels_last_behind_a_transpose(tmp_path: Path) -> None:
    """A map [B,H,W,C] as TensorFlow's converters leave it, averaged by a logarithm of exponentials: no projection."""
    nodes = [
        node("Transpose", ["positive"], ["last"], perm=[0, 2, 3, 1]),
        node("Relu", ["last"], ["still_last"]),
        node("ReduceLogSumExp", ["still_last"], ["flat"], axes=[1, 2], keepdims=0),
        node("Gemm", ["flat", "dense", "shift"], ["out"]),
    ]
    made = last_map(tmp_path / "b", ending(nodes, "out", opset=13))
    assert (made.layer, made.shape, made.axis, made.channels) == ("still_last", (H, W, 4), 3, 4)


def test_features_of_channels_last(tmp_path: Path) -> None:
    """Behind a Reshape no operator says where the channels stand: the bundle's projection does."""
    nodes = [
        node("Transpose", ["positive"], ["last"], perm=[0, 2, 3, 1]),
        node("Reshape", ["last", "same"], ["reshaped"]),
        node("ReduceMean", ["reshaped"], ["flat"], axes=[1, 2], keepdims=0),
        node("Gemm", ["flat", "dense", "shift"], ["out"]),
    ]
    made = last_map(tmp_path / "b", ending(nodes, "out", opset=13, same=[0, H, W, 4]), "nhwc")
    assert (made.layer, made.shape, made.axis) == ("features", (H, W, 4), 3)


TOKENS = [
    # [B,4,H,W] -> [B,HW,4] with the batch of the input's shape, a class token in front, one mixing of all tokens
    node("Shape", ["input"], ["shape"]),
    node("Gather", ["shape", "first"], ["rows"]),
    node("Concat", ["rows", "rest"], ["target"], axis=0),
    node("Reshape", ["positive", "target"], ["planes"]),
    node("Transpose", ["planes"], ["patches"], perm=[0, 2, 1]),
    node("Concat", ["rows", "one_token"], ["token_shape"], axis=0),
    node("Expand", ["token", "token_shape"], ["tokens"]),
    node("Concat", ["tokens", "patches"], ["sequence"], axis=1),
    node("MatMul", ["sequence", "square"], ["mixed"]),
    node("Softmax", ["mixed"], ["attended"], axis=1),
    node("Mul", ["attended", "sequence"], ["weighted"]),
    node("ReduceSum", ["weighted", "first_axis"], ["summed"], keepdims=0),
    node("Reshape", ["summed", "flat_shape"], ["flat"]),
    node("Concat", ["rows", "minus_one"], ["flat_shape_of"], axis=0),
    node("Reshape", ["flat", "flat_shape_of"], ["flat_again"]),
    node("Gemm", ["flat_again", "dense", "shift"], ["out"]),
]


def tokens() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    return ending(
        TOKENS, "out", first=[0], rest=[4, H * W], one_token=[1, 4], token=rng.normal(size=(1, 1, 4)),
        square=rng.normal(size=(4, 4)), first_axis=[1], flat_shape=[0, -1], minus_one=[-1],
    )  # fmt: skip


def test_a_sequence_with_a_class_token(tmp_path: Path) -> None:
    """The last value with positions; behind it the tail needs the batch's size, which is stored in it."""
    folder = tmp_path / "b"
    bundle = bundled(folder, tokens())
    made = halved(folder, bundle)
    assert (made.layer, made.shape, made.axis) == ("weighted", (H * W + 1, 4), 2)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.tail.graph.initializer}
    np.testing.assert_array_equal(stored["flat_shape_of"], [4, -1])
    assert "token" not in stored
    is_whole(folder, bundle, made)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        ("convolved", (4, H, W), 1),
        ("positive", (4, H, W), 1),
        ("patches", (H * W, 4), 2),
        ("sequence", (H * W + 1, 4), 2),
        ("summed", (4,), 1),
    ],
)
def test_a_layer_by_its_name(tmp_path: Path, layer: str, shape: tuple[int, ...], axis: int) -> None:
    """In front of the class token the tail takes the expanded token, which the image's shape makes."""
    folder = tmp_path / "b"
    bundle = bundled(folder, tokens())
    made = halved(folder, bundle, layer)
    assert (made.layer, made.shape, made.axis) == (layer, shape, axis)
    is_whole(folder, bundle, made)


@pytest.mark.parametrize("layer", ["mixed", "attended", "tokens", "rows", "embedding", "nowhere", "whymatch/perturbed"])
def test_what_cannot_be_a_layer(tmp_path: Path, layer: str) -> None:
    folder = tmp_path / "b"
    bundle = bundled(folder, tokens())
    with pytest.raises(BundleError) as refused:
        halved(folder, bundle, layer)
    assert f"--layer {layer}: every path" in str(refused.value)
    listed = f"weighted [I,193,4], sequence [I,193,4], patches [I,192,4], planes [I,4,192], positive [I,4,{H},{W}]"
    assert listed in str(refused.value)


def test_an_inner_graph_that_takes_outer_values(tmp_path: Path) -> None:
    """An If whose branches take the map and a stored weight, by names of the graph around them."""
    kind = TensorProto.FLOAT
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(operator, ["positive", "scale"], [f"{name}_made"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_made", kind, None)],
        )
        for name, operator in (("then", "Mul"), ("else", "Add"))
    }
    nodes = [
        node("ReduceMax", ["positive"], ["peak"], keepdims=0),
        node("Greater", ["peak", "limit"], ["bright"]),
        node("If", ["bright"], ["chosen"], **branches),
        node("GlobalMaxPool", ["chosen"], ["peaks"]),
        node("Flatten", ["peaks"], ["flat"]),
        node("Gemm", ["flat", "dense", "shift"], ["out"]),
    ]
    model = ending(nodes, "out", opset=13, limit=np.float32(0.0))
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 4, 1, 1), 1.5, np.float32), "scale"))
    folder = tmp_path / "b"
    bundle = bundled(folder, model)
    assert halved(folder, bundle).layer == "chosen"
    made = halved(folder, bundle, "positive")
    assert {"If", "Greater"} <= {one.op_type for one in made.tail.graph.node}
    is_whole(folder, bundle, made)


def test_data_outside_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "b"
    bundled(folder, network())
    whole_file, apart = onnx.load(folder / "similarity.onnx"), tmp_path / "apart.onnx"
    onnx.save_model(whole_file, apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    assert not any(uses_external_data(tensor) for tensor in networks.tensors(whole(apart)))
    monkeypatch.setattr(networks, "INLINE_LIMIT", 10)
    with pytest.raises(BundleError, match="cannot cut"):
        whole(apart)


def test_parts_that_are_not_the_whole_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    bundle = bundled(folder, network(), similarity_function="dot")

    def open_session(model: onnx.ModelProto) -> Any:
        if model.graph.name == "tail":
            for tensor in model.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT:
                    tensor.CopyFrom(numpy_helper.from_array(1.001 * numpy_helper.to_array(tensor), tensor.name))
        return session(model.SerializeToString())

    graph = whole(folder / bundle.similarity.file)
    with pytest.raises(BundleError, match="cut at 'convolved', the network's embeddings differ by"):
        cut(graph, bundle.similarity, SIZE, open_session=open_session)


def test_a_network_without_a_map(tmp_path: Path) -> None:
    """Two paths from the image on: nothing between it and the embedding but the network's own input."""
    nodes = [
        node("ReduceMax", ["positive"], ["peaks"], axes=[2, 3], keepdims=0),
        node("ReduceMean", ["input"], ["colour"], axes=[2, 3], keepdims=0),
        node("Concat", ["peaks", "colour"], ["flat"], axis=1),
    ]
    folder = tmp_path / "b"
    bundle = bundled(folder, ending(nodes, "flat", opset=13))
    with pytest.raises(BundleError, match="Name another value with --layer"):
        halved(folder, bundle)
    assert halved(folder, bundle, "flat").shape == (7,)


# Against brute force


@st.composite
def flows(draw: st.DrawFn) -> onnx.ModelProto:
    """A random graph of sums from image, mask and fill to the embedding; every value is taken or a dead end."""
    names = ["image", "mask", "fill"]
    nodes = []
    for index in range(draw(st.integers(2, 14))):
        taken = draw(st.lists(st.sampled_from(names[-6:]), min_size=1, max_size=3, unique=True))
        kind = draw(st.sampled_from(["Sum", "Sum", "Sum", "Shape"]))
        nodes.append(node(kind, taken if kind == "Sum" else taken[:1], [f"v{index}"], name=f"v{index}"))
        names.append(f"v{index}")
    nodes.append(
        node("Sum", draw(st.lists(st.sampled_from(names[3:]), min_size=1, max_size=3)), ["embedding"], name="end")
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in names[:3]]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1])]
    return helper.make_model(helper.make_graph(nodes, "flow", inputs, outputs))


@settings(max_examples=150, deadline=None)
@given(flows())
def test_cuts_are_the_values_without_which_nothing_arrives(model: onnx.ModelProto) -> None:
    def arrives(without: str | None) -> bool:
        there = {"image", "mask", "fill"}
        for one in model.graph.node:
            if one.op_type != "Shape" and there.intersection(one.input) and one.output[0] != without:
                there.add(one.output[0])
        return "embedding" in there

    names = [one.output[0] for one in model.graph.node][:-1]
    expected = [name for name in names if arrives(None) and not arrives(name)]
    assert tails.CutGraph(model).cuts() == expected


# Transformers from torch


class Maps(nn.Module):
    """A transformer's tokens as a map."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallTransformer((32, 48), dimension=16, heads=2, blocks=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward_features(x)


class ClassToken(nn.Module):
    """Patches, a class token in front of them, positions, one block, and the class token's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 7, 8))
        self.block, self.norm, self.head = Block(8, 2), nn.LayerNorm(8), nn.Linear(8, D)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        sequence = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        embedding: Tensor = self.head(self.norm(self.block(sequence))[:, 0])
        return embedding


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Bundle]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder, made = tmp_path_factory.mktemp("transformers"), {}
    for name, module, size in (
        ("maps", EmbeddingNetwork(Maps(), size=(32, 48), embedding=D), (32, 48)),
        ("token", ClassToken(), (16, 24)),
    ):
        model = to_onnx(module.eval(), size, ["embedding"])
        made[name] = folder / name, bundled(folder / name, model, size=size)
    yield made
    torch.set_num_threads(threads)


def test_a_transformer_that_pools_its_tokens(transformers: dict[str, tuple[Path, Bundle]]) -> None:
    folder, bundle = transformers["maps"]
    made = halved(folder, bundle, features="nchw")
    assert (made.layer, made.shape, made.axis) == ("features", (16, 2, 3), 1)
    is_whole(folder, bundle, made)


def test_every_cut_of_a_transformer_with_a_class_token(transformers: dict[str, tuple[Path, Bundle]]) -> None:
    folder, bundle = transformers["token"]
    made = halved(folder, bundle)
    assert (made.shape, made.axis) == ((7, 8), 2)
    is_whole(folder, bundle, made)
    names = tails.CutGraph(whole(folder / bundle.similarity.file)).cuts()
    assert names.index(made.layer) > 3
    shapes = []
    for name in names:
        one = halved(folder, bundle, name)
        is_whole(folder, bundle, one)
        shapes.append(one.shape)
    assert shapes[0] == (8, 2, 3)
    assert {(6, 8), (7, 8), (8,), (D,)} <= set(shapes)
