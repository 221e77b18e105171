"""Whether an explanation stands out: the image's nulls, the run's thresholds, and the verdict in the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.audits import audit, read_csv, table, write_csv
from tests.support.models.bundles import small_bundle
from tests.support.models.networks import SIZE
from tests.support.photographs import picture
from transforms.core.imaging.images import ImageLimits
from transforms.core.records import EmbeddedImage, Pair
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.gradients import GradientMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.statistics import nulls
from transforms.core.statistics.nulls import NullReferences
from transforms.core.statistics.verdict import Threshold
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.null_statistics import NullStatistic
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.explaining.verdicts import by_method, judged_row, shuffled_values, threshold_rows
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.storage import Access


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("judged")
    for seed in range(30):
        picture(made / f"{seed}.png", seed)
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    bundle = tmp_path_factory.mktemp("judging") / "bundle"
    small_bundle(bundle)
    return Models(Serving(str(bundle)))


def prepared(models: Models, folder: Path, *explainers: Explainer, drawn: bool = True) -> tuple[PreparedImage, Any]:
    """The first image prepared, random references being all from the sixth on, and it matched with the next four."""
    load = ImageLoader(Access((str(folder),)), ImageLimits(), models.bundle.resize)
    outcomes = embed([str(folder / f"{at}.png") for at in range(30)], load, models)
    images = [one for _, one in outcomes if isinstance(one, EmbeddedImage)]
    assert len(images) == 30
    null = {"query": NullReferences.of(images[6:])} if drawn else {}
    made = PreparedImage.of(
        load(images[0].address),
        ExplanationSettings(explainers, map_size=SIZE),
        models,
        load,
        (),
        null,  # type: ignore[arg-type]
    )
    matched: list[Matched] = [
        (ExplanationTarget(Pair(f"p{at}", "q", f"r{at}", images[0].address, images[at].address), "query"), images[at])
        for at in range(1, 5)
    ]
    return made, (images, matched)


RISE = RiseMethod(masks=256, cells=4, sampling="hadamard")


@pytest.mark.parametrize("method", [RISE, SlidingWindowMethod(window=4, stride=3), DecompositionMethod()])
def test_the_null_map_is_the_mean_of_the_random_references_maps(models: Models, folder: Path, method: Any) -> None:
    if method.needs.graph == "projection" and models.bundle.projection is None:
        pytest.skip("the small bundle has no projection")
    if method.needs.graph == "projection":
        models = Models(Serving(models._serving.bundle, graphs=("projection",)))
    explainer = Explainer(method, method.fill)
    image, (images, matched) = prepared(models, folder, explainer)
    rows: list[Any] = list(explanation_rows(image, matched))
    alone, _ = prepared(models, folder, explainer, drawn=False)
    of_random = [(ExplanationTarget(Pair(f"n{at}", "q", f"n{at}"), "query"), one) for at, one in enumerate(images[6:])]
    (maps,) = alone.maps(of_random)
    mean = maps.maps.saliency.mean(axis=0)  # type: ignore[union-attr]
    for row in rows:
        full = row["map"].reshape(SIZE)
        assert row["null_agreement"] == pytest.approx(np.corrcoef(full.ravel(), mean.ravel())[0, 1], abs=1e-4)
        assert (row["map_reliability"] is not None) == (method is RISE)
    assert all(row["null_agreement"] is None for row in explanation_rows(alone, matched))  # type: ignore[index]


def test_reliability_is_the_correlation_of_the_maps_of_two_halves(models: Models, folder: Path) -> None:
    image, (_, matched) = prepared(models, folder, Explainer(RISE, "auto"))
    ((_, saliency),) = image.saliencies(None)
    design: Any = saliency.design  # type: ignore[union-attr]
    perturbed = saliency.perturbed  # type: ignore[union-attr]
    scores = matched[0][1].embedding.astype(np.float64) @ perturbed.T.astype(np.float64)
    block = np.arange(256) // design.block % 2
    first, second = (
        design.subset(np.flatnonzero(block == half)).estimate(scores[None, block == half], np.zeros(1))
        for half in (0, 1)
    )
    row: Any = next(iter(explanation_rows(image, matched)))
    assert row["map_reliability"] == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1], abs=1e-6)


@pytest.mark.parametrize("method", [RISE, SlidingWindowMethod(window=4, stride=3)])
def test_a_contrast_map_is_the_map_less_that_of_the_null(models: Models, folder: Path, method: Any) -> None:
    plain, (images, matched) = prepared(models, folder, Explainer(method, "auto"))
    contrast, _ = prepared(models, folder, Explainer(method, "auto", contrast=True))
    of_random = [(ExplanationTarget(Pair(f"n{at}", "q", f"n{at}"), "query"), one) for at, one in enumerate(images[6:])]
    (random,) = plain.maps(of_random)
    mean = random.maps.saliency.mean(axis=0)  # type: ignore[union-attr]
    for one, other in zip(explanation_rows(plain, matched), explanation_rows(contrast, matched), strict=True):
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        np.testing.assert_allclose(other["map"].reshape(SIZE), one["map"].reshape(SIZE) - mean, atol=1e-5)
        assert (one["contrast"], other["contrast"]) == (False, True)
        assert one["similarity"] == other["similarity"]
        assert one["explainer_id"] != other["explainer_id"]
        assert one["passes"] == other["passes"]


def test_shuffled_pairs_are_ranked_like_others_and_cost_no_passes(models: Models, folder: Path) -> None:
    explainer = Explainer(RISE, "auto")
    image, (images, _) = prepared(models, folder, explainer)
    before = image.passes
    found = {one.statistic: one for one in image.null_statistics([(None, "query")])}
    assert image.passes == before
    embeddings = np.stack([one.embedding for one in images[6:]])
    drawn = image.comparisons.random["query"].others("")
    assert drawn is not None
    chosen = nulls.shuffled(drawn, image.session.base, "cosine")
    assert len(chosen) == nulls.SHUFFLED
    assert all((row == embeddings).all(axis=1).any() for row in chosen)
    of_shuffled = []
    for row in chosen:
        at = int(np.flatnonzero((embeddings == row).all(axis=1))[0])
        of_shuffled.append((ExplanationTarget(Pair(f"n{at}", "q", f"n{at}"), "query"), images[6 + at]))
    rows: list[Any] = list(explanation_rows(image, of_shuffled))
    assert found["attribute_score"] == NullStatistic(
        "rise", "query", "attribute_score", tuple(r["top"][0]["score"] for r in rows)
    )
    by_chance = found["map_reliability"].values
    assert len(by_chance) == nulls.SHUFFLED
    assert max(by_chance) < min(row["map_reliability"] for row in rows)


def test_methods_whose_pairs_cost_passes_have_no_null(folder: Path, tmp_path: Path) -> None:
    assert not nulls.REFERENCES % 2

    assert not Explainer(GradientMethod(), "auto").compares_freely
    assert not Explainer(RISE, "auto", "both").compares_freely
    assert Explainer(RISE, "auto").compares_freely


def test_thresholds_go_to_rows_of_their_method_and_side() -> None:
    high, low = (Threshold("attribute_score", value, 0.05, 40) for value in (0.9, 0.1))
    found = {("rise", "query", "attribute_score"): high, ("rise", "reference", "attribute_score"): low}
    row = {
        "method": "rise",
        "map_reliability": None,
        "null_agreement": 0.0,
        "null_share": 0.0,
        "unexplained_reason": None,
        "top": [{"score": 0.5}],
    }
    nested = by_method(found)  # type: ignore[arg-type]
    verdicts = [judged_row({**row, "side": side}, nested)["explained"] for side in ("query", "reference")]
    assert verdicts == [False, True]
    assert judged_row({**row, "side": "query", "method": "lime"}, nested)["explained"] is None
    assert [one["threshold"] for one in threshold_rows(found)] == [0.9, 0.1]  # type: ignore[arg-type]


def test_which_values_are_taken_depends_on_the_image_alone() -> None:
    null_statistic = NullStatistic("rise", "query", "attribute_score", (0.5, 0.7))
    pairs = list(shuffled_values("ab", null_statistic))
    assert [one[1:] for _, one in pairs] == [("ab", 0.5), ("ab", 0.7)]
    assert len({one[0] for _, one in (*pairs, *shuffled_values("cd", null_statistic))}) == 4


@pytest.mark.engine
def test_an_audit_judges_its_rows_and_says_by_which_thresholds(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    small_bundle(bundle)
    rows = [
        {"query": str(folder / f"{a}.png"), "reference": str(folder / f"{b}.png")}
        for a, b in ((at, (at + step) % 30) for at in range(30) for step in (1, 7, 11))
    ]
    manifest = write_csv(folder / "pairs.csv", rows)
    assert audit(manifest, bundle, tmp_path / "out", "one", "--false-alarm-rate", "0.2") == 0
    explained = table(tmp_path / "out", "explanations", "one")
    (run,) = table(tmp_path / "out", "runs", "one")
    by = {one["statistic"]: one for one in run["thresholds"]}
    assert set(by) == {"attribute_score", "map_reliability"}
    assert by["attribute_score"]["false_alarm_rate"] == 0.2
    assert by["attribute_score"]["shuffled_pairs"] == 30 * nulls.SHUFFLED
    assert {row["explained"] for row in explained} <= {True, False}
    for row in explained:
        beyond = row["top"][0]["score"] > by["attribute_score"]["threshold"]
        assert not row["explained"] or beyond
        assert (row["unexplained_reason"] is None) == row["explained"]
    assert any(row["unexplained_reason"] == "attribute_by_chance" for row in explained)
    # the manifest's order and the grouping leave no trace
    back = write_csv(folder / "back.csv", rows[::-1])
    assert audit(back, bundle, tmp_path / "out", "two", "--false-alarm-rate", "0.2") == 0
    again = table(tmp_path / "out", "explanations", "two")
    assert again == explained
    assert read_csv(back) != read_csv(manifest)
