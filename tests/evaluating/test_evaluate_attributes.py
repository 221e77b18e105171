"""Attribute removal and average precision, end to end, against drops that are put together by hand."""

from __future__ import annotations

import csv
import math
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.evaluation.truth import pairs_of
from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from tests.support.audits import Row, audit, read_csv, table, write_csv
from tests.support.evaluations import evaluate, evaluation, metrics
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import SIZE, D, attribute_network, network
from transforms.core.imaging.images import Resize
from transforms.core.metrics.removal import Pool, Removal, attribute_drops
from transforms.core.records import Float32, Pair, Product
from transforms.core.target import ExplanationTarget
from transforms.evaluating.attributes import EmbeddedCatalogue, EmbeddedProduct, precision_rows, removal_rows
from transforms.serving import bundle as bundles
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.bundle import Bundle, Network
from transforms.serving.similarity_model import SimilarityModel
from transforms.tables.explained import Explained

KINDS, COLOURS = ("dress", "top"), ("blue", "red", "white")
VOCABULARY = (*(f"kind={kind}" for kind in KINDS), *(f"colour={colour}" for colour in COLOURS))
CONDITION = (1.0, 0.0, 0.5, 2.0, 0.5)
PRODUCTS = 36
Values = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """A tiny shop, audited as the run "one" with one attribute kept, and as "all" with all of them."""

    folder: Path
    bundle: Path
    out: Path
    rows: tuple[dict[str, str], ...]

    def evaluate(self, evaluation_id: str, *more: str, catalogue: str = "products.csv") -> int:
        named = ("--image-root", str(self.folder), "--catalogue", str(self.folder / catalogue))
        return evaluate(self.out, self.bundle, evaluation_id, *named, *more)

    @property
    def described(self) -> Bundle:
        return bundles.read(str(self.bundle))

    def pixels(self, rows: list[dict[str, str]]) -> NDArray[np.uint8]:
        return np.stack([np.asarray(Image.open(self.folder / row["image"])) for row in rows])

    def pool(self, rows: list[dict[str, str]], condition: str | None) -> Pool:
        """The products of ``rows``: the vocabulary, and the colour that it lacks."""
        names = [*VOCABULARY, "colour=pink"]
        has = np.array([[name in (f"kind={row['kind']}", f"colour={row['colour']}") for name in names] for row in rows])
        known = np.array([[True] * 2 + [row["colour"] != ""] * 4 for row in rows])
        embeddings = SimilarityModel(self.described, self.bundle, "cpu", 1, 8).embed(self.pixels(rows))
        mask = np.array(CONDITION if condition == "worn" else (1.0,) * D, np.float32)
        return Pool(has, known, np.array([0] * 2 + [1] * 4), (embeddings * mask).astype(np.float32))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(4)
    rows = []
    for number in range(PRODUCTS):
        pixels = rng.integers(0, 256, (3, 4, 3)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        kind = KINDS[number // 3 % 2]
        # no dress is white: of a white top nothing can be said without its kind
        colour = {6: "", 16: "pink"}.get(number % 20, COLOURS[number % (2 if kind == "dress" else 3)])
        row = {"id": f"p{number}", "image": f"{number}.png", "kind": kind, "colour": colour}
        rows.append({**row, "split": "test" if number < 30 else "valid"})
    write_csv(folder / "products.csv", rows)
    bundle = folder / "bundle"
    build(
        bundle,
        BundleSpec(
            SimilarityGraph(network(), PREPROCESSING),
            Resize(SIZE, "squash"),
            attributes=AttributeGraph(attribute_network(names=len(VOCABULARY)), VOCABULARY),
            conditions={"worn": CONDITION, "plain": (1.0,) * D},
        ),
    )
    pairs = [
        {"query_id": f"p{query}", "reference_id": f"p{query * 5 % 23 + 1}", "condition": ("worn", "plain")[query % 2]}
        for query in range(0, 30, 2)
        if query != query * 5 % 23 + 1
    ]
    pairs += [{**pair, "condition": "plain"} for pair in pairs if pair["condition"] == "worn"][:3]
    write_csv(folder / "pairs.csv", pairs)
    catalogue = ("--catalogue", str(folder / "products.csv"))
    for run_id, top in (("one", "1"), ("all", "5")):
        assert audit(folder / "pairs.csv", bundle, folder / "out", run_id, *catalogue, "--top", top) == 0
    return World(folder, bundle, folder / "out", tuple(rows))


REMOVAL = ("removal", "removal_oracle", "oracle_first", "oracle_among_five")


def by_hand(drops: Values, top: list[str]) -> dict[str, float | None]:
    """What one pair's rows say of the attributes ``top``, best first; None where they have no value."""
    scored = {name: drop for name, drop in zip(VOCABULARY, drops.tolist(), strict=True) if not np.isnan(drop)}
    if not scored or max(scored.values()) <= 0:
        return dict.fromkeys(REMOVAL)
    named = [name for name in top if name in scored]
    oracle = max(scored, key=lambda name: scored[name])
    return {
        "removal": scored[named[0]] if named else 0.0,
        "removal_oracle": scored[oracle],
        "oracle_first": float(named[:1] == [oracle]),
        "oracle_among_five": float(oracle in named[:5]) if len(top) >= 5 else None,
    }


def by_chance(drops: Values, own: list[str]) -> dict[str, float | None]:
    """The same of the query's ``own`` attributes in random order: the mean over all orders of two at most."""
    scored = [name for name in own if name in VOCABULARY and not np.isnan(drops[VOCABULARY.index(name)])]
    orders = [by_hand(drops, [*order, *VOCABULARY]) for order in (scored, scored[::-1])]
    return {
        metric: None if None in (values := [order[metric] for order in orders]) else float(np.mean(np.array(values)))
        for metric in REMOVAL
    }


def explained(world: World, run_id: str) -> dict[str, Row]:
    return {row["pair_id"]: row for row in table(world.out, "explanations", run_id)}


@pytest.mark.engine
@pytest.mark.parametrize(("run_id", "distance", "split"), [("one", 0, "test"), ("all", 1, None)])
def test_drops_are_those_of_the_catalogue(world: World, run_id: str, distance: int, split: str | None) -> None:
    more = ["--metrics", "removal", "--max-distance", str(distance), "--neighbours", "4", "--max-failure-rate", "1"]
    name = f"drops{distance}{split}"
    assert world.evaluate(name, *more, "--run-id", run_id, *(["--split", split] if split else [])) == 0
    rows = metrics(world.out, name, run_id)
    pairs = explained(world, run_id)
    methods = {"rise": False, "random": True, "confidence": True}
    assert len(rows) == len(methods) * len(REMOVAL) * len(pairs)
    ordered = sorted((row for row in world.rows if split in (None, row["split"])), key=lambda row: row["id"])
    places = {row["id"]: at for at, row in enumerate(ordered)}
    scores, _ = AttributeModel(world.described, world.bundle, "cpu", 1, 8).predict(world.pixels(ordered))
    found = {(row["pair_id"], row["method"], row["metric"]): row for row in rows}
    judged = passed_over = 0
    for pair_id, pair in pairs.items():
        place = places[pair["query_id"]]
        pool = world.pool(ordered, pair["condition"])
        at = np.array([place]), np.array([places[pair["reference_id"]]])
        drops = attribute_drops(pool, *at, Removal(4, max_distance=distance))[0, : len(VOCABULARY)]
        top = [one["name"] for one in pair["top"]]
        by_scores = [VOCABULARY[best] for best in sorted(range(len(VOCABULARY)), key=lambda at: -scores[place, at])]
        own = [f"{column}={ordered[place][column]}" for column in ("kind", "colour")]
        expected = {
            "rise": by_hand(drops, top),
            "random": by_chance(drops, own),
            "confidence": by_hand(drops, by_scores),
        }
        judged += expected["rise"]["removal"] is not None
        passed_over += bool(expected["rise"]["removal"] is not None and np.isnan(drops[VOCABULARY.index(top[0])]))
        for method, control in methods.items():
            for metric in REMOVAL:
                row, value = found[pair_id, method, metric], expected[method][metric]
                assert (row["side"], row["control"]) == ("query", control)
                assert row["value"] == (None if value is None else pytest.approx(value, abs=1e-5))
                assert row["reason"] == ("not_scored" if value is None else None)
    assert judged
    if distance:
        assert passed_over, "an attribute that cannot be scored stands first somewhere"


@pytest.mark.engine
def test_not_scored_is_no_failure(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.evaluate("few", "--metrics", "removal", "--neighbours", "30", "--max-failure-rate", "0") == 0
    rows = metrics(world.out, "few", "all")
    reasons = Counter(row["reason"] for row in rows)
    assert reasons["not_scored"]
    assert set(reasons) <= {"not_scored", None}
    row = evaluation(world.out, "few", "all")
    assert row["measurements_failed"] == reasons["not_scored"]
    assert row["images"] == len({one["query"] for one in explained(world, "all").values()})
    assert row["forward_passes"] == PRODUCTS
    assert ", 0 failed" in capsys.readouterr().out


@pytest.mark.engine
def test_average_precision_by_hand(world: World) -> None:
    assert world.evaluate("map", "--metrics", "average_precision") == 0
    rows = metrics(world.out, "map", "all")
    scores, _ = AttributeModel(world.described, world.bundle, "cpu", 1, 8).predict(world.pixels(list(world.rows)))
    products = sorted(range(PRODUCTS), key=lambda at: world.rows[at]["id"])
    expected = {}
    for at, name in enumerate(VOCABULARY):
        column, _, value = name.partition("=")
        known = [one for one in products if world.rows[one][column]]
        ranked = sorted(known, key=lambda one: -float(scores[one, at]))
        right = [world.rows[one][column] == value for one in ranked]
        hits = [sum(right[: place + 1]) / (place + 1) for place in range(len(right)) if right[place]]
        expected[name] = (sum(hits) / len(hits), len(hits))
    assert {row["attribute"] for row in rows} == set(expected)
    for row in rows:
        assert (row["value"], row["count"]) == pytest.approx(expected[row["attribute"]], abs=1e-9)
    assert {row["metric"] for row in rows} == {"average_precision"}
    assert {row["model_id"] for row in rows} == {world.described.attribute_model_id}
    assert all(row["pair_id"] is None and row["query_id"] is None for row in rows)


@pytest.mark.engine
def test_products_that_cannot_be_used_fail_their_pairs_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """One product is gone from the catalogue, one stands in it twice, one has the image of another."""
    pairs = list(explained(world, "all").values())
    queries = list(dict.fromkeys(row["query_id"] for row in pairs))
    gone, twice, changed = queries[:3]
    rows = [dict(row) for row in world.rows if row["id"] != gone]
    rows += [dict(row) for row in rows if row["id"] == twice]
    rows.append({**rows[0], "id": "p99", "image": "nowhere.png"})
    for row in rows:
        if row["id"] == changed:
            # black is nowhere else
            Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(world.folder / "black.png")
            row["image"] = "black.png"
    write_csv(world.folder / "broken.csv", rows)
    assert world.evaluate("broken", "--metrics", "removal", "--max-distance", "1", catalogue="broken.csv") == 1
    assert "could not be taken" in capsys.readouterr().out
    assert evaluation(world.out, "broken", "all")["products_left_out"] == 2 + 1
    others = set()
    for row in metrics(world.out, "broken", "all"):
        touched = {row["query_id"], row["reference_id"]}
        if touched & {gone, twice}:
            assert row["reason"] == "unknown_product"
        elif changed in touched:
            assert row["reason"] == "image_changed"
        else:
            others.add(row["reason"])
    assert others == {None, "not_scored"} or others == {None}


@pytest.mark.engine
def test_explanations_of_references_name_no_attribute_to_remove(world: World) -> None:
    more = ("--catalogue", str(world.folder / "products.csv"), "--explain", "both")
    few = write_csv(world.folder / "few.csv", read_csv(world.folder / "pairs.csv")[:4])
    assert audit(few, world.bundle, world.folder / "sides", "all", *more) == 0
    named = ("--image-root", str(world.folder), *more[:2], "--metrics", "removal", "--max-distance", "1")
    assert evaluate(world.folder / "sides", world.bundle, "sides", *named) == 0
    rows = metrics(world.folder / "sides", "sides", "all")
    assert {row["reason"] for row in rows if row["side"] == "reference"} == {"not_scored"}
    assert {row["reason"] for row in rows} == {"not_scored", None}


@pytest.mark.engine
def test_a_split_without_products_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for metric in ("removal", "average_precision"):
        assert world.evaluate(f"nosplit-{metric}", "--metrics", metric, "--split", "tset") == 2
        assert "tset" in capsys.readouterr().err


# Without a pipeline: products whose embeddings are directions in the plane


NAMES = ("fit=loose", "fit=tight", "fit=wide", "type=shirt", "type=shoe", "colour=black", "colour=red")
SHIRT = math.cos(math.radians(30)) - (math.cos(math.radians(10)) + math.cos(math.radians(60))) / 2
"""What the first product's similarity to the seventh drops by without "shirt": black shoes are at 20 and 90 degrees."""
BLACK = math.cos(math.radians(30)) - (math.cos(math.radians(20)) + math.cos(math.radians(10))) / 2
"""And without "black", below 0: the nearest shirts of another colour are at 10 and at 40 degrees."""
DIRECTIONS = [  # all of them are loose, so that nothing can be said of that
    ("shirt", "black", 0),
    ("shirt", "red", 10),
    ("shirt", "red", 40),
    ("shoe", "black", 20),
    ("shoe", "black", 90),
    ("shirt", None, 5),
    ("shoe", "red", 30),
    ("shirt", "green", 60),
    ("shirt", "red", 180),
]
OTHERS = ("fit=tight", "fit=wide", "type=shoe", "colour=red")
"""What the first product is known not to have."""


def shown_catalogue(
    scores: list[float] | None = None, *, empty: bool = False, vocabulary: tuple[str, ...] = NAMES
) -> EmbeddedCatalogue:
    """The products p0 to p8 of ``DIRECTIONS``; ``scores`` are those of p0, all others' are 0.5."""
    bundle = Bundle(
        Network({"similarity.onnx": "0"}),
        Resize(SIZE, "squash"),
        embedding_size=2,
        fill_mean=(0, 0, 0),
        attributes=Network({"attributes.onnx": "0"}),
        vocabulary=vocabulary,
        conditions={"half": (1.0, 0.5), "same": (1.0, 1.0)},
    )
    shown = []
    for number, (kind, colour, degrees) in enumerate(DIRECTIONS):
        cells = (("fit", "loose"), ("type", kind), *((("colour", colour),) if colour else ()))
        direction: Float32 = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)
        own: Float32 = np.array(scores if scores and number == 0 else [0.5] * len(bundle.vocabulary), np.float32)
        shown.append(EmbeddedProduct(Product(f"p{number}", f"{number}.png", cells), direction, own))
    return EmbeddedCatalogue(bundle, None, () if empty else tuple(shown))


def explanation(
    top: tuple[str, ...] | None, query: int = 0, reference: int = 6, method: str = "rise", **more: Any
) -> Explained:
    condition = more.get("condition")
    pair = Pair(f"{query}-{reference}-{condition}", f"p{query}", f"p{reference}", "q.png", "r.png", condition)
    similarity = math.cos(math.radians(DIRECTIONS[query][2] - DIRECTIONS[reference][2]))
    return Explained(
        ExplanationTarget(pair, more.get("side", "query")), method, f"x-{method}", similarity, SIZE, None, top
    )


def measured(
    explained: list[Explained], catalogue: EmbeddedCatalogue | None = None, **more: Any
) -> dict[tuple[str, str], list[Any]]:
    """By pair and method the values of ``REMOVAL``, or the reasons why there is none."""
    settings = Removal(**{"neighbours": 2, "least": 1, **more})
    found: dict[tuple[str, str], list[Any]] = {}
    rows = removal_rows("e", catalogue or shown_catalogue(), settings, explained)
    for row in sorted(rows, key=lambda row: REMOVAL.index(row["metric"])):
        assert row["metric"] == REMOVAL[len(found.setdefault((row["pair_id"], row["method"]), []))]
        assert row["control"] == (row["method"] in ("random", "confidence"))
        found[row["pair_id"], row["method"]].append(row["reason"] if row["value"] is None else row["value"])
    return found


def close(*values: float | str) -> list[Any]:
    return [value if isinstance(value, str) else pytest.approx(value, abs=1e-6) for value in values]


def test_pairs_are_judged_whatever_the_explanation_names() -> None:
    tops: dict[str, tuple[str, ...]] = {
        "passed-over": ("fit=loose", "colour=black", "type=shirt", "fit=tight", "fit=wide"),
        "first": ("fit=loose", "type=shirt", "colour=black", "fit=tight", "fit=wide"),
        "lacking": ("fit=loose", *OTHERS),
        "unscored": ("fit=loose",),
        "unknown": ("length=long", "length=short", "length=none", "size=1", "size=2"),
        "nothing": (),
        "one": ("type=shirt",),
        "four": ("colour=black", "type=shirt", "fit=tight", "fit=wide"),
    }
    found = measured([explanation(top, method=name) for name, top in tops.items()])
    of = {method: values for (_, method), values in found.items()}
    assert of["passed-over"] == close(BLACK, SHIRT, 0, 1)
    assert of["first"] == close(SHIRT, SHIRT, 1, 1)
    assert of["lacking"] == close(0, SHIRT, 0, 0)
    assert of["unknown"] == close(0, SHIRT, 0, 0)
    assert of["unscored"] == of["nothing"] == close(0, SHIRT, 0, "not_scored")
    assert of["one"] == close(SHIRT, SHIRT, 1, "not_scored")
    assert of["four"] == close(BLACK, SHIRT, 0, "not_scored")


def test_a_vocabulary_of_four_needs_no_five() -> None:
    few = shown_catalogue(vocabulary=NAMES[3:])
    found = measured([explanation(("type=shoe", "colour=red", "colour=black", "type=shirt"))], few)
    assert found["0-6-None", "rise"] == close(0, SHIRT, 0, 1)
    found = measured([explanation(("type=shoe", "colour=red", "colour=black"))], few)
    assert found["0-6-None", "rise"] == close(0, SHIRT, 0, "not_scored")


def test_controls_stand_once_beside_all_methods_of_a_pair() -> None:
    scores = [0.9, 0.1, 0.1, 0.2, 0.3, 0.8, 0.7]  # loose is passed over, black before red before shoe before shirt
    explained = [explanation(("type=shirt",), method=name) for name in ("rise", "mask")]
    rows = list(removal_rows("e", shown_catalogue(scores), Removal(2, 1), explained))
    assert Counter((row["method"], row["control"]) for row in rows) == dict.fromkeys(
        (("rise", False), ("mask", False), ("random", True), ("confidence", True)), len(REMOVAL)
    )
    assert {row["explainer_id"] for row in rows if not row["control"]} == {"x-rise", "x-mask"}
    assert all(row.get("explainer_id") is None for row in rows if row["control"])
    found = measured(explained, shown_catalogue(scores))
    assert found["0-6-None", "random"] == close((SHIRT + BLACK) / 2, SHIRT, 1 / 2, 1)
    assert found["0-6-None", "confidence"] == close(BLACK, SHIRT, 0, 1)
    best = [0.9, 0.1, 0.1, 0.8, 0.3, 0.2, 0.7]
    assert measured(explained, shown_catalogue(best))["0-6-None", "confidence"] == close(SHIRT, SHIRT, 1, 1)
    last = [0.9, 0.6, 0.6, 0.1, 0.6, 0.6, 0.6]
    assert measured(explained, shown_catalogue(last))["0-6-None", "confidence"] == close(0, SHIRT, 0, 0)


def test_random_is_among_five_as_often_as_there_are_attributes() -> None:
    """Eight columns of one product: without any of them it is another one's angle from the reference."""
    columns = [f"c{at}" for at in range(8)]
    bundle = replace(shown_catalogue().bundle, vocabulary=tuple(f"{column}=yes" for column in columns), conditions={})
    degrees = [20, 10, 30, 40, 50, 60, 70, 80]
    shown = []
    for number, angle in enumerate([0, *degrees, 15]):
        cells = tuple((column, "no" if at == number - 1 else "yes") for at, column in enumerate(columns))
        if number == 9:  # the reference stands for nothing: it differs in all
            cells = tuple((column, "no") for column in columns)
        direction: Float32 = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)
        shown.append(EmbeddedProduct(Product(f"p{number}", f"{number}.png", cells), direction, np.zeros(8, np.float32)))
    pair = Pair("pair", "p0", "p9", "q.png", "r.png")
    one = Explained(ExplanationTarget(pair, "query"), "rise", "x", math.cos(math.radians(15)), SIZE, None, ("c7=yes",))
    found = measured([one], EmbeddedCatalogue(bundle, None, tuple(shown)), neighbours=1)
    drops = [math.cos(math.radians(15)) - math.cos(math.radians(abs(angle - 15))) for angle in degrees]
    assert found["pair", "random"] == close(sum(drops) / 8, drops[7], 1 / 8, 5 / 8)


def test_what_is_not_judged_is_judged_for_nobody() -> None:
    top = ("type=shirt", "colour=black", "fit=loose", "fit=tight", "fit=wide")
    explained = [
        explanation(top, query, reference, method)
        # of p5 no colour is known, and nothing makes p0 match p7
        for query, reference in ((5, 6), (0, 7), (0, 6))
        for method in ("rise", "mask")
    ]
    found = measured(explained)
    for pair in ("5-6-None", "0-7-None"):
        for method in ("rise", "mask", "random", "confidence"):
            assert found[pair, method] == ["not_scored"] * 4
    assert "not_scored" not in [*found["0-6-None", "rise"], *found["0-6-None", "random"]]
    why = {row["pair_id"]: row["message"] for row in removal_rows("e", shown_catalogue(), Removal(2, 1), explained)}
    assert "too few products" in why["5-6-None"]
    assert "no attribute of the query makes" in why["0-7-None"]


def test_a_pair_without_ranked_attributes_has_no_controls() -> None:
    explained = [explanation(None), explanation(("type=shirt",), 0, 7, side="reference")]
    assert measured(explained) == {("0-6-None", "rise"): ["not_scored"] * 4, ("0-7-None", "rise"): ["not_scored"] * 4}


def test_controls_fail_with_their_pair() -> None:
    changed = replace(explanation(("type=shirt",)), similarity=0.5)
    assert set(map(tuple, measured([changed]).values())) == {("image_changed",) * 4}
    other = explanation(("type=shirt",), condition="nowhere")
    found = measured([other])
    assert found == {("0-6-nowhere", name): ["unknown_condition"] * 4 for name in ("rise", "random", "confidence")}


def test_no_products_at_all() -> None:
    catalogue = shown_catalogue(empty=True)
    found = measured([explanation(("type=shirt",)), explanation(None, 3, 1)], catalogue)
    assert found["0-6-None", "rise"] == found["0-6-None", "random"] == ["unknown_product"] * 4
    assert found["3-1-None", "rise"] == ["unknown_product"] * 4
    assert list(precision_rows("e", catalogue)) == []


def test_what_is_found_of_a_catalogue_is_found_once_and_does_not_travel() -> None:
    catalogue = shown_catalogue()
    before = pickle.dumps(catalogue)
    gallery = catalogue.gallery
    assert gallery.pool(None) is gallery.pool(None)
    assert gallery.pool("half").values is gallery.pool("same").values is gallery.pool(None).values
    assert gallery.pool("half").copies is gallery.pool("same").copies
    assert pickle.dumps(catalogue) == before
    sent = pickle.loads(before)
    top = ("type=shirt", "colour=black", "fit=loose", "fit=tight", "fit=wide")
    assert measured([explanation(top)], sent) == measured([explanation(top)], catalogue)


def test_conditions_of_one_query_are_compared_each_by_its_own() -> None:
    catalogue = shown_catalogue()
    top = ("type=shirt", "colour=black", "fit=loose", "fit=tight", "fit=wide")
    half = math.atan(math.tan(math.radians(30)) / 2)  # where the reference lies
    explained = [
        explanation(top),
        replace(explanation(top, condition="half"), similarity=math.cos(half)),
        explanation(top, condition="same"),
        explanation(top, 0, 3),
    ]
    together = measured(explained, catalogue)
    assert together == {key: value for one in explained for key, value in measured([one]).items()}
    assert together["0-6-same", "rise"] == together["0-6-None", "rise"]
    # without "shirt": black shoes at 20 and 90 degrees, of which the first moves to half's
    moved = math.atan(math.tan(math.radians(20)) / 2)
    by_half = math.cos(half) - (math.cos(half - moved) + math.cos(math.pi / 2 - half)) / 2
    assert together["0-6-half", "rise"][0] == pytest.approx(by_half, abs=1e-6)


# Where the truth is known


def test_the_truth_takes_one_pair_of_each_query(tmp_path: Path) -> None:
    rows = [("a", "x"), ("a", "b"), ("a", "c"), ("b", "c"), ("x", "a"), ("b", "a"), ("c", "b")]
    write_csv(tmp_path / "pairs.csv", [{"query_id": query, "reference_id": reference} for query, reference in rows])
    assert pairs_of(tmp_path, "category", ["a", "b", "c"]) == [("a", "b"), ("b", "c"), ("c", "b")]
    with (tmp_path / "truth.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "top"), ("a", 1), ("b", ""), ("c", 2), ("d", 3), ("x", 1), ("e", 0)])
    assert pairs_of(tmp_path, "brand", ["a", "b", "c", "d", "e"]) == [("a", "c"), ("d", "e")]
