"""The ranking's calibration on disk: from tables, written by hand and by audits, to a bundle that uses it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from export.ranking import calibrate as ranking
from export.ranking.calibrate import FOLDS, CalibrationRequest, calibrate, calibrate_command
from export.ranking.catalogue_embeddings import embed_catalogue
from export.ranking.evidence import AuditMaps, RankingDataset, collect
from export.ranking.products import read_products
from export.training.splits import with_splits
from pipeline import cli
from tests.support.audits import audit, table, write_csv
from tests.support.models.bundles import PREPROCESSING, small_bundle
from tests.support.models.networks import SIZE, D, attribute_network, network
from tests.support.removal import by_definition
from tests.support.tables.rows import explanation, publish, run
from transforms import storage
from transforms.core.attributes.ranking import Ranking, match_scores
from transforms.core.errors import BundleError, ModelFailed, UsageError
from transforms.core.imaging.images import Resize
from transforms.core.metrics.removal import Oracle, Pool, Removal
from transforms.core.records import Float64
from transforms.serving import bundle as bundles
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.bundle import Bundle
from transforms.serving.models import Serving
from transforms.serving.similarity_model import SimilarityModel

KINDS, COLOURS = ("dress", "skirt", "top"), ("blue", "green", "red")
VOCABULARY = (*(f"kind={kind}" for kind in KINDS), *(f"colour={colour}" for colour in COLOURS))
CONDITION = (1.0, 0.0, 0.5, 2.0, 0.0)
ANY = Removal(max_distance=None)


def quiet(_: str) -> None:
    """For what a test does not look at."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of 60 images of the model's size, four of which cannot be used: its column colour has empty cells."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(4)
    rows = []
    for number in range(60):
        pixels = rng.integers(0, 256, (3, 4, 3)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
        name = f"{number:02}.png"
        if number != 57:
            Image.fromarray(pixels).save(folder / name)
        rare = {5: "violet", 15: "pink"}.get(number % 20)
        colour = "" if number % 10 == 3 else rare or COLOURS[number // 3 % 3]
        split = ("train", "valid", "test")[number % 3]
        product_id = "twice" if number in (58, 59) else f"p{number:02}"
        rows.append({"id": product_id, "image": name, "kind": KINDS[number % 3], "colour": colour, "split": split})
    (folder / "56.png").write_bytes(b"no image")
    write_csv(folder / "products.csv", rows)
    pairs = [
        {"query_id": f"p{query:02}", "reference_id": f"p{(query * 7 + step) % 55:02}"}
        for query in range(1, 40, 3)  # valid
        for step in (5, 11)
    ]
    write_csv(folder / "pairs.csv", pairs)
    return folder


def shop_bundle(folder: Path, **given: Any) -> Bundle:
    """A bundle of hand-built networks with the attributes of ``VOCABULARY``."""
    return build(
        folder,
        BundleSpec(
            SimilarityGraph(network(size=SIZE), PREPROCESSING),
            Resize(SIZE, "squash"),
            attributes=AttributeGraph(attribute_network(names=len(VOCABULARY)), VOCABULARY),
            **given,
        ),
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle with one condition and with priors; not to be changed."""
    folder = tmp_path_factory.mktemp("served") / "bundle"
    shop_bundle(folder, conditions={"worn": CONDITION}, priors=(0.1, 0.7, 0.3, 0.2, 0.9, 0.4))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a bundle that a test may change."""
    shop_bundle(tmp_path / "own")
    return tmp_path / "own"


class World:
    """The shop's products as the networks see them, put together without the code under test."""

    def __init__(self, shop: Path, folder: Path) -> None:
        self.bundle = bundles.read(str(folder))
        lines = [line.split(",") for line in (shop / "products.csv").read_text().splitlines()[1:]]
        self.rows = {line[0]: line for line in lines if line[1][:2] not in ("56", "57", "58", "59")}
        self.ids = list(self.rows)
        images = np.stack([np.asarray(Image.open(shop / self.rows[one][1])) for one in self.ids])
        self.embeddings = SimilarityModel(self.bundle, folder, "cpu", 1, 8).embed(images)
        self.confidence, self.activations = AttributeModel(self.bundle, folder, "cpu", 1, 8).predict(images)

    def similarity(self, query: str, reference: str, mask: Sequence[float] = (1,) * D) -> float:
        one, other = (self.embeddings[self.ids.index(each)] * mask for each in (query, reference))
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    def drops(
        self,
        query: str,
        reference: str,
        removal: Removal,
        mask: Sequence[float] = (1,) * D,
        groups: NDArray[np.int64] | None = None,
    ) -> list[float]:
        """By definition, over a table in which violet and pink, which the vocabulary lacks, are colours, too."""
        names = [*VOCABULARY, "colour=violet", "colour=pink"]
        has = np.array([[n in (f"kind={row[2]}", f"colour={row[3]}") for n in names] for row in self.rows.values()])
        known = np.array([[True] * 3 + [bool(row[3])] * 5 for row in self.rows.values()])
        compared = (self.embeddings * np.array(mask)).astype(np.float32)
        pool = Pool(has, known, np.array([0] * 3 + [1] * 5), compared, groups=groups)
        return by_definition(pool, self.ids.index(query), self.ids.index(reference), removal)[: len(VOCABULARY)]


@pytest.fixture(scope="module")
def world(shop: Path, served: Path) -> World:
    return World(shop, served)


def pairs_of(world: World, count: int = 10) -> list[tuple[str, str]]:
    return [(f"p{query:02}", f"p{query * 5 % 53:02}") for query in range(1, 1 + 3 * count, 3)]


def publish_run(
    out: Path, run_id: str, of: Bundle, rows: Sequence[dict[str, Any]], *, minutes: int = 0, complete: bool = True
) -> None:
    """A run with ``rows`` in two shards; without a row of its own where it is not ``complete``."""
    for shard in (0, 1):
        publish(str(out), "explanations", run_id, rows[shard::2], shard)
    ids = {"model_id": of.model_id, "vocabulary_id": of.vocabulary_id}
    if complete:
        publish(str(out), "runs", run_id, [{**run(explained=len(rows), failed=0, minutes=minutes), **ids}])


def rows_of(world: World, pairs: Sequence[tuple[str, str]], **given: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(len(pairs))
    return [
        explanation(
            query,
            reference,
            **{
                "similarity": world.similarity(query, reference),
                "map": rng.normal(size=6).tolist(),
                "model_id": world.bundle.model_id,
                **given,
            },
        )
        for query, reference in pairs
    ]


def collected(out: Path, served: Path, shop: Path, **given: Any) -> RankingDataset:
    maps = AuditMaps(str(out), given.pop("run_id", None), given.pop("method", None))
    return collect(maps, Serving(str(served)), str(shop / "products.csv"), **{"echo": quiet, **given})


def test_the_parts_of_a_run_by_definition(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    rows = rows_of(world, pairs_of(world))
    publish_run(tmp_path, "valid", world.bundle, rows)
    dataset = collected(tmp_path, served, shop, removal=Removal(3, 2, 1))
    assert list(zip(dataset.queries, dataset.pairs, strict=True)) == sorted(
        zip(dataset.queries, dataset.pairs, strict=True)
    )
    assert set(dataset.pairs) == {row["pair_id"] for row in rows}
    assert dataset.vocabulary == VOCABULARY
    assert (dataset.run_id, dataset.method, set(dataset.splits)) == ("valid", "rise", {"valid"})
    np.testing.assert_array_equal(dataset.prior, world.bundle.priors)
    by_pair = {row["pair_id"]: row for row in rows}
    for at, pair in enumerate(dataset.pairs):
        row = by_pair[pair]
        assert (dataset.queries[at], dataset.references[at]) == (row["query_id"], row["reference_id"])
        place = world.ids.index(row["query_id"])
        np.testing.assert_allclose(dataset.confidence[at], world.confidence[place], atol=1e-6)
        saliency: Float64 = np.array(row["map"], np.float32).astype(np.float64).reshape(2, 3)
        np.testing.assert_allclose(dataset.match[at], match_scores(world.activations[place], saliency), atol=1e-5)
        expected = world.drops(row["query_id"], row["reference_id"], Removal(3, 2, 1))
        np.testing.assert_allclose(dataset.drops[at], expected, atol=1e-5)
        cells = world.rows[row["query_id"]]
        has = [name in (f"kind={cells[2]}", f"colour={cells[3]}") for name in VOCABULARY]
        np.testing.assert_array_equal(dataset.on_query[at], has)
    assert (np.isfinite(dataset.drops) & dataset.on_query).any(axis=1).all()
    # what cannot be used is counted: one damaged image, one missing, one id of two rows
    assert dataset.left_out == {"not_an_image": 1, "not_found": 1, "ambiguous_product": 2}


def test_conditions_compare_masked_embeddings(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    pairs = pairs_of(world, 4)
    plain = rows_of(world, pairs)
    masked = [
        {
            **row,
            "pair_id": row["pair_id"] + "worn",
            "condition": "worn",
            "similarity": world.similarity(*pair, CONDITION),
        }
        for row, pair in zip(rows_of(world, pairs), pairs, strict=True)
    ]
    publish_run(tmp_path, "both", world.bundle, [*plain, *masked])
    dataset = collected(tmp_path, served, shop, removal=ANY)
    assert sorted(dataset.conditions, key=str) == [None] * 4 + ["worn"] * 4
    for at, condition in enumerate(dataset.conditions):
        mask = CONDITION if condition else (1,) * D
        pair = dataset.queries[at], dataset.references[at]
        assert dataset.similarity[at] == pytest.approx(world.similarity(*pair, mask), abs=1e-6)
        np.testing.assert_allclose(dataset.drops[at], world.drops(*pair, ANY, mask), atol=1e-5)


def test_only_what_explains_the_query_is_read(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    pairs = pairs_of(world, 3)
    sides = [None, "query", "reference"]
    rows = [row for pair, side in zip(pairs, sides, strict=True) for row in rows_of(world, [pair], side=side)]
    publish_run(tmp_path, "sides", world.bundle, rows)
    assert collected(tmp_path, served, shop).pairs == (rows[0]["pair_id"], rows[1]["pair_id"])


def test_pairs_of_other_images_are_left_out_and_said(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    pairs = pairs_of(world, 3)
    rows = rows_of(world, pairs)
    rows[1]["similarity"] += 0.1
    rows += [{**rows[0], "pair_id": "x", "reference_id": "p57"}, {**rows[0], "pair_id": "y", "query_id": "twice"}]
    publish_run(tmp_path, "changed", world.bundle, rows)
    said: list[str] = []
    dataset = collected(tmp_path, served, shop, echo=said.append)
    assert dataset.queries == (pairs[0][0], pairs[2][0])
    assert any("2 query or reference is no usable product" in line and "1 similarity" in line for line in said)
    publish_run(tmp_path, "nothing", world.bundle, rows[-2:], minutes=5)
    with pytest.raises(UsageError, match="no pair of run nothing"):
        collected(tmp_path, served, shop)


def test_runs_are_chosen_and_must_fit(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    rows = rows_of(world, pairs_of(world, 2))
    with pytest.raises(UsageError, match="no complete run"):
        collected(tmp_path, served, shop)
    publish_run(tmp_path, "late", world.bundle, rows, minutes=9)
    publish_run(tmp_path, "early", world.bundle, rows, minutes=1)
    publish_run(tmp_path, "broken", world.bundle, rows, complete=False)
    assert collected(tmp_path, served, shop).run_id == "late"
    assert collected(tmp_path, served, shop, run_id="early").run_id == "early"
    with pytest.raises(UsageError, match="no complete run 'broken'; it holds early, late"):
        collected(tmp_path, served, shop, run_id="broken")
    publish_run(tmp_path, "model", replace(world.bundle, similarity_function="dot"), rows, minutes=20)
    with pytest.raises(UsageError, match="run model is of another similarity model"):
        collected(tmp_path, served, shop)
    names = replace(world.bundle, vocabulary=tuple(reversed(VOCABULARY)))
    publish_run(tmp_path, "names", names, rows, minutes=30)
    assert collected(tmp_path, served, shop).run_id == "names"  # a map is the similarity's alone
    publish_run(tmp_path, "empty", world.bundle, [], minutes=40)
    with pytest.raises(UsageError, match="run empty explains no pair"):
        collected(tmp_path, served, shop)


def test_a_method_is_chosen(tmp_path: Path, world: World, shop: Path, served: Path) -> None:
    pairs = pairs_of(world, 2)
    lime = rows_of(world, pairs, method="lime", map=[1.0, 0, 0, 0, 0, 0])
    publish_run(tmp_path, "two", world.bundle, [*rows_of(world, pairs), *lime])
    with pytest.raises(UsageError, match="maps of lime, rise: choose one with --method"):
        collected(tmp_path, served, shop)
    with pytest.raises(UsageError, match="no maps of 'mask'; it has those of lime, rise"):
        collected(tmp_path, served, shop, method="mask")
    embeddings = embed_catalogue(
        Serving(str(served)), str(shop / "products.csv"), {query for query, _ in pairs}, echo=quiet
    )
    one, other = (
        collected(tmp_path, served, shop, method=method, embeddings=embeddings) for method in ("lime", "rise")
    )
    assert one.pairs == other.pairs
    np.testing.assert_array_equal(one.drops, other.drops)
    assert (one.match != other.match).any()


def test_a_bundle_without_attributes_ranks_nothing(tmp_path: Path, shop: Path) -> None:
    small_bundle(tmp_path / "bare", attributes=False)
    with pytest.raises(UsageError, match="no attribute network"):
        collected(tmp_path, tmp_path / "bare", shop)


def test_a_catalogue_without_the_columns_is_refused(tmp_path: Path, world: World, served: Path) -> None:
    publish_run(tmp_path, "run", world.bundle, rows_of(world, pairs_of(world, 2)))
    catalogue = write_csv(tmp_path / "bare.csv", [{"id": "p01", "image": "p01.png", "kind": "top"}])
    with pytest.raises(UsageError, match="no column 'colour'"):
        collect(AuditMaps(str(tmp_path)), Serving(str(served)), str(catalogue), echo=quiet)


def some_dataset(drops: Float64, **given: Any) -> RankingDataset:
    rng = np.random.default_rng(8)
    count, names = drops.shape
    text = tuple(map(str, range(count)))
    made = RankingDataset(
        pairs=text,
        queries=text,
        references=text,
        conditions=(None,) * count,
        splits=("valid",) * count,
        similarity=np.ones(count),
        confidence=rng.random((count, names)),
        match=rng.uniform(-1, 1, (count, names)),
        prior=None,
        drops=drops,
        on_query=np.ones((count, names), bool),
        vocabulary=tuple(f"a=={n}" for n in range(names)),
        run_id="r",
        method="rise",
        left_out={},
    )
    return replace(made, **given)


def test_the_best_of_all_kinds_is_chosen() -> None:
    rng = np.random.default_rng(1)
    confidence, match = rng.random((300, 6)), rng.uniform(-1, 1, (300, 6))
    # what matters is a step of the match, and within it the confidence: only isotonic can say so
    dataset = some_dataset((match > 0.4) + 0.2 * confidence, confidence=confidence, match=match)
    found = calibrate(dataset)
    removals = {kind: point.removal for kind, point in found.held_out.items()}
    assert list(removals) == ["standard", "quantile", "isotonic"]
    assert found.kind == max(removals, key=lambda kind: removals[kind]) == "isotonic"
    scales, search = found.searches[found.kind]
    assert (found.phi, found.scales) == (search.best.phi, scales)
    # every figure is that of the ranking that an audit would make
    judged = Oracle(dataset.drops).judge(Ranking(found.phi, found.scales).scores(confidence, match))
    assert (search.best.removal, search.best.top1) == (judged.removal, judged.top1)
    assert found.alone.removal == Oracle(dataset.drops).judge(confidence).removal < search.best.removal
    before = Ranking((0.1, 0.9, 0.0))
    assert (
        calibrate(dataset, ("standard",), before).before.top1
        == Oracle(dataset.drops).judge(before.scores(confidence, match)).top1
    )


def test_what_fits_only_its_own_pairs_is_not_chosen() -> None:
    # drops of pure chance: isotonic fits them best, and nothing holds on other queries
    worse = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        given = {"confidence": rng.random((40, 5)), "match": rng.uniform(-1, 1, (40, 5))}
        dataset = some_dataset(rng.normal(size=(40, 5)), queries=tuple(f"q{at // 2}" for at in range(40)), **given)
        found = calibrate(dataset)
        best = max(found.held_out, key=lambda kind: (found.held_out[kind].removal, found.held_out[kind].top1))
        assert found.kind == best
        assert (found.scales, found.phi) == (found.searches[best][0], found.searches[best][1].best.phi)
        for kind, (_, search) in found.searches.items():
            assert found.held_out[kind].phi == search.best.phi
            worse += found.held_out[kind].removal < search.best.removal
    assert worse >= 15  # of 18


def test_folds_are_of_queries_and_each_leaves_judged_pairs() -> None:
    queries = tuple(f"q{at % 11}" for at in range(50))
    judged = np.array([query in ("q3", "q7") for query in queries])
    folds = ranking._folds(queries, judged)
    assert len({*zip(queries, folds.tolist(), strict=True)}) == 11
    assert sorted(np.bincount([dict(zip(queries, folds.tolist(), strict=True))[f"q{n}"] for n in range(11)])) == [
        *[2] * (FOLDS - 1),
        3,
    ]
    assert len(set(folds[judged].tolist())) == 2
    order = np.random.default_rng(0).permutation(50)
    shuffled = ranking._folds([queries[at] for at in order], judged[order])
    np.testing.assert_array_equal(shuffled, folds[order])
    with pytest.raises(UsageError, match="a single query"):
        calibrate(some_dataset(np.eye(4), queries=("one",) * 4))


def test_splits_are_those_of_a_training(shop: Path, served: Path, tmp_path: Path) -> None:
    lines = (shop / "products.csv").read_text().splitlines()
    own = [line.replace(",valid", ",Validation").replace(",test", ",holdout") for line in lines]
    (shop / "named.csv").write_text("\n".join(own) + "\n")
    (shop / "without.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    embeddings = embed_catalogue(Serving(str(served)), str(shop / "named.csv"), (), echo=quiet)
    assert set(embeddings.splits) == {"train", "valid", "holdout"}
    assert embeddings.splits[embeddings.gallery.places["p01"]] == "valid"
    without = embed_catalogue(Serving(str(served)), str(shop / "without.csv"), (), echo=quiet)
    products = read_products(str(shop / "without.csv"), ["kind"], Counter())
    by_id = {product.id: product.split for product in with_splits(products)}
    assert all(without.splits[place] == by_id[product] for product, place in without.gallery.places.items())
    assert set(without.splits) == {"train", "valid", "test"}


def test_nothing_to_judge_is_said() -> None:
    drops = np.array([[np.nan, 0.0], [-0.1, 0.0], [-0.2, 0.0]])
    with pytest.raises(UsageError, match=r"none of the 3 pairs can be judged: of 1 no .* of 2 none"):
        calibrate(some_dataset(drops))


def test_bundle_json_is_replaced_whole_or_not_at_all(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (own / "bundle.json").read_bytes()
    files = sorted(path.name for path in own.iterdir())
    bundle = bundles.read(str(own))
    assert bundle.attributes is not None
    wrong = replace(bundle, attributes=replace(bundle.attributes, files={"attributes.onnx": "0" * 64}))
    with pytest.raises(BundleError, match="sha256"):
        bundles.rewrite(wrong, own)

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("transforms.serving.bundle.json.dumps", fail)
        with pytest.raises(OSError, match="disk is full"):
            bundles.rewrite(bundle, own)
    assert (own / "bundle.json").read_bytes() == before
    bundles.rewrite(replace(bundle, phi=(0.25, 0.75, 0.0)), own)
    assert bundles.read(str(own)) == replace(bundle, phi=(0.25, 0.75, 0.0))
    assert sorted(path.name for path in own.iterdir()) == files


def calibrate_on_disk(own: Path, shop: Path, out: Path, *more: str) -> int:
    named = ["--bundle", str(own), "--catalogue", str(shop / "products.csv"), "--tables", str(out), "--threads", "1"]
    return cli.main(["calibrate", *named, "--device", "cpu", *more])


@pytest.mark.engine
def test_an_audit_ranks_as_calibrated(
    own: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record = tmp_path / "out", tmp_path / "records" / "phi.json"
    options = ["--catalogue", str(shop / "products.csv"), "--top", "6", "--map-size", "6x8", "--threads", "1"]
    assert audit(shop / "pairs.csv", own, out, "before", *options) == 0
    before = bundles.read(str(own))
    dataset = collected(out, own, shop, removal=ANY)
    # the parts are those that the audit ranked by
    for row in table(out, "explanations", "before"):
        at = dataset.pairs.index(row["pair_id"])
        for one in row["top"]:
            name = VOCABULARY.index(one["name"])
            assert dataset.confidence[at, name] == pytest.approx(one["confidence"], abs=1e-6)
            assert dataset.match[at, name] == pytest.approx(one["match"], abs=1e-5)
        assert dataset.similarity[at] == pytest.approx(row["similarity"], abs=1e-6)

    capsys.readouterr()
    assert calibrate_on_disk(own, shop, out, "--record", str(record), "--max-distance", "9") == 0
    said = capsys.readouterr().out
    after = bundles.read(str(own))
    found = calibrate(dataset)
    assert (after.phi, after.scales) == (found.phi, found.scales)
    assert replace(after, phi=before.phi, scales=before.scales) == before
    assert (after.model_id, after.vocabulary_id) == (before.model_id, before.vocabulary_id)
    assert "26 pairs of 13 queries (13 valid)" in said
    assert "confidence alone" in said
    assert "split test" not in said
    assert "by cross-fitting over 5 folds of queries" in said
    for kind, point in found.held_out.items():
        assert any(line.startswith(kind) and f"{point.removal:8.3f}" in line for line in said.splitlines())

    written = json.loads(record.read_text())
    assert written["phi"] == list(after.phi)
    assert written["scales"]["quantile"]["held_out"]["removal"] == found.held_out["quantile"].removal
    assert len(written["scales"]) == 3
    best = written["scales"][written["scale"]]
    assert len(best["grid"]) == 21
    assert best["best"]["removal"] == max(point["removal"] for point in best["grid"])
    assert written["before"]["phi"] == [0.5, 0.5, 0.0]

    assert audit(shop / "pairs.csv", own, out, "after", *options) == 0
    scores = after.ranking.scores(dataset.confidence, dataset.match)
    changed = 0
    old = {row["pair_id"]: row["top"] for row in table(out, "explanations", "before")}
    for row in table(out, "explanations", "after"):
        at = dataset.pairs.index(row["pair_id"])
        names = [VOCABULARY.index(one["name"]) for one in row["top"]]
        assert [one["score"] for one in row["top"]] == pytest.approx(scores[at, names], abs=1e-4)
        changed += [one["name"] for one in row["top"]] != [one["name"] for one in old[row["pair_id"]]]
    assert changed


def test_one_kind_of_scale_and_a_warning(
    own: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(shop, own)
    pairs = [(f"p{query:02}", f"p{query * 5 % 53:02}") for query in range(2, 30, 3)]  # test
    publish_run(tmp_path / "out", "test", world.bundle, rows_of(world, pairs))
    options = ["--scale", "quantile", "--max-distance", "1"]
    before = (own / "bundle.json").read_bytes()
    assert calibrate_on_disk(own, shop, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert "no query of run test is of the split 'valid'" in said
    assert "10 test" in said
    assert (own / "bundle.json").read_bytes() == before
    assert calibrate_on_disk(own, shop, tmp_path / "out", "--split", "Test", *options) == 0
    said = capsys.readouterr().out
    assert "queries of the split test" in said
    assert "on the scale quantile" in said
    assert "isotonic" not in said
    assert len(bundles.read(str(own)).scales.match.values) > 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--neighbours", "2"], "--neighbours must be at least 3"),
        (["--max-distance", "-1"], "--max-distance must be at least 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--run-id", "none"], "no complete run 'none'"),
        (["--method", "lime"], "no maps of 'lime'"),
        (["--max-distance", "9", "--record", "OWN/bundle.json/record.json"], "cannot write"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    own: Path, shop: Path, tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(shop, own)
    publish_run(tmp_path / "out", "run", world.bundle, rows_of(world, pairs_of(world, 3)))
    before = (own / "bundle.json").read_bytes()
    options = [option.replace("OWN", str(own)) for option in options]
    assert calibrate_on_disk(own, shop, tmp_path / "out", *options) == 2
    assert says in capsys.readouterr().err
    assert (own / "bundle.json").read_bytes() == before


def test_only_queries_of_the_split_count(own: Path, shop: Path, tmp_path: Path, capsys: Any) -> None:
    world = World(shop, own)
    pairs = [*pairs_of(world), *((f"p{query:02}", f"p{query * 5 % 53:02}") for query in range(2, 20, 3))]
    publish_run(tmp_path / "out", "both", world.bundle, rows_of(world, pairs))
    publish_run(tmp_path / "one", "both", world.bundle, rows_of(world, pairs)[:10])
    phis = []
    for out, options in (("out", []), ("one", []), ("out", ["--split", "all"])):
        assert calibrate_on_disk(own, shop, tmp_path / out, "--max-distance", "9", *options) == 0
        phis.append((bundles.read(str(own)).phi, bundles.read(str(own)).scales))
        said = capsys.readouterr().out
        assert ("16 pairs of 16 queries (10 valid, 6 test)" if options else "10 pairs of 10 queries (10 valid)") in said
    assert phis[0] == phis[1] != phis[2]
    dataset = collected(tmp_path / "out", own, shop).of_split("dev")
    assert dataset.left_out["query is of another split"] == 6
    assert len(dataset.drops) == len(dataset.pairs) == 10


def test_images_may_lie_behind_http_only_where_allowed(
    own: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (shop / "products.csv").read_text().splitlines()
    moved = [lines[0], *(line.replace(",", ",https://shop.example/", 1) for line in lines[1:])]
    (tmp_path / "products.csv").write_text("\n".join(moved) + "\n")

    def get(address: str, max_bytes: int) -> bytes:
        path = shop / address.rpartition("/")[2]
        return path.read_bytes() if path.exists() else b""

    monkeypatch.setattr("transforms.storage.public_http.get", get)
    world = World(shop, own)
    publish_run(tmp_path / "out", "run", world.bundle, rows_of(world, pairs_of(world)))
    assert calibrate_on_disk(own, tmp_path, tmp_path / "out", "--max-distance", "9") == 2
    assert calibrate_on_disk(own, tmp_path, tmp_path / "out", "--max-distance", "9", "--allow-http") == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"priors": (0.5,) * 6}, "its priors changed"),
        ({"vocabulary": tuple(reversed(VOCABULARY))}, "its vocabulary changed"),
        ({"similarity_function": "dot"}, "its model_id changed"),
        ({"phi": (0.0, 1.0, 0.0), "training": {"note": "new"}}, None),
    ],
)
def test_what_changes_meanwhile_is_kept_or_refused(
    own: Path,
    shop: Path,
    tmp_path: Path,
    changed: dict[str, Any],
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(shop, own)
    publish_run(tmp_path / "out", "run", world.bundle, rows_of(world, pairs_of(world)))
    find = ranking.calibrate

    def meanwhile(*given: Any, **named: Any) -> Any:
        bundles.rewrite(replace(bundles.read(str(own)), **changed), own)
        return find(*given, **named)

    monkeypatch.setattr(ranking, "calibrate", meanwhile)
    record = tmp_path / "record.json"
    maps = AuditMaps(str(tmp_path / "out"))
    request = CalibrationRequest(Serving(str(own)), str(shop / "products.csv"), maps, removal=ANY, record=record)
    if says is None:
        found = calibrate_command(request, echo=quiet)
        after = bundles.read(str(own))
        assert (after.phi, after.scales, after.training) == (found.phi, found.scales, {"note": "new"})
        return
    with pytest.raises(UsageError, match=says):
        calibrate_command(request, echo=quiet)
    assert not record.exists()
    assert bundles.read(str(own)) == replace(world.bundle, **changed)


def test_rows_without_a_usable_map_or_similarity_are_counted(
    tmp_path: Path, world: World, shop: Path, served: Path
) -> None:
    rows = rows_of(world, pairs_of(world, 9))
    nothing = float("nan")
    changes: list[dict[str, Any]] = [
        {"map": [nothing, *[0.0] * 5]},
        {"map_width": 2},
        {"similarity": nothing},
        {"condition": "asked"},
    ]
    for row, change in zip(rows[1:], changes, strict=False):
        row.update(change)
    publish_run(tmp_path, "hostile", world.bundle, rows)
    place = tmp_path / "explanations" / "run_id=hostile" / "part-00000.parquet"
    table = pq.read_table(place, partitioning=None).to_pylist()
    lacking = {row["pair_id"]: name for row, name in zip(rows[6::2], ("map", "similarity"), strict=False)}
    for row in table:
        if name := lacking.get(row["pair_id"]):
            row[name] = None
    columns = pq.read_schema(place)
    loose = pyarrow.schema([field.with_nullable(True) for field in columns])
    pq.write_table(pyarrow.Table.from_pylist(table, schema=loose), place)
    dataset = collected(tmp_path, served, shop)
    assert set(dataset.pairs) == {rows[at]["pair_id"] for at in (0, 5, 7)}
    assert dataset.left_out["the map is none, or not of finite numbers"] == 3
    assert dataset.left_out["similarity is not the audited one: an image has changed"] == 2
    assert dataset.left_out["the bundle has no such condition"] == 1
    assert np.isfinite(dataset.match).all()
    pq.write_table(pyarrow.Table.from_pylist(table, schema=loose).drop_columns(["method"]), place)
    with pytest.raises(UsageError, match=r"part-00000.parquet has 0 columns 'method'"):
        collected(tmp_path, served, shop)
    place.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"part-00000.parquet cannot be read"):
        collected(tmp_path, served, shop)


@pytest.mark.parametrize("column", ["kind", "colour", "split"])
def test_stand_ins_are_of_the_query_s_type(shop: Path, tmp_path: Path, column: str) -> None:
    record = {"similarity": {"conditions": {"column": column, "types": {"worn": ["top", "skirt"]}}}}
    shop_bundle(tmp_path / "typed", conditions={"worn": CONDITION}, training=record)
    world = World(shop, tmp_path / "typed")
    pairs = pairs_of(world, 5)
    rows = [
        {**row, "condition": "worn", "similarity": world.similarity(*pair, CONDITION)}
        for row, pair in zip(rows_of(world, pairs), pairs, strict=True)
    ]
    publish_run(tmp_path / "out", "run", world.bundle, rows)
    dataset = collected(tmp_path / "out", tmp_path / "typed", shop, removal=ANY)
    cell = {"kind": 2, "colour": 3, "split": 4}[column]
    types = [row[cell] for row in world.rows.values()]
    numbers = np.array([sorted(set(types)).index(one) if one else -1 for one in types])
    of_column = [name.startswith(f"{column}=") for name in VOCABULARY]
    for at, pair in enumerate(zip(dataset.queries, dataset.references, strict=True)):
        expected = np.array(world.drops(*pair, ANY, CONDITION, numbers))
        expected[of_column] = np.nan
        np.testing.assert_allclose(dataset.drops[at], expected, atol=1e-5)
    assert np.isfinite(dataset.drops).any()


def test_images_of_other_folders_are_named(own: Path, shop: Path, tmp_path: Path) -> None:
    lines = (shop / "products.csv").read_text().splitlines()
    elsewhere = [lines[0], *(line.replace(",", f",{shop}/", 1) for line in lines[1:])]
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "products.csv").write_text("\n".join(elsewhere) + "\n")
    world = World(shop, own)
    publish_run(tmp_path / "out", "run", world.bundle, rows_of(world, pairs_of(world)))
    assert calibrate_on_disk(own, tmp_path / "moved", tmp_path / "out", "--max-distance", "9") == 2
    more = ["--max-distance", "9", "--image-root", str(shop)]
    assert calibrate_on_disk(own, tmp_path / "moved", tmp_path / "out", *more) == 0


def test_access_defaults_to_the_catalogues_folder(shop: Path, served: Path) -> None:
    allowed = embed_catalogue(Serving(str(served)), str(shop / "products.csv"), (), echo=quiet)
    assert len(allowed.gallery.places) == 56
    with pytest.raises(UsageError, match=r"no product .* can be used: .*address_refused"):
        embed_catalogue(Serving(str(served)), str(shop / "products.csv"), (), access=storage.Access(), echo=quiet)


def test_an_image_that_fails_takes_no_other_of_its_batch_with_it(
    shop: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the similarity network, for a product, nor in the attribute network, for a query."""
    catalogue = str(shop / "products.csv")
    whole = embed_catalogue(Serving(str(served)), catalogue, {"p04", "p07"}, echo=quiet)
    bad, worse = (np.asarray(Image.open(shop / name)) for name in ("03.png", "04.png"))
    embed, predict = SimilarityModel.embed, AttributeModel.predict

    def fail_on(refused: NDArray[np.uint8], run: Any) -> Any:
        def failing(model: Any, images: NDArray[np.uint8]) -> Any:
            if any(np.array_equal(image, refused) for image in images):
                raise ModelFailed("out of memory")
            return run(model, images)

        return failing

    monkeypatch.setattr(SimilarityModel, "embed", fail_on(bad, embed))
    monkeypatch.setattr(AttributeModel, "predict", fail_on(worse, predict))
    left = embed_catalogue(Serving(str(served)), catalogue, {"p04", "p07"}, echo=quiet)
    assert set(whole.gallery.places) - set(left.gallery.places) == {"p03", "p04"}
    assert left.left_out[ModelFailed.reason] == 2
    for product, place in left.gallery.places.items():
        np.testing.assert_array_equal(
            left.gallery.embeddings[place], whole.gallery.embeddings[whole.gallery.places[product]]
        )
    assert set(left.activations) == {left.gallery.places["p07"]}
