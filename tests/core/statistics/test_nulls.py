"""What an explanation is compared with before it counts as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.imaging.maps import correlations, shared_variance
from transforms.core.records import EmbeddedImage, Float32
from transforms.core.saliency.contract import References
from transforms.core.saliency.perturbation import mean_similarities
from transforms.core.similarity import similarities
from transforms.core.statistics import nulls
from transforms.core.statistics.nulls import NullReferences, contrasted, mean_of, shuffled
from transforms.core.statistics.verdict import Statistic, Threshold, calibrate, judge


def unit(count: int, dimension: int = 5, seed: int = 0) -> Float32:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    made: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def image(number: int, embedding: Float32 | None = None, address: str = "") -> EmbeddedImage:
    row = unit(1, seed=number)[0] if embedding is None else embedding
    return EmbeddedImage(address or f"{number}.jpg", f"sha{number}", 4, 3, row)


def test_random_references_are_other_images_each_once() -> None:
    images = [image(number) for number in range(70)]
    drawn = NullReferences.of(images)
    again = NullReferences.of([*reversed(images), image(7, images[7].embedding, "another/address.jpg")])
    names = [sha256 for sha256, _ in drawn.drawn]
    assert names == [sha256 for sha256, _ in again.drawn] == sorted(one.sha256 for one in images)
    others = drawn.others(names[0])
    assert others is not None
    assert others.shape == (nulls.REFERENCES, 5)
    np.testing.assert_array_equal(others[0], drawn.drawn[1][1])
    without = drawn.others("none of them")
    assert without is not None
    np.testing.assert_array_equal(without[0], drawn.drawn[0][1])


def test_few_images_are_no_null() -> None:
    few = NullReferences.of([image(number) for number in range(nulls.LEAST)])
    assert few.others("sha1") is None
    assert few.others("another") is not None
    assert NullReferences.of([]).others("sha1") is None


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_the_null_is_the_mean_similarity_to_random_references(function: Any) -> None:
    others, perturbed = unit(6), unit(9, seed=1)
    if function != "cosine":
        others = others * np.arange(1, 7, dtype=np.float32)[:, None]
    found = mean_similarities(mean_of(others, function), perturbed, function)
    np.testing.assert_allclose(found, similarities(others, perturbed, function).mean(axis=0)[None], atol=1e-6)


@pytest.mark.parametrize("function", ["cosine", "dot"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_contrast_is_the_similarity_less_its_mean(function: Any, masked: bool) -> None:
    references, others, perturbed = unit(3), unit(6, seed=2), unit(9, seed=1)
    versions = unit(3, seed=4)[:, None] * np.float32(0.7) if masked else None
    given_ = References(references, versions)
    found = mean_similarities(contrasted(given_, mean_of(others, function)), perturbed, function)
    expected = mean_similarities(given_, perturbed, function) - similarities(others, perturbed, function).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_contrast_of_distances() -> None:
    with pytest.raises(ValueError, match="one vector"):
        contrasted(References(unit(3)), mean_of(unit(6), "euclidean"))


def test_shuffled_pairs_are_of_the_less_similar_half() -> None:
    base = np.array([[1, 0]], np.float32)
    cosines = np.array([0.9, -0.5, 0.8, 0.1, 0.0, 0.7, 0.2], np.float32)
    others = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    np.testing.assert_array_equal(shuffled(others, base, "cosine")[:, 0], np.array([-0.5, 0.1, 0.0], np.float32))
    many = unit(64)
    assert shuffled(many, many[:1], "cosine").shape == (nulls.SHUFFLED, 5)
    assert shuffled(others[:1], base, "cosine").shape == (0, 2)


def of_images(*values: float) -> list[tuple[str, float]]:
    return [(str(at), value) for at, value in enumerate(values)]


def test_a_threshold_is_the_conformal_quantile_and_needs_enough_images() -> None:
    values = of_images(*range(1, 20))
    assert calibrate("attribute_score", values, 0.05) == Threshold("attribute_score", 19, 0.05, 19)
    assert calibrate("attribute_score", values[:18], 0.05).value is None
    assert calibrate("attribute_score", of_images(*range(1, 100)), 0.05).value == 95
    assert calibrate("attribute_score", of_images(3, 1, 2), 0.5).value == 2
    assert calibrate("map_reliability", [], 0.5).value is None
    # many values of few images are few
    assert calibrate("attribute_score", [(str(at % 18), at) for at in range(180)], 0.05).value is None
    # each image weighs the same: here two values of one are worth one of another
    uneven = [("a", 1.0), ("a", 2.0), ("b", 3.0), ("c", 4.0)]
    assert [calibrate("attribute_score", uneven, rate).value for rate in (0.9, 0.75, 0.5, 0.25)] == [1, 2, 3, 4]


@given(st.integers(20, 60), st.integers(1, 4), st.sampled_from([0.05, 0.1, 0.25]), st.integers(0, 2**20))
def test_a_further_image_is_beyond_the_threshold_at_most_as_often_as_stated(
    images: int, each: int, rate: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed).permutation(images * each).reshape(images, each).astype(np.float64)
    # leave-one-out over exchangeable images: each is the further one once
    beyond = 0.0
    for at in range(images):
        values = [(str(one), float(value)) for one in range(images) if one != at for value in drawn[one]]
        limit = calibrate("attribute_score", values, rate).value
        beyond += 0.0 if limit is None else float((drawn[at] > limit).mean())
    assert beyond <= rate * images + 1 + 1e-9


def thresholds(**values: float | None) -> dict[Statistic, Threshold]:
    return {name: Threshold(name, value, 0.05, 99) for name, value in values.items()}  # type: ignore[misc,arg-type]


BOTH = thresholds(map_reliability=0.4, attribute_score=0.8)
GOOD: dict[str, Any] = {"reliability": 0.9, "null_share": 0.2, "score": 0.9, "elsewhere": False}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, (True, None)),
        ({"reliability": 0.4}, (False, "unreliable_map")),
        ({"null_share": 0.5}, (False, "same_for_any_reference")),
        ({"elsewhere": True}, (False, "evidence_elsewhere")),
        ({"score": 0.8}, (False, "attribute_by_chance")),
        ({"reliability": 0.3, "score": 0.1, "elsewhere": True}, (False, "unreliable_map")),
        ({"null_share": None}, (None, None)),
        ({"null_share": -3.0}, (True, None)),
        ({"reliability": None}, (True, None)),
        ({"reliability": None, "null_share": 0.99}, (False, "same_for_any_reference")),
        ({"score": None}, (True, None)),
        ({"score": None, "reliability": None}, (None, None)),
        ({"elsewhere": True, "null_share": None}, (False, "evidence_elsewhere")),
    ],
)
def test_the_verdict_and_its_reason(changes: dict[str, Any], verdict: tuple[bool | None, str | None]) -> None:
    assert judge(**{**GOOD, **changes}, thresholds=BOTH) == verdict


def test_without_a_threshold_nothing_is_called_explained() -> None:
    assert judge(**GOOD, thresholds=thresholds(map_reliability=0.4, attribute_score=None)) == (None, None)
    assert judge(**GOOD, thresholds={}) == (None, None)
    assert judge(**{**GOOD, "score": None}, thresholds={}) == (None, None)
    assert judge(**{**GOOD, "elsewhere": True}, thresholds={}) == (False, "evidence_elsewhere")


def test_correlations_of_maps_by_hand() -> None:
    left = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], [[7.0] * 3] * 2])
    one = np.array([[[6.0, 5.0, 4.0], [3.0, 2.0, 1.0]]])
    np.testing.assert_allclose(correlations(left, one)[:2], [-1, np.corrcoef(left[1].ravel(), one.ravel())[0, 1]])
    assert correlations(left, one)[2] == 0
    np.testing.assert_array_equal(correlations(left, left), [1, 1, 1])


def test_shared_variance_knows_how_large_maps_are() -> None:
    one = np.array([[[1.0, -1.0, 0.0], [2.0, -2.0, 0.0]]])
    maps = np.concatenate([one, 2 * one + 5, -one, np.full_like(one, 3.0)])
    np.testing.assert_allclose(shared_variance(maps, one), [1, 1 - 0.25, 1 - 4, 0])
    np.testing.assert_allclose(shared_variance(one, np.zeros_like(one)), [0])
