"""The bundles of a cascade of randomised networks: complete, nested, and refused where they say nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from export.randomisation.cascade import RandomisedBundle, cascade, depths
from tests.support.models.assembled import (
    Array,
    assembled,
    bundled,
    changed,
    embeddings,
    head,
    node,
    noise,
    values,
    with_trunk,
)
from tests.support.models.bundles import small_bundle
from tests.support.models.networks import SIZE, D, network
from transforms.core.errors import BundleError, UsageError
from transforms.serving import bundle
from transforms.serving.runtime import session
from transforms.serving.similarity_model import SimilarityModel

DEMO = Path(__file__).parents[3] / "pipeline" / "demo" / "bundles"
H, W = SIZE


@given(st.integers(2, 60), st.integers(3, 70))
def test_stages_are_spread_over_the_depth_with_both_ends_and_the_half(count: int, stages: int) -> None:
    found = depths(count, stages)
    assert found == sorted(set(found))
    assert len(found) == min(count, stages)
    assert {found[0], found[-1]} == {1, count}
    assert min(depth for depth in range(1, count + 1) if depth / count >= 0.5) in found
    assert depths(count, None) == list(range(1, count + 1))


def test_four_stages_of_thirty_two_blocks() -> None:
    assert depths(32, 4) == [1, 16, 22, 32]  # 11 and 22 are the thirds; 11 is nearest to the half


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


def check_projection(stage: RandomisedBundle) -> None:
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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandomisedBundle, ...]:
    return cascade(DEMO / "category", tmp_path_factory.mktemp("demo") / "out", stages=3, seed=0)


def test_the_demo_is_random_from_the_head_to_the_image(demo: tuple[RandomisedBundle, ...]) -> None:
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
