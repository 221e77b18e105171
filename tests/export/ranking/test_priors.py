"""``whymatch priors`` from a catalogue on disk to bundle.json, for similarities that are known to follow something."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from export.bundling.preprocessing import Preprocessing
from export.ranking.priors.command import priors_command
from export.ranking.priors.settings import PriorSettings
from pipeline import cli, demo
from pipeline.options.command_line import options_of
from tests.support.audits import read_csv, write_csv
from tests.support.interpreters import run_without
from tests.support.models.networks import OLD_IR, SIZE, attribute_network
from transforms.core.attributes.ranking import Scale, Scales
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging.images import Resize
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.models import Serving

VOCABULARY = (
    "colour=red", "colour=blue", "colour=grey", "category=top", "pattern=plain", "pattern=striped", "sleeve=long",
    "brand=aster", "colour=violet",
)  # fmt: skip
SEES = {
    "red": ([1, -0.5, -0.5], 0),
    "blue": ([-0.5, -0.5, 1], 0),
    "bright": ([0.33, 0.33, 0.33], 0),
    "dark": ([-0.33, -0.33, -0.33], 1),
}
"""The channels of the network's map: weights of R, G and B, and the bias."""


def network(pool: str = "mean", weights: Sequence[float] = (8, 1, 1, 1)) -> onnx.ModelProto:
    """Sees how red, blue, bright and dark a pixel is; by its ``weights`` it mostly embeds how red the image is.

    Pooled by the "mean" it has a projection; by the sum of "squares", or that of channels that stand "last", none.
    """
    stored = {
        "kernel": np.array([colours for colours, _ in SEES.values()], np.float32)[:, :, None, None],
        "bias": np.array([bias for _, bias in SEES.values()], np.float32),
        "dense": np.diag(weights).astype(np.float32),
    }
    node = helper.make_node
    nodes = [node("Conv", ["input", "kernel", "bias"], ["seen"]), node("Relu", ["seen"], ["map"])]
    if pool == "mean":
        nodes.append(node("ReduceMean", ["map"], ["flat"], axes=[2, 3], keepdims=0))
    else:
        axes = [2, 3] if pool == "squares" else [1, 2]
        if pool == "last":
            nodes.append(node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1]))
        of = "map" if pool == "squares" else "last"
        nodes.append(node("ReduceSumSquare", [of], ["flat"], axes=axes, keepdims=0))
    nodes.append(node("MatMul", ["flat", "dense"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=OLD_IR)


def red_bundle(
    folder: Path,
    pool: str = "mean",
    weights: Sequence[float] = (8, 1, 1, 1),
    attributes: bool = True,
    **how: Any,
) -> Path:
    """A bundle of the network; its attribute network gives the vocabulary, which is all that the priors need of it."""
    build(
        folder,
        BundleSpec(
            SimilarityGraph(network(pool, weights), Preprocessing("nchw", "rgb", 1 / 255, (0, 0, 0), (1, 1, 1))),
            Resize(SIZE, "squash"),
            attributes=AttributeGraph(attribute_network(names=len(VOCABULARY)), VOCABULARY) if attributes else None,
            **{"similarity_function": "dot", **how},
        ),
    )
    return folder


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue.csv of 200 drawn garments: 123 train, 31 are valid."""
    folder = tmp_path_factory.mktemp("garments")
    demo.draw(folder, products=200)
    return folder / "catalogue.csv"


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return red_bundle(tmp_path_factory.mktemp("bundles") / "red")


@pytest.fixture
def own(red: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be written to."""
    return Path(shutil.copytree(red, tmp_path / "red"))


def find(bundle: Path, catalogue: Path, *more: str) -> int:
    named = ["--bundle", str(bundle), "--catalogue", str(catalogue), "--device", "cpu", "--threads", "1"]
    return cli.main(["priors", *named, "--min-count", "6", *more])


FEW = ("--counter-sets", "3", "--random-concepts", "5")
"""Options for tests of anything but significance."""


def found(bundle: Path) -> tuple[Bundle, Mapping[str, Mapping[str, Any]]]:
    """What bundle.json says, and of each attribute."""
    read = bundles.read(str(bundle))
    return read, read.concepts["attributes"]


def refused(bundle: Path, catalogue: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The complaint; the bundle is as it was, and nothing lies beside it."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert find(bundle, catalogue, *more) == 2
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    return capsys.readouterr().err


# What is found


def test_what_the_similarity_follows_is_significant_and_strongest(
    own: Path, red: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundles.read(str(own))
    assert find(own, catalogue) == 0
    said = capsys.readouterr().out.splitlines()
    after, attributes = found(own)
    assert after.priors is not None
    assert attributes["colour=red"]["significant"]
    assert max(after.priors) == after.priors[0] == attributes["colour=red"]["score"] == 1
    assert all(0 <= prior < 0.95 for prior in after.priors[1:])
    assert attributes["colour=blue"]["score"] < 0.3  # more blue is less red
    assert attributes["colour=red"]["accuracy"] > 0.8 > attributes["brand=aster"]["accuracy"]
    assert {path.name for path in own.iterdir()} == {path.name for path in red.iterdir()}
    assert replace(after, priors=None, concepts={}) == before
    assert said[0] == f"layer 'features': 4 channels, {SIZE[0] * SIZE[1]} positions"
    assert any(line.startswith("colour=red ") and " 1.000 " in line for line in said)
    significant = sum(one["significant"] for one in attributes.values())
    assert any(
        line.startswith(f"{significant} of 9 attributes are significant, 1 could not be tested") for line in said
    )


def test_the_record(own: Path, catalogue: Path) -> None:
    assert find(own, catalogue, "--among", "all", "--seed", "3", "--top-k", "4", "--queries", "20") == 0
    after, attributes = found(own)
    record, drawn = after.concepts, read_csv(catalogue)
    settings = asdict(PriorSettings(min_count=6, among="all", seed=3, top_k=4, queries=20))
    assert {name: record[name] for name in settings} == {**settings, "layer": "features"}
    assert record["catalogue"] == "catalogue.csv"
    assert record["pairs"] == {"of": "the 4 most similar within the valid split", "queries": 20, "pairs": 80}
    assert record["left_out"] == {"of another split": 2}  # of the drawing's split "broken"
    assert (record["tested"], len(attributes)) == (8, 9)
    assert record["versions"].keys() == {"scikit-learn"}
    json.dumps(record, allow_nan=False)
    assert tuple(attributes) == VOCABULARY
    for name, one in attributes.items():
        column, _, value = name.partition("=")
        assert one["positives"] == sum(row[column] == value and row["split"] == "train" for row in drawn)
        assert one["pairs"] == 80
    assert attributes["colour=violet"] == {
        "score": None, "spread": None, "p_value": None, "significant": False, "positives": 0, "pairs": 80,
        "accuracy": None, "untested": "0 training products have it and 123 do not",
    }  # fmt: skip
    scores = [one["score"] for one in attributes.values() if one["significant"]]
    assert record["significant"] == len(scores) > 0
    assert record["replacement"] == {"mean_of": "significant", "value": pytest.approx(np.mean(scores))}
    expected = [one["score"] if one["significant"] else record["replacement"]["value"] for one in attributes.values()]
    assert after.priors == tuple(expected)


def test_a_network_that_was_trained_on_categories_follows_categories(catalogue: Path, tmp_path: Path) -> None:
    """The embedded bundle: where a garment has a category, more of it makes it more like what is recommended for it."""
    own = Path(shutil.copytree(demo.embedded("category"), tmp_path / "category"))
    assert find(own, catalogue, "--among", "having") == 0
    attributes = found(own)[1]
    scores = {name: one["score"] for name, one in attributes.items() if one["score"] is not None}
    categories = [score for name, score in scores.items() if name.startswith("category=")]
    others = [score for name, score in scores.items() if not name.startswith("category=")]
    assert len(categories) >= 4
    assert np.mean(categories) > np.mean(others) + 0.15
    assert max(scores, key=lambda name: scores[name]).startswith("category=")


def test_an_empty_cell_says_nothing(own: Path, catalogue: Path) -> None:
    """Trousers, skirts and bags have no sleeves: they are no examples of garments without long ones."""
    assert find(own, catalogue, "--min-count", "25", *FEW) == 0
    train = [row["sleeve"] for row in read_csv(catalogue) if row["split"] == "train"]
    long, others = train.count("long"), len([sleeve for sleeve in train if sleeve not in ("long", "")])
    assert train.count("") > 0
    assert found(own)[1]["sleeve=long"]["untested"] == f"{long} training products have it and {others} do not"


def test_the_same_to_the_bit_in_whatever_order(own: Path, catalogue: Path, tmp_path: Path) -> None:
    assert find(own, catalogue, *FEW) == 0
    first = (own / "bundle.json").read_bytes()
    rows = read_csv(catalogue)
    random.Random(1).shuffle(rows)
    for row in rows:
        row["image"] = str(catalogue.parent / row["image"])
    shuffled = write_csv(tmp_path / "catalogue.csv", rows)
    assert find(own, shuffled, "--image-root", str(catalogue.parent), "--batch", "7", *FEW) == 0
    assert (own / "bundle.json").read_bytes() == first
    assert find(own, catalogue, "--seed", "1", *FEW) == 0
    assert (own / "bundle.json").read_bytes() != first


@pytest.mark.parametrize(
    ("pool", "function"),
    [("mean", "cosine"), ("mean", "euclidean"), ("squares", "dot"), ("squares", "euclidean"), ("last", "dot")],
)
def test_every_similarity_and_users_own_networks(pool: str, function: str, catalogue: Path, tmp_path: Path) -> None:
    own = red_bundle(tmp_path / "b", pool, similarity_function=function)
    assert find(own, catalogue, *FEW) == 0
    after, attributes = found(own)
    assert after.concepts["layer"] == {"mean": "features", "squares": "map", "last": "last"}[pool]
    scores = [one["score"] for one in attributes.values() if one["score"] is not None]
    assert len(scores) == 8
    assert all(0 <= score <= 1 for score in scores)
    if function == "dot":
        assert attributes["colour=red"]["score"] == 1


def test_a_layer_that_is_named(own: Path, catalogue: Path) -> None:
    assert find(own, catalogue, "--layer", "flat", *FEW) == 0
    after, attributes = found(own)
    assert after.concepts["layer"] == "flat"
    assert attributes["colour=red"]["score"] == 1


def test_pairs_whose_query_has_the_attribute(own: Path, catalogue: Path) -> None:
    assert find(own, catalogue, "--among", "having") == 0
    _, attributes = found(own)
    rows = read_csv(catalogue)
    for name, one in attributes.items():
        column, _, value = name.partition("=")
        queries = sum(row["split"] == "valid" and row[column] == value for row in rows)
        assert one["pairs"] == 5 * queries
    assert attributes["colour=red"]["score"] == 1


# Pairs of a manifest


def listed(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "pairs.csv", rows)


def test_pairs_of_a_manifest(own: Path, catalogue: Path, tmp_path: Path) -> None:
    """Ids and addresses; a product twice, an unknown product, a pair twice, a broken image, a pair of one image."""
    rows = read_csv(catalogue)
    valid = [row["id"] for row in rows if row["split"] == "valid"]
    pairs = [
        {"query": "", "anchor": valid[i], "reference_id": valid[i + j]} for i in range(0, 12, 2) for j in (1, 2, 4)
    ]
    broken = next(row["id"] for row in rows if row["split"] == "broken")
    address = str(catalogue.parent / "images" / f"{valid[3]}.jpg")
    pairs.append({"query": address, "anchor": "", "reference_id": valid[0]})
    usable = len(pairs)
    pairs += [
        {"query": "", "anchor": "nobody", "reference_id": valid[0]},
        {"query": "", "anchor": valid[0], "reference_id": broken},
        {"query": "", "anchor": "", "reference_id": valid[0]},
        pairs[0],
        {"query": address, "anchor": "", "reference_id": valid[3]},
        {"query": str(catalogue.parent / "images" / "none.jpg"), "anchor": "", "reference_id": valid[3]},
    ]
    manifest = listed(tmp_path, pairs)
    more = [
        "--among",
        "all",
        "--pairs",
        str(manifest),
        "--columns",
        "query_id=anchor",
        "--image-root",
        str(catalogue.parent),
    ]
    assert find(own, catalogue, *more, *FEW) == 0
    record = found(own)[0].concepts
    assert record["pairs"] == {"of": "pairs.csv", "queries": 7, "pairs": usable}
    assert record["left_out"] == {
        "of another split": 2, "unknown_product": 1, "bad_row": 1, "duplicate_pair": 1, "not_found": 1,
        "damaged_image": 1, "pairs without two usable images that differ": 3,
    }  # fmt: skip
    assert found(own)[1]["colour=red"]["score"] == 1
    assert find(own, catalogue, *more, *FEW, "--queries", "6") == 0
    assert found(own)[0].concepts["pairs"]["queries"] <= 6


def test_pairs_of_products_that_train_are_left_out(
    own: Path, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On either side, by id or by the address of the image."""
    rows = read_csv(catalogue)
    valid, train = ([row["id"] for row in rows if row["split"] == split] for split in ("valid", "train"))
    image = str(catalogue.parent / "images" / f"{train[0]}.jpg")
    assert next(row["image"] for row in rows if row["id"] == train[0]) == f"images/{train[0]}.jpg"
    blank = {"query": "", "query_id": "", "reference_id": ""}
    held_out = [{**blank, "query_id": a, "reference_id": b} for a, b in pairwise(valid[:14])]
    seen = [
        {**blank, "query_id": train[0], "reference_id": valid[0]},
        {**blank, "query_id": valid[0], "reference_id": train[1]},
        {**blank, "query_id": train[2], "reference_id": train[3]},
        {**blank, "query": image, "reference_id": valid[1]},
    ]
    more = ["--image-root", str(catalogue.parent), "--among", "all", *FEW, "--pairs"]
    assert find(own, catalogue, *more, str(listed(tmp_path, held_out))) == 0
    alone = found(own)[0]
    assert find(own, catalogue, *more, str(listed(tmp_path, [*seen, *held_out]))) == 0
    both = found(own)[0]
    assert both.concepts["left_out"] == {**alone.concepts["left_out"], "pairs of a product that trains": 4}
    assert both.concepts["pairs"]["pairs"] == len(held_out)
    assert both.priors == alone.priors
    assert "4 pairs of a product that trains" in capsys.readouterr().out
    told = refused(own, catalogue, capsys, *more, str(listed(tmp_path, seen)))
    assert "pairs.csv: no held-out pair is left: " in told
    assert "4 pairs of a product that trains" in told


def test_of_two_rows_with_one_pair_id_the_same_counts(own: Path, catalogue: Path, tmp_path: Path) -> None:
    valid = [row["id"] for row in read_csv(catalogue) if row["split"] == "valid"]
    rows = [{"pair_id": f"p{i}", "query_id": valid[i], "reference_id": valid[i + 1]} for i in range(12)]
    twice = [{**rows[0], "query_id": query, "reference_id": valid[20]} for query in valid[13:20]]
    written = []
    for order in ([*rows, *twice], [*twice, *rows]):
        assert find(own, catalogue, "--pairs", str(listed(tmp_path, order)), "--among", "all", *FEW) == 0
        assert found(own)[0].concepts["left_out"]["duplicate_pair"] == len(twice)
        written.append((own / "bundle.json").read_bytes())
    assert written[0] == written[1]


def test_pairs_are_compared_under_their_condition(catalogue: Path, tmp_path: Path) -> None:
    """As the network would be without those dimensions that the condition leaves out."""
    masks = {"red": (1.0, 0.0, 0.0, 0.0), "rest": (0.0, 1.0, 0.5, 1.0)}
    conditioned = red_bundle(tmp_path / "conditioned", conditions=masks)
    valid = [row["id"] for row in read_csv(catalogue) if row["split"] == "valid"]
    rows = [{"query_id": query, "reference_id": reference} for query, reference in pairwise(valid)]
    plain = listed(tmp_path, rows)
    scores = []
    for name, mask in masks.items():
        under = [{**row, "condition": name} for row in rows]
        wrong = [{**rows[0], "condition": ""}, {**rows[0], "condition": "other"}]
        manifest = write_csv(tmp_path / f"{name}.csv", [*under, *wrong])
        assert find(conditioned, catalogue, "--pairs", str(manifest), "--among", "all", *FEW) == 0
        after, attributes = found(conditioned)
        assert after.concepts["left_out"]["unknown_condition"] == 2
        assert after.concepts["pairs"]["pairs"] == len(rows)
        alone = red_bundle(tmp_path / name, weights=np.multiply(mask, (8, 1, 1, 1)).tolist())
        assert find(alone, catalogue, "--pairs", str(plain), "--among", "all", *FEW) == 0
        assert {name: one["score"] for name, one in attributes.items()} == {
            name: one["score"] for name, one in found(alone)[1].items()
        }
        scores.append(attributes["colour=blue"]["score"])
    assert scores[0] < 0.1 < scores[1]


def test_conditions_need_pairs(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = red_bundle(tmp_path / "red", conditions={"red": (1, 0, 0, 0)})
    assert "the bundle has conditions, such as 'red'" in refused(own, catalogue, capsys)


# What cannot be done


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layer", "nowhere"], "--layer nowhere: every path from the image to the embedding must go through"),
        (["--counter-sets", "1"], "--counter-sets must be at least 2, not 1"),
        (["--random-concepts", "1"], "--random-concepts must be at least 2, not 1"),
        (["--min-count", "2"], "--min-count must be at least 3, not 2"),
        (["--set-size", "5"], "--set-size 5 is less than --min-count 6"),
        (["--alpha", "0"], "--alpha is a share between 0 and 1, not 0.0"),
        (["--step", "1.5"], "--step is a share between 0 and 1, not 1.5"),
        (["--queries", "0"], "--queries must be at least 1, not 0"),
        (["--queries", "1"], "5 pairs can be used, and shares of fewer than 10 say little"),
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--min-count", "90"], "no attribute of the vocabulary has 90 training products with it"),
        (["--pairs", "/nowhere/pairs.csv"], "/nowhere/pairs.csv"),
    ],
)
def test_refusals(
    more: list[str], message: str, own: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(own, catalogue, capsys, *more)


def test_a_bundle_without_attributes(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = red_bundle(tmp_path / "red", attributes=False)
    assert "has no attributes, so there is nothing to find priors of" in refused(own, catalogue, capsys)


def test_a_catalogue_without_the_columns(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = write_csv(tmp_path / "c.csv", [{"id": "a", "image": "a.jpg", "colour": "red"}])
    assert "no column 'category'" in refused(own, small, capsys)


def test_a_catalogue_without_held_out_products(
    own: Path, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "image": str(catalogue.parent / row["image"])} for row in read_csv(catalogue)]
    kept = [row for row in rows if row["split"] != "valid"]
    lone = write_csv(tmp_path / "c.csv", [*kept, next(row for row in rows if row["split"] == "valid")])
    more = ["--image-root", str(catalogue.parent)]
    assert "1 usable products of split valid" in refused(own, lone, capsys, *more)


def test_images_that_cannot_be_read(
    own: Path, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside of the folders that images may lie in: all are counted, none is used."""
    rows = [{**row, "image": str(catalogue.parent / row["image"])} for row in read_csv(catalogue)]
    assert "0 usable products of split valid" in refused(own, write_csv(tmp_path / "c.csv", rows), capsys)


def test_without_scikit_learn(
    own: Path, catalogue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert "pip install 'whymatch[priors]'" in refused(own, catalogue, capsys)


def test_a_bundle_that_changes_meanwhile(own: Path, catalogue: Path) -> None:
    """What is written there meanwhile stays, unless it makes another bundle of it."""
    described = bundles.read(str(own))
    weighed = replace(described, phi=(0.2, 0.3, 0.5), scales=Scales(prior=Scale((0.0, 0.5), (0.0, 1.0))))
    said: list[str] = []

    def calibrate(line: str) -> None:
        said.append(line)
        if line.startswith("concept vectors"):
            bundles.write(weighed, own)

    made = priors_command(
        Serving(str(own)),
        str(catalogue),
        settings=PriorSettings(min_count=6, counter_sets=2, random_concepts=2),
        echo=calibrate,
    )
    assert (made.phi, made.scales) == (weighed.phi, weighed.scales)
    assert made.priors is not None
    assert bundles.read(str(own)) == made
    assert "run `whymatch calibrate` again" in " ".join(said)

    def exchange(line: str) -> None:
        if line.startswith("concept vectors"):
            bundles.write(replace(described, vocabulary=VOCABULARY[::-1], priors=None), own)

    with pytest.raises(UsageError, match="another bundle meanwhile"):
        priors_command(
            Serving(str(own)),
            str(catalogue),
            settings=PriorSettings(min_count=6, counter_sets=2, random_concepts=2),
            echo=exchange,
        )
    assert bundles.read(str(own)).priors is None


def test_a_failing_network_is_named(own: Path, catalogue: Path) -> None:
    """A layer of one channel whose values never differ."""
    model = onnx.load(own / "similarity.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("kernel", "bias"):
            zero = 0 * numpy_helper.to_array(tensor) + (tensor.name == "bias")
            tensor.CopyFrom(numpy_helper.from_array(zero.astype(np.float32), tensor.name))
    onnx.save(model, own / "similarity.onnx")
    described = bundles.read(str(own))
    digest = bundles.file_sha256(own / "similarity.onnx")
    similarity = replace(described.similarity, files={"similarity.onnx": digest})
    bundles.write(replace(described, similarity=similarity), own)
    with pytest.raises(BundleError, match="activations are the same for products with and without"):
        priors_command(
            Serving(str(own)),
            str(catalogue),
            settings=PriorSettings(min_count=6, counter_sets=2, random_concepts=2),
            echo=lambda _: None,
        )


def test_no_torch_is_needed(own: Path, catalogue: Path) -> None:
    arguments = ["priors", "--bundle", str(own), "--catalogue", str(catalogue), "--min-count", "6", "--device", "cpu"]
    done = run_without(
        {"torch", "torchvision", "apache_beam"}, f"from pipeline.cli import main\nsys.exit(main({arguments!r}))"
    )
    assert done.returncode == 0, done.stderr
    assert found(own)[1]["colour=red"]["score"] == 1


def test_the_commands_defaults_are_the_settings() -> None:
    options = vars(options_of(cli.build_parser().parse_args(["priors", "--bundle", "b", "--catalogue", "c"])))
    assert PriorSettings() == PriorSettings(**{name: options[name] for name in asdict(PriorSettings())})
