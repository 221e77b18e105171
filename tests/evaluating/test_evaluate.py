"""Evaluations end to end, against measures written out again: curves, controls, regions, agreements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from tests.support.audits import Row, audit, write_csv
from tests.support.curves import (
    area,
    check_curves,
    enlarged,
    scores_by_hand,
    stored,
)
from tests.support.evaluations import METHODS, QUERIES, REFERENCES, Audited, evaluation, make_bundle, make_shop, metrics
from tests.support.models.networks import SIZE
from transforms.core.imaging import images
from transforms.core.metrics import regions as region_metrics
from transforms.core.records import EmbeddedImage, Pair, content_id
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.target import ExplanationTarget
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings
from transforms.serving import bundle as bundles
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

pytestmark = pytest.mark.engine

PAIRS = 6
"""Of a shop with conditions."""
MAP_SIZE = (5, 7)

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def audited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Pairs of two conditions, maps of 5 x 7 cells of two methods."""
    folder = tmp_path_factory.mktemp(request.param)
    shop = make_shop(folder / "shop", conditions=True)
    bundle = make_bundle(folder / "bundle", request.param, conditions=True)
    more = (*METHODS, "--map-size", "5x7")
    assert audit(shop.folder / "pairs.csv", bundle, folder / "out", "one", *more) == 0
    return Audited(shop, bundle, folder / "out", request.param)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Both sides of pairs without conditions explained, by one method, with the default size of maps."""
    folder = tmp_path_factory.mktemp("both")
    shop = make_shop(folder / "shop")
    bundle = make_bundle(folder / "bundle")
    assert audit(shop.folder / "pairs.csv", bundle, folder / "out", "one", "--explain", "both") == 0
    return Audited(shop, bundle, folder / "out", "cosine")


@pytest.mark.parametrize("audited", ["cosine", "dot", "euclidean"], indirect=True)
def test_curves_of_stored_maps_and_controls_by_hand(audited: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited.evaluate("curves") == 0
    assert "whymatch" not in capsys.readouterr().err
    rows, explained = metrics(audited.out, "curves"), audited.explanations()
    assert len(explained) == 2 * PAIRS
    own = [row for row in rows if not row["control"]]
    assert len(own) == 4 * len(explained)
    for row in own:
        of = explained[row["pair_id"], row["side"], row["method"]]
        assert (row["map"], row["fill"], row["reason"]) == ("stored", "#ffffff", None)
        assert (row["explainer_id"], row["model_id"]) == (of["explainer_id"], of["model_id"])
        assert (row["query_id"], row["reference_id"], row["condition"]) == tuple(
            of[name] for name in ("query_id", "reference_id", "condition")
        )
    check_curves(audited, own, stored, runtime=True)
    controls = Counter((row["method"], row["metric"]) for row in rows if row["control"])
    names = ("random", "centre", "stranger_rise", "stranger_sliding_window")
    kinds = ("insertion", "deletion", "insertion_raw", "deletion_raw")
    assert controls == {(name, kind): PAIRS for name in names for kind in kinds}
    # its Gaussian, averaged over the cells that the maps are kept in
    sides = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) / 2) for n in SIZE]
    centre = enlarged(average(np.outer(*sides), MAP_SIZE).tolist())
    check_curves(audited, metrics(audited.out, "curves", method="centre"), lambda _: centre, runtime=True)
    chosen: dict[tuple[str, str, str], set[int]] = {}
    for row in [row for row in rows if row["method"].startswith("stranger") and row["metric"] == "insertion"]:
        of = explained[row["pair_id"], "query", "rise"]
        others = strangers_of(list(explained.values()), row, row["method"].removeprefix("stranger_"))
        assert len(others) == 2
        assert {other["explainer_id"] for other in others} == {row["explainer_id"]}
        curves = [scores_by_hand(audited, row, of, stored(other), runtime=True) for other in others]
        scale = max(1.0, float(np.abs(curves).max()))
        which = only([np.allclose(row["curve"], curve, atol=1e-5 * scale) for curve in curves])
        assert row["value"] == pytest.approx(area(curves[which], raw=False), abs=1e-5)
        chosen.setdefault((row["query_id"], row["condition"], row["method"]), set()).add(which)
    assert len(chosen) == 2 * 2 * 3
    assert all(len(which) == 1 for which in chosen.values()), "one set of passes serves all pairs"


def average(saliency: Array, size: tuple[int, int]) -> Array:
    """A map [H, W] in cells: each side is drawn out first, so that cells are of whole pixels."""
    fine = saliency.repeat(size[0], axis=0).repeat(size[1], axis=1)
    height, width = saliency.shape
    cells = [
        [fine[y * height : (y + 1) * height, x * width : (x + 1) * width].mean() for x in range(size[1])]
        for y in range(size[0])
    ]
    return np.array(cells, np.float32).astype(np.float64)


def strangers_of(explained: Sequence[Row], row: Row, method: str) -> list[Row]:
    """Of each other query the first pair of the condition of ``row``, whose map may stand for that row's."""
    first: dict[str, Row] = {}
    for one in sorted(explained, key=lambda one: (one["pair_id"], one["side"])):
        if (one["method"], one["condition"]) == (method, row["condition"]):
            first.setdefault(one["query_id"], one)
    return [one for query, one in sorted(first.items()) if query != row["query_id"]]


def only(found: Sequence[bool]) -> int:
    """The place of the one that is True."""
    (place,) = np.flatnonzero(found)
    return int(place)


@pytest.mark.parametrize("audited", ["cosine", "euclidean"], indirect=True)
def test_other_fills_by_hand(audited: Audited) -> None:
    fills = ("mean", "auto", "blur", "#102030")
    more = ("--fills", ",".join(fills), "--controls", "none", "--method", "rise")
    assert audited.evaluate("fills", *more) == 0
    rows = metrics(audited.out, "fills")
    assert Counter(row["fill"] for row in rows) == dict.fromkeys(fills, 4 * PAIRS)
    check_curves(audited, rows, stored, runtime=False)


def prepared(audited: Audited, image: LoadedImage, explainers: Sequence[Explainer]) -> PreparedImage:
    """An image as a worker explains it."""
    models = Models(Serving(str(audited.bundle)))
    return PreparedImage.of(image, ExplanationSettings(tuple(explainers), map_size=SIZE), models, loader(audited))


def loader(audited: Audited) -> ImageLoader:
    return ImageLoader(Access((str(audited.shop.folder),)), images.ImageLimits(), images.Resize(SIZE, "squash"))


def full_map(audited: Audited, row: Row, explainer: Explainer, *, noise: float = 0.0) -> Array:
    """The map [H, W] that ``explainer`` makes of a row's image, perhaps with noise of that deviation on it."""
    load = loader(audited)
    sides = ("query", "reference") if row["side"] == "query" else ("reference", "query")
    image = load(row[sides[0]])
    if noise:
        rng = np.random.default_rng(int(content_id("0", image.sha256, letter="")[:12], 16))
        noisy = np.clip(np.rint(image.pixels + rng.normal(0, noise, image.pixels.shape)), 0, 255)
        image = LoadedImage(noisy.astype(np.uint8), image.frame, image.sha256)
    made = prepared(audited, image, [explainer])
    other = dict(embed([row[sides[1]]], load, made.session.models))[row[sides[1]]]
    assert isinstance(other, EmbeddedImage)
    pair = Pair(row["pair_id"], row["query_id"], row["reference_id"], row["query"], row["reference"], row["condition"])
    (found,) = made.maps([(ExplanationTarget(pair, row["side"]), other)])
    assert not isinstance(found.maps, Exception)
    return np.asarray(found.maps.saliency[0], np.float64)


RISE = Explainer(RiseMethod(masks=40), "auto")
WINDOW = Explainer(SlidingWindowMethod(window=4, stride=2), "auto")


@pytest.mark.parametrize("audited", ["cosine"], indirect=True)
def test_full_maps_are_measured_as_the_method_makes_them(audited: Audited) -> None:
    more = (
        "--maps",
        "full",
        "--controls",
        "none",
        "--metrics",
        "insertion,deletion",
        "--sample",
        "0.5",
        "--sampling-seed",
        "5",
    )
    assert audited.evaluate("full", *more) == 0
    rows = metrics(audited.out, "full")
    assert {row["map"] for row in rows} == {"full"}
    explainers = {"rise": RISE, "sliding_window": WINDOW}
    assert {row["method"]: row["explainer_id"] for row in rows} == {name: one.id for name, one in explainers.items()}
    check_curves(audited, rows, lambda of: full_map(audited, of, explainers[of["method"]]), runtime=True)


@pytest.mark.parametrize("audited", ["cosine"], indirect=True)
def test_passes_of_a_control_serve_all_pairs_of_an_image(audited: Audited) -> None:
    """An image is embedded once, and so is each of its references; a control's maps need the image once more."""
    assert audited.evaluate("plain", "--controls", "none", "--metrics", "insertion") == 0
    assert audited.evaluate("beside", "--controls", "random,stranger,edges", "--metrics", "insertion") == 0
    images_and_references = 3 * (1 + 2)
    own = 2 * PAIRS * 101
    assert evaluation(audited.out, "plain")["forward_passes"] == images_and_references + own
    # random, edges, and another query's map of each of the two methods under each of the two conditions
    beside = 3 * ((2 + 2 * 2) * 101 + 1)
    assert evaluation(audited.out, "beside")["forward_passes"] == images_and_references + own + beside


# regions


@pytest.fixture(scope="module")
def labelled(both: Audited) -> Audited:
    """The shop of ``both`` with a catalogue of label images: a rectangle of label 1 in each."""
    rows = []
    for product in (*(f"q{n}" for n in range(QUERIES)), *(f"r{n}" for n in (0, *range(4, 10)))):
        labels = np.zeros((30, 40), np.uint8)
        number = int(product[1:])
        labels[number : number + 12, 2 * number : 2 * number + 15] = 1
        if product == "r9":
            labels = labels[:-1]  # of another picture
        if product == "r8":
            labels[:] = 1
        if product == "r7":
            labels[:] = 0
        Image.fromarray(labels).save(both.shop.folder / f"labels-{product}.png")
        address = {"q1": "", "r4": "nothing.png"}.get(product, f"labels-{product}.png")
        rows.append({"id": product, "image": f"{number}.png", "regions": address})
    write_csv(both.shop.folder / "products.csv", [row for row in rows if row["id"] != "r6"])
    (both.shop.folder / "regions.json").write_text('{"regions": {"ground": 0, "shoe": 1}}')
    return both


def test_regions_by_their_definitions_on_both_sides(labelled: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = ("--catalogue", str(labelled.shop.folder / "products.csv"), "--region", "shoe")
    more = (*catalogue, "--metrics", "pointing,iou,pixel_auc", "--controls", "edges,stranger", "--tolerance", "1.5")
    assert labelled.evaluate("regions", *more) == 1  # more than 5 % cannot be measured
    said = capsys.readouterr().out
    assert "could not be taken" in said
    rows, explained = metrics(labelled.out, "regions"), labelled.explanations()
    assert len(explained) == 2 * QUERIES * REFERENCES
    assert len(rows) == 3 * 3 * len(explained)
    expected = {"q1": "no_region", "r4": "not_found", "r6": "no_region", "r7": "no_region", "r8": "no_region"}
    expected["r9"] = "not_an_image"
    seen: Counter[str] = Counter()
    for row in rows:
        of = explained[row["pair_id"], row["side"], "rise"]
        product = row["query_id"] if row["side"] == "query" else row["reference_id"]
        seen[product] += 1
        assert row["reason"] == expected.get(product)
        assert (row["value"] is None) == (product in expected)
        if product in expected or row["control"]:
            continue
        number = int(product[1:])
        region = np.zeros(SIZE, np.bool_)
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                at = int((y + 0.5) * 30 / SIZE[0]), int((x + 0.5) * 40 / SIZE[1])
                region[y, x] = number <= at[0] < number + 12 and 2 * number <= at[1] < 2 * number + 15
        found = {
            "pointing": lambda saliency, region: float(region_metrics.pointing(saliency, region, 1.5)),
            "iou": region_metrics.iou,
            "pixel_auc": region_metrics.pixel_auc,
        }[row["metric"]](stored(of), region)
        assert row["value"] == pytest.approx(found, abs=1e-9)
        assert row["count"] == region.sum()
    assert seen.keys() >= expected.keys()
    assert evaluation(labelled.out, "regions")["measurements_failed"] == sum(row["value"] is None for row in rows)


# agreements


def test_agreements_by_hand(both: Audited) -> None:
    more = ("--metrics", "seeds,noise,shuffled,stranger", "--controls", "none", "--noise", "7")
    assert both.evaluate("agreements", *more, "--max-failure-rate", "0.2") == 0
    rows, explained = metrics(both.out, "agreements"), both.explanations()
    assert Counter(row["metric"] for row in rows) == dict.fromkeys(
        ("seeds", "noise", "shuffled", "stranger"), 2 * QUERIES * REFERENCES
    )
    other_seed = Explainer(RiseMethod(masks=40, seed=1), "auto")
    others = list(explained.values())
    others = list(explained.values())

    def agreement(of: Row, changed: Array) -> float:
        return float(spearmanr(of["map"], changed.ravel()).statistic)

    def remade(of: Row, explainer: Explainer, **more: Any) -> Array:
        return average(full_map(both, of, explainer, **more), (28, 28))

    shuffled = 0
    for row in rows:
        of = explained[row["pair_id"], row["side"], "rise"]
        unrelated = strangers_of(others, row, "rise")
        # ranks of nearly equal values differ in float32 and float64
        near = 1e-3
        if row["metric"] == "seeds":
            assert row["value"] == pytest.approx(agreement(of, remade(of, other_seed)), abs=near)
        elif row["metric"] == "noise":
            assert row["value"] == pytest.approx(agreement(of, remade(of, RISE, noise=7)), abs=near)
        elif row["metric"] == "stranger":
            found = [agreement(of, np.array(other["map"])) for other in unrelated]
            assert any(row["value"] == pytest.approx(one, abs=near) for one in found)
        elif row["value"] is None:
            assert row["reason"] == "no_map"
        elif shuffled < 6:
            shuffled += 1
            side = "reference" if row["side"] == "query" else "query"
            there = {other[side] for other in unrelated} - {of[side]}
            found = [agreement(of, remade({**of, side: address}, RISE)) for address in sorted(there)]
            assert any(row["value"] == pytest.approx(one, abs=near) for one in found)
    assert shuffled
    assert np.mean([row["value"] for row in rows if row["metric"] == "noise"]) > 0.9


@pytest.mark.parametrize("audited", ["cosine"], indirect=True)
def test_what_draws_nothing_has_no_other_seed(audited: Audited) -> None:
    assert audited.evaluate("seeds", "--metrics", "seeds", "--sample", "0.5", "--sampling-seed", "5") == 0
    assert {row["method"] for row in metrics(audited.out, "seeds")} == {"rise"}


def test_a_cascade_has_a_verdict_and_edges_fail_it(both: Audited, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "new" / "report"
    more = ("--controls", "edges,centre,stranger", "--report", str(folder))
    strict = (
        "--metrics",
        "sanity",
        "--stages",
        "3",
        "--max-agreement",
        "-1",
        "--sample",
        "0.5",
        "--sampling-seed",
        "5",
    )
    assert both.evaluate("strict", *strict, *more) == 1
    assert "FAILED: rise" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"summary.md", "summary.json", "sanity.png"}
    lax = ("--metrics", "sanity,insertion", "--stages", "3", "--max-agreement", "0.99")
    assert both.evaluate("lax", *lax, *more) == 0
    assert "FAILED" not in capsys.readouterr().out
    verdicts = {
        (one["method"], one["control"]): one for one in json.loads((folder / "summary.json").read_text())["verdicts"]
    }
    assert {key: one["passes"] for key, one in verdicts.items()} == {
        ("rise", False): True,
        ("edges", True): False,
        ("centre", True): False,
    }
    assert verdicts["edges", True]["agreement"]["estimate"] == pytest.approx(1)
    rows = metrics(both.out, "lax", metric="sanity")
    depths = sorted({row["depth"] for row in rows})
    assert depths[-1] == 1
    assert len(depths) >= 2
    assert len(rows) == len(depths) * 3 * 2 * QUERIES * REFERENCES
    for row in rows:
        assert (row["block"] is None, row["judged"] is None) == (False, False)
        assert row["value"] == (pytest.approx(1) if row["control"] else pytest.approx(0, abs=1))
    assert len({row["model_id"] for row in rows}) == len(depths)
    assert bundles.read(str(both.bundle)).model_id not in {row["model_id"] for row in rows}
    assert {path.name for path in folder.iterdir()} == {"summary.md", "summary.json", "sanity.png", "curves.png"}
    for name in ("sanity.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    assert "stranger (control)" in (folder / "summary.md").read_text(encoding="utf-8")
