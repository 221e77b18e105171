"""From somebody's ONNX files to a bundle that serves: `export.bundling.build`, and `whymatch bundle` around it."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image as PillowImage

from export.bundling import check_embedding as checking
from export.bundling import preprocessor_config as configs
from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from export.bundling.check_embedding import ExpectedEmbedding
from export.bundling.from_onnx import AttributeFlags, BundleRequest, bundle_command
from export.bundling.preprocessing import Preprocessing
from export.bundling.preprocessing_settings import PreprocessingFlags
from export.bundling.serve.probing import ServedGraph
from export.graphs import network_file as networks
from tests.support.models.networks import SIZE, D, attribute_network, compute, network
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging import images
from transforms.core.imaging.images import Resize
from transforms.core.saliency.sliding_window import sliding_window
from transforms.serving import bundle as bundles
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.bundle import Bundle
from transforms.serving.similarity_model import SimilarityModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RGB = Preprocessing("nchw", "rgb", 1 / 255, MEAN, STD)
BGR = Preprocessing("nhwc", "bgr", 1 / 255, MEAN[::-1], STD[::-1])
SQUASH = Resize(SIZE, "squash")
NAMES = ("colour=red", "colour=blue", "pattern=striped")
FLAGS: dict[str, Any] = {
    "layout": "nchw",
    "channels": "rgb",
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "size": SIZE,
    "resize": "squash",
    "interpolation": "bilinear",
}


def some_images(count: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def expected(count: int = 4, length_one: bool = True) -> NDArray[np.float64]:
    rows = compute(RGB.apply(some_images(count)))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if length_one else rows


def served(folder: Path, batch: int = 3) -> SimilarityModel:
    """The similarity model of the bundle in ``folder``, fetched as a worker does."""
    copy = folder.parent / f"{folder.name}-copy"
    copy.mkdir()
    return SimilarityModel(bundles.fetch(str(folder), copy), copy, "cpu", 1, batch)


def save(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    onnx.save_model(model, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("habits", "preprocessing", "batch"),
    [
        ({}, RGB, None),
        ({"layout": "nhwc", "channels": "bgr"}, BGR, None),
        ({"head": "pooled", "opset": 11}, RGB, None),
        ({"batch": 1, "opset": 21}, RGB, None),
        ({"batch": 4, "head": "pooled"}, RGB, None),
        ({"batch": 1, "head": "static_reshape"}, RGB, None),
        ({"batch": 3, "head": "static_reshape"}, RGB, None),
        ({"batch": 3, "head": "static_reshape", "opset": 13}, RGB, None),
        ({"batch": 1, "head": "static_expand"}, RGB, 1),
        ({"batch": 3, "head": "static_expand"}, RGB, 3),
        ({"size": ("height", "width")}, RGB, None),
        ({"names": ("image", "embedding")}, RGB, None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_habits_of_exporters(
    tmp_path: Path, habits: dict[str, Any], preprocessing: Preprocessing, batch: int | None
) -> None:
    made = build(tmp_path / "b", BundleSpec(SimilarityGraph(network(**habits), preprocessing), SQUASH))
    assert (made.similarity.batch, made.embedding_size, made.similarity.precision) == (batch, D, "float32")
    assert made.fill_mean == pytest.approx((123.675, 116.28, 103.53))
    assert bundles.read(str(tmp_path / "b")) == made
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)


def test_half_precision_is_recorded_and_served(tmp_path: Path) -> None:
    made = build(tmp_path / "b", BundleSpec(SimilarityGraph(network(half=True), RGB), SQUASH))
    assert made.similarity.precision == "float16"
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-3)


@pytest.mark.parametrize("function", ["dot", "euclidean"])
def test_other_similarities_keep_the_length(tmp_path: Path, function: Any) -> None:
    spec = BundleSpec(SimilarityGraph(network(), RGB), SQUASH)
    made = build(tmp_path / "b", replace(spec, similarity_function=function))
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(length_one=False), atol=1e-5)
    assert made.model_id != build(tmp_path / "c", spec).model_id


def test_a_network_that_mixes_its_batch_is_served_one_by_one(tmp_path: Path) -> None:
    """It claims any batch size, and subtracts the batch's mean."""
    model = network(head="pooled", names=("input", "row"))
    model.graph.node.append(helper.make_node("ReduceMean", ["row"], ["of_batch"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Mul", ["of_batch", "tenth"], ["small"]))
    model.graph.node.append(helper.make_node("Add", ["row", "small"], ["sum"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "tenth"))
    model.graph.output[0].name = "sum"
    made = build(tmp_path / "b", BundleSpec(SimilarityGraph(model, RGB), SQUASH))
    assert made.similarity.batch == 1
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)


def test_two_exports_of_one_network_explain_alike(tmp_path: Path) -> None:
    """NCHW in RGB and NHWC in BGR, centre crop: the same embeddings under masks, so the same maps."""
    crop = Resize(SIZE, "crop", "bicubic", shorter=14)
    frame = images.resize(images.decode(photograph(tmp_path).read_bytes()), crop)[0]
    design = sliding_window(SIZE, window=5, stride=3)
    fill = np.array([250, 10, 128], np.float32).reshape(1, 1, 1, 3)
    reference = expected(1)[0]
    rows = []
    for name, given, preprocessing in (
        ("plain", network(), RGB),
        ("turned", network(layout="nhwc", channels="bgr"), BGR),
    ):
        build(tmp_path / name, BundleSpec(SimilarityGraph(given, preprocessing), crop))
        model = served(tmp_path / name)
        rows.append(model.perturbed(frame, model.bank(design), fill))
    maps = [design.estimate((row.astype(np.float64) @ reference)[None], np.ones(1)) for row in rows]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5 * np.ptp(maps[0]))
    assert np.ptp(maps[0]) > 0.05  # wide enough for float32 to resolve 1e-5 of it


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_attributes(tmp_path: Path, layout: Any) -> None:
    given = attribute_network(layout=layout)
    own = Preprocessing(layout, "rgb", 1 / 255, MEAN, STD)
    made = build(
        tmp_path / "b",
        BundleSpec(
            SimilarityGraph(network(), RGB),
            SQUASH,
            attributes=AttributeGraph(given, NAMES, preprocessing=own),
            priors=(0.2, 0.3, 0.5),
            phi=(0.7, 0.3, 0.1),
        ),
    )
    assert (made.vocabulary, made.priors, made.phi) == (NAMES, (0.2, 0.3, 0.5), (0.7, 0.3, 0.1))
    scores, maps = AttributeModel(made, tmp_path / "b", "cpu", 1, 3).predict(some_images())
    assert (scores.shape, maps.shape) == ((4, 3), (4, 3, 6, 8))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-maps.mean(axis=(2, 3)))), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"similarity": network(head="feature_map")}, r"\[\?,4,12,16\], expected an embedding.*--output"),
        ({"similarity": network(size=(16, 12))}, r"takes \[.*3,16,12\].*size 12x16"),
        ({"similarity": network(layout="nhwc")}, "layout nchw"),
        ({"attributes": attribute_network(maps=False)}, r"scores \[B,A\] and the maps"),
        ({"attributes": attribute_network(logits=True)}, "--activation sigmoid"),
        ({"attributes": attribute_network(names=4)}, "4 scores for 3 names"),
    ],
)
def test_what_cannot_serve_is_refused_and_leaves_nothing(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    similarity = SimilarityGraph(change.get("similarity", network()), RGB)
    attributes = AttributeGraph(change["attributes"], NAMES) if "attributes" in change else None
    with pytest.raises(UsageError, match=told):
        build(tmp_path / "b", BundleSpec(similarity, SQUASH, attributes=attributes))
    assert list(tmp_path.iterdir()) == []


def test_attribute_networks_and_names_come_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an attribute network and 0 attribute names"):
        AttributeGraph(attribute_network(), ())
    with pytest.raises(UsageError, match="no attribute network and 3 attribute names"):
        command(tmp_path, vocabulary=NAMES)
    attributes = save(attribute_network(), tmp_path, "attributes.onnx")
    with pytest.raises(UsageError, match="an attribute network and 0 attribute names"):
        command(tmp_path, attributes_onnx=attributes)
    assert not (tmp_path / "b").exists()


def test_networks_that_give_nan_are_refused(tmp_path: Path) -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name == "shift":
            tensor.CopyFrom(numpy_helper.from_array(np.full(D, np.nan, np.float32), "shift"))
    with pytest.raises(BundleError, match="NaN or infinity"):
        build(tmp_path / "b", BundleSpec(SimilarityGraph(model, RGB), SQUASH))


def test_networks_that_give_nothing_are_refused(tmp_path: Path) -> None:
    """In half precision, numbers this small have lost most of their digits."""
    model = network(half=True)
    for tensor in model.graph.initializer:
        if tensor.name in ("dense", "shift"):
            scaled = (numpy_helper.to_array(tensor) * 1e-6).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    with pytest.raises(BundleError, match="float16 cannot tell from zero"):
        build(tmp_path / "b", BundleSpec(SimilarityGraph(model, RGB), SQUASH))


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    build(tmp_path / "b", BundleSpec(SimilarityGraph(network(), RGB), SQUASH))
    before = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert before == ["bundle.json", "projection.onnx", "similarity.onnx"]
    with pytest.raises(UsageError, match="is there already"):
        build(tmp_path / "b", BundleSpec(SimilarityGraph(network(seed=1), RGB), SQUASH))
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_same_input_gives_the_same_ids(tmp_path: Path) -> None:
    specs = [BundleSpec(SimilarityGraph(network(seed=n // 2), RGB), SQUASH) for n in range(3)]
    one, two, other = (build(tmp_path / str(n), spec) for n, spec in enumerate(specs))
    assert one == two
    assert one.model_id != other.model_id


def external(folder: Path, location: str = "net.data") -> Path:
    onnx.save_model(
        network(),
        folder / "net.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=location,
        size_threshold=0,
    )
    return folder / "net.onnx"


def moved(path: Path, location: str) -> Path:
    """``path`` with all of its external data said to be at ``location``."""
    model = onnx.load_model(path, load_external_data=False)
    for tensor in networks.tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("limit", [networks.INLINE_LIMIT, 0])
def test_external_data_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(networks, "INLINE_LIMIT", limit)
    (tmp_path / "theirs").mkdir()
    path = external(tmp_path / "theirs")
    made = build(tmp_path / "b", BundleSpec(SimilarityGraph(path, RGB), SQUASH))
    assert list(made.similarity.files) == ["similarity.onnx"] + ["similarity-0.data"] * (limit == 0)
    for file in (tmp_path / "theirs").iterdir():
        file.unlink()
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "a/../../secret.data", "", "..\\secret.data"])
def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "theirs").mkdir()
    path = external(tmp_path / "theirs")
    (tmp_path / "theirs" / "net.data").rename(tmp_path / "secret.data")
    with pytest.raises(BundleError, match="outside of the network's folder"):
        build(tmp_path / "b", BundleSpec(SimilarityGraph(moved(path, location), RGB), SQUASH))


@pytest.mark.parametrize("limit", [networks.INLINE_LIMIT, 0])
def test_external_data_behind_a_link_is_refused_and_a_missing_file_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(networks, "INLINE_LIMIT", limit)
    (tmp_path / "theirs").mkdir()
    path = external(tmp_path / "theirs")
    (tmp_path / "theirs" / "net.data").rename(tmp_path / "secret.data")
    with pytest.raises(BundleError, match=r"net\.data.*is missing"):
        networks.load(path)
    os.symlink(tmp_path / "secret.data", tmp_path / "theirs" / "net.data")
    with pytest.raises(BundleError, match="symbolic link"):
        networks.load(path)


def test_external_data_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.data").write_bytes((tmp_path / "net.data").read_bytes()[:40])
    with pytest.raises(BundleError, match=r"external data of .* cannot be read"):
        networks.load(path)


def strange(domain: str) -> onnx.NodeProto:
    return helper.make_node("Evil", ["x"], ["z"], domain=domain)


def test_unknown_domains_are_refused_wherever_they_are() -> None:
    plain = network()
    plain.graph.node.append(strange("my.ops"))
    inner = network()
    branch = helper.make_graph([strange("my.ops")], "b", [], [helper.make_tensor_value_info("z", 1, None)])
    inner.graph.node.append(helper.make_node("If", ["yes"], ["z2"], then_branch=branch, else_branch=branch))
    function = network()
    body = helper.make_function("local", "F", ["x"], ["z"], [strange("my.ops")], [helper.make_opsetid("my.ops", 1)])
    function.functions.append(body)
    for model in (plain, inner, function):
        with pytest.raises(BundleError, match=r"Evil is of the domain 'my\.ops'"):
            networks.load(model)


def test_functions_of_the_network_itself_may_have_any_domain(tmp_path: Path) -> None:
    model = network(names=("input", "before"))
    double = helper.make_node("Add", ["x", "x"], ["y"])
    model.functions.append(
        helper.make_function("local", "Double", ["x"], ["y"], [double], [helper.make_opsetid("", 17)])
    )
    model.graph.node.append(helper.make_node("Double", ["before"], ["after"], domain="local"))
    model.graph.output[0].name = "after"
    model.opset_import.append(helper.make_opsetid("local", 1))
    build(tmp_path / "b", BundleSpec(SimilarityGraph(model, RGB), SQUASH))
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)


def test_files_that_are_no_network(tmp_path: Path) -> None:
    for content in (b"", b"no onnx at all", b"\x08\x07"):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(BundleError, match="is no ONNX"):
            networks.load(tmp_path / "x.onnx")
    with pytest.raises(BundleError, match="cannot read"):
        networks.load(tmp_path / "absent.onnx")


# The command


def command(folder: Path, **change: Any) -> tuple[Bundle, str]:
    """`whymatch bundle` on the plain network with every flag, or without those that are None; and what it printed."""
    path = change.pop("similarity_onnx", None) or save(network(), folder)
    asked = {**FLAGS, **change}
    own: list[dict[str, Any]] = [
        {field.name: asked.pop(field.name) for field in fields(flags) if field.name in asked}
        for flags in (PreprocessingFlags, AttributeFlags)
    ]
    check = ExpectedEmbedding(*asked.pop("check")) if "check" in asked else None
    request = BundleRequest(
        path,
        folder / "b",
        preprocessing=PreprocessingFlags(**own[0]),
        attributes=AttributeFlags(**own[1]),
        check=check,
        **asked,
    )
    said: list[str] = []
    made = bundle_command(request, echo=said.append)
    return made, "\n".join(said)


def test_what_was_used_is_printed_with_its_source(tmp_path: Path) -> None:
    made, said = command(tmp_path, layout=None, size=None)
    for words in (
        r"layout nchw the network's input shape",
        r"size 12x16 the network's input shape",
        r"scale 0.00392156863 --scale",
        r"mean 0.485, 0.456, 0.406 --mean",
        r"resize squash --resize",
        r"colour 123.675, 116.28, 103.53",
        "any batch size (input 'input', output 'output')",
        "maps only",
        made.model_id,
    ):
        assert " ".join(words.split()) in " ".join(said.split())
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)


def test_every_missing_setting_is_named(tmp_path: Path) -> None:
    path = save(network(size=("h", "w")), tmp_path)
    none = dict.fromkeys(("channels", "scale", "mean", "std", "size", "resize", "interpolation", "layout"))
    with pytest.raises(UsageError) as raised:
        command(tmp_path, similarity_onnx=path, **none)
    for flag in ("--channels", "--scale", "--mean", "--std", "--size", "--resize", "--interpolation"):
        assert flag in str(raised.value)
    assert "--layout" not in str(raised.value)  # three channels at axis 1 leave no doubt
    assert "preprocessor_config.json" in str(raised.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": (16, 12)}, "--size is 16x12, but the network's input shape says 12x16"),
        ({"layout": "nhwc"}, "--layout is nhwc, but the network's input shape says nchw"),
        ({"shorter": 20}, "it belongs to 'crop'"),
        ({"std": (1, 1, 0)}, "std is"),
        ({"interpolation": "area"}, "interpolation is 'area'"),
    ],
)
def test_contradictions(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        command(tmp_path, **change)


CLIP = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def test_the_file_beside_the_network_is_read_and_flags_win(tmp_path: Path) -> None:
    path = save(network(size=("h", "w")), tmp_path)
    content = {**CLIP, "crop_size": {"height": 12, "width": 16}, "size": {"shortest_edge": 18}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    none = dict.fromkeys(FLAGS)
    made, said = command(tmp_path, similarity_onnx=path, **{**none, "mean": (0.5, 0.5, 0.5)})
    assert made.resize == Resize(SIZE, "crop", "bicubic", shorter=18)
    assert made.similarity.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert made.similarity.preprocessing["std"] == CLIP["image_std"]
    assert f"18 {tmp_path / 'preprocessor_config.json'}" in " ".join(said.split())
    assert "0.5, 0.5, 0.5 --mean" in " ".join(said.split())
    (tmp_path / "b").rename(tmp_path / "first")
    made, _ = command(tmp_path, similarity_onnx=path, **{**none, "size": (12, 20)})
    assert made.resize == Resize((12, 20), "crop", "bicubic")  # the file's 18 belongs to the file's size


def test_a_file_that_contradicts_the_network(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    with pytest.raises(UsageError, match=r"takes 12x16, .*config\.json says 224x224"):
        command(tmp_path, **dict.fromkeys(FLAGS), preprocessor_config=tmp_path / "config.json")


HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "values", "gaps"),
    [
        (
            CLIP,
            {"size": (224, 224), "resize": "crop", "shorter": 224, "interpolation": "bicubic", "scale": 1 / 255},
            set(),
        ),
        (
            {
                "image_processor_type": "ViTImageProcessor",
                "do_rescale": True,
                "rescale_factor": 0.00392156862745098,
                "do_normalize": True,
                "image_mean": HALF,
                "image_std": HALF,
                "resample": 2,
                "size": {"height": 384, "width": 224},
            },
            {"size": (384, 224), "resize": "squash", "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5)},
            set(),
        ),
        (
            {
                "image_processor_type": "ConvNextImageProcessorFast",
                "crop_pct": 0.875,
                "data_format": "channels_first",
                "image_mean": HALF,
                "image_std": HALF,
                "resample": 3,
                "size": {"shortest_edge": 224},
            },
            {"size": (224, 224), "resize": "crop", "shorter": 256, "scale": 1 / 255},
            set(),
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "image_mean": 0, "image_std": 1, "size": 384},
            {"size": (384, 384), "resize": "squash", "mean": (0, 0, 0)},
            {"interpolation"},
        ),
        (
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "do_center_crop": False,
                "crop_size": {"height": 289, "width": 289},
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.5, 0.25, 0.2],
                "include_top": True,
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "resample": 0,
                "size": {"height": 600, "width": 600},
            },
            {"mean": (1.485, 1.456, 1.406), "std": (0.25, 0.0625, 0.04), "interpolation": "nearest"},
            set(),
        ),
        (
            {
                "image_processor_type": "MobileViTImageProcessor",
                "crop_size": {"height": 256, "width": 256},
                "do_center_crop": True,
                "do_flip_channel_order": True,
                "resample": 2,
                "size": {"shortest_edge": 288},
            },
            {"channels": "bgr", "mean": (0, 0, 0), "std": (1, 1, 1), "shorter": 288, "size": (256, 256)},
            set(),
        ),
        (
            {
                "image_processor_type": "DeiTImageProcessor",
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "image_mean": HALF,
                "image_std": HALF,
                "resample": 3,
                "size": {"height": 256, "width": 256},
            },
            {"channels": "rgb"},
            {"size", "resize"},
        ),
        (
            {"size": 224, "do_normalize": True, "image_mean": HALF, "image_std": HALF, "resample": 4},
            {"mean": (0.5, 0.5, 0.5)},
            {"size", "resize", "scale", "interpolation"},
        ),
        (
            {"do_normalize": False, "do_rescale": False, "do_resize": False},
            {"scale": 1.0},
            {"size", "resize", "interpolation"},
        ),
        ({"do_rescale": False, "size": {"shortest_edge": 224}, "resample": 2}, {}, {"size", "resize", "mean", "std"}),
    ],
)
def test_preprocessor_configs(content: dict[str, Any], values: dict[str, Any], gaps: set[str]) -> None:
    found = configs.parse(content)
    for name, value in values.items():
        assert found.values[name] == pytest.approx(value), name
    assert set(found.gaps) == gaps
    assert not gaps & set(found.values)


@pytest.mark.parametrize("content", ["[]", "{", '{"image_mean": [1, 2]}', '{"size": {"height": "x", "width": 3}}'])
def test_damaged_preprocessor_configs(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UsageError, match=r"expected|no JSON"):
        configs.read(tmp_path / "c.json")


def test_attributes_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    logits = save(attribute_network(layout="nhwc", logits=True), tmp_path, "attributes.onnx")
    made, said = command(tmp_path, attributes_onnx=logits, vocabulary=tmp_path / "names.txt", activation="sigmoid")
    assert made.vocabulary == NAMES
    assert made.attributes is not None
    assert made.attributes.preprocessing["layout"] == "nhwc"
    assert "attributes: 3 names" in said


@pytest.mark.parametrize(("text", "told"), [("", "no name"), ("a\n\nb", "name 2"), ("a\nb\na", "'a' twice")])
def test_damaged_vocabularies(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    given = save(attribute_network(), tmp_path, "attributes.onnx")
    with pytest.raises(UsageError, match=told):
        command(tmp_path, attributes_onnx=given, vocabulary=tmp_path / "names.txt")


def photograph(folder: Path) -> Path:
    """60 x 100 pixels, smooth enough to survive a resize, coloured enough to tell channels apart."""
    y, x = np.mgrid[0:60, 0:100]
    red, green, blue = 255 * x / 99, 128 + 100 * np.sin(y / 5), 255 * (y / 59) ** 2 * (x > 50)
    PillowImage.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8)).save(folder / "photo.png")
    return folder / "photo.png"


def theirs(folder: Path, preprocessing: Preprocessing, resize: Resize, factor: float = 1.0) -> Path:
    """The embedding that a pipeline with these settings gives the photograph, as the user's own .npy file."""
    frame = images.resize(images.decode(photograph(folder).read_bytes()), resize)[0]
    plain = Preprocessing("nchw", preprocessing.channels, preprocessing.scale, preprocessing.mean, preprocessing.std)
    np.save(folder / "theirs.npy", (compute(plain.apply(frame[None]))[0] * factor).astype(np.float32))
    return folder / "theirs.npy"


def test_the_check_passes_on_the_right_settings(tmp_path: Path) -> None:
    check = photograph(tmp_path), theirs(tmp_path, RGB, SQUASH, factor=3.0)
    _, said = command(tmp_path, check=check)
    assert "check: " in said
    assert "cosine 1.000000" in said


@pytest.mark.parametrize(
    ("preprocessing", "resize", "advice"),
    [
        (Preprocessing("nchw", "bgr", 1 / 255, MEAN, STD), SQUASH, "It fits with --channels bgr ("),
        (
            Preprocessing("nchw", "bgr", 1 / 255, MEAN[::-1], STD[::-1]),
            SQUASH,
            "--channels bgr --mean 0.406,0.456,0.485 --std 0.225,0.224,0.229",
        ),
        (Preprocessing("nchw", "rgb", 1.0), SQUASH, "--scale 1 --mean 0,0,0 --std 1,1,1"),
        (RGB, Resize(SIZE, "crop"), "--resize crop ("),
        (RGB, Resize(SIZE, "crop", shorter=14), "--resize crop --shorter 14"),
        (RGB, Resize(SIZE, "pad"), "--resize pad"),
        (RGB, Resize(SIZE, "squash", "nearest"), "--interpolation nearest"),
        (
            Preprocessing("nchw", "bgr", 1 / 255, MEAN, STD),
            Resize(SIZE, "crop"),
            "--channels bgr and --resize crop (",
        ),
        (Preprocessing("nchw", "rgb", 1 / 200, (0.1, 0.7, 0.2), (0.1, 0.9, 0.3)), SQUASH, "none fits"),
    ],
)
def test_the_check_names_what_would_fit(
    tmp_path: Path, preprocessing: Preprocessing, resize: Resize, advice: str
) -> None:
    check = photograph(tmp_path), theirs(tmp_path, preprocessing, resize)
    with pytest.raises(UsageError) as raised:
        command(tmp_path, check=check)
    assert advice in str(raised.value)
    assert "cosine 0." in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "photo.png", "theirs.npy"]


def test_the_check_works_for_a_fixed_batch_and_other_similarities(tmp_path: Path) -> None:
    path = save(network(batch=3, head="static_expand"), tmp_path)
    check = photograph(tmp_path), theirs(tmp_path, RGB, Resize(SIZE, "crop"))
    with pytest.raises(UsageError, match=r"It fits with --resize crop \("):
        command(tmp_path, similarity_onnx=path, check=check)
    twice = photograph(tmp_path), theirs(tmp_path, RGB, SQUASH, factor=2.0)
    with pytest.raises(UsageError, match=r"0\.5 times as long"):
        command(tmp_path, similarity_onnx=path, check=twice, similarity_function="dot")


def test_the_check_refuses_what_is_no_embedding(tmp_path: Path) -> None:
    photo = photograph(tmp_path)
    refused: list[tuple[Any, str]] = [
        (np.ones(D + 1, np.float32), "one embedding of 5"),
        (np.ones(D, np.int64), "one embedding of 5"),
        (np.array([None] * D), "no .npy file"),
        (np.full(D, np.nan), "NaN"),
        (np.zeros(D), "only zeros"),
    ]
    for values, told in refused:
        np.save(tmp_path / "theirs.npy", values)
        with pytest.raises(UsageError, match=told):
            command(tmp_path, check=(photo, tmp_path / "theirs.npy"))
    (tmp_path / "photo.png").write_bytes(b"<html>")
    np.save(tmp_path / "theirs.npy", np.ones(D))
    with pytest.raises(UsageError, match="--check"):
        command(tmp_path, check=(photo, tmp_path / "theirs.npy"))


def test_a_difference_by_hand() -> None:
    found = checking.difference(np.array([3, 4], np.float32), np.array([8.0, 6.0]))
    assert (found.largest, found.cosine, found.lengths) == pytest.approx((0.2, 0.96, 0.5))


def test_old_files_that_list_their_weights_as_inputs(tmp_path: Path) -> None:
    """IR version 3: every initializer is an input too."""
    model = network(opset=8)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    path = save(model, tmp_path)
    build(tmp_path / "b", BundleSpec(SimilarityGraph(path, RGB), SQUASH))
    np.testing.assert_allclose(served(tmp_path / "b").embed(some_images()), expected(), atol=2e-6)
    inputs = [value.name for value in onnx.load(tmp_path / "b" / "similarity.onnx").graph.input]
    assert inputs == ["image", "mask", "fill"]


def test_no_path_of_the_exporting_machine_is_kept(tmp_path: Path) -> None:
    model = network()
    entry = model.metadata_props.add()
    entry.key, entry.value = "source", "/home/somebody/model.py"
    build(tmp_path / "b", BundleSpec(SimilarityGraph(model, RGB), SQUASH))
    assert b"somebody" not in (tmp_path / "b" / "similarity.onnx").read_bytes()


@pytest.mark.parametrize("varies_with", [None, 1, 2])
def test_a_network_whose_rows_depend_on_their_batch_is_found_out(varies_with: int | None) -> None:
    """As a matrix product may take other kernels for other numbers of rows: a last bit more, in one batch size only."""

    class Session:
        def run(self, outputs: list[str], feeds: dict[str, Any]) -> list[NDArray[np.float32]]:
            rows = feeds["image"].mean(axis=(1, 2)).astype(np.float32)
            return [np.nextafter(rows, np.float32(1e9)) if len(rows) == varies_with else rows for _ in outputs]

    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    assert ServedGraph(Session(), None, ["embedding"], {}).batch_invariant(pixels) == (varies_with is None)
    assert ServedGraph(Session(), 2, ["embedding"], {}).batch_invariant(pixels)  # it never meets another batch
