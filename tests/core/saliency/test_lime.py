"""LIME against the ``lime`` package, against scikit-learn's ridge, and by hand, on frames that are not square."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.records import Float64
from transforms.core.saliency.lime import Lime, lime

WIDTH = 0.25


@st.composite
def designs(draw: st.DrawFn) -> Lime:
    size = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    numbers = st.sampled_from([-7, 0, 3, 4, 1000, 2**40])
    labels = np.array(draw(st.lists(numbers, min_size=size[0] * size[1], max_size=size[0] * size[1]))).reshape(size)
    return lime(
        labels,
        samples=draw(st.integers(1, 30)),
        seed=draw(st.integers(0, 99)),
        kernel_width=draw(st.sampled_from([0.05, 0.25, 2.0])),
        ridge=draw(st.sampled_from([0.01, 1.0, 30.0])),
    )


def blocks(height: int, width: int, cell: int) -> Any:
    """Labels [height, width] of squares of ``cell`` pixels, numbered with gaps."""
    rows, columns = np.arange(height) // cell, np.arange(width) // cell
    return 7 * (rows[:, None] * (columns[-1] + 1) + columns) + 3


def some_scores(design: Lime, references: int, n: int | None = None) -> Float64:
    return np.random.default_rng(design.n + 31 * references).normal(0.8, 0.1, (references, n or design.n))


def slow_coefficients(design: Lime, score: Float64) -> Float64:
    """The minimum of the formula's objective, intercept included, by its normal equations; float64 [S]."""
    samples = design.samples[: len(score)].astype(np.float64)
    segments = samples.shape[1]
    system, right = np.zeros((segments + 1, segments + 1)), np.zeros(segments + 1)
    for sample, f in zip(samples, score, strict=True):
        norm = math.sqrt(sample.sum()) * math.sqrt(segments)
        distance = 1 - (sample.sum() / norm if norm else 0)
        weight = math.sqrt(math.exp(-(distance**2) / design.kernel_width**2))
        row = np.append(sample, 1)
        system += weight * np.outer(row, row)
        right += weight * f * row
    system[range(segments), range(segments)] += design.ridge  # the intercept goes free
    solution: Float64 = np.linalg.solve(system, right)[:-1]
    return solution


def test_one_superpixel_by_hand() -> None:
    # hiding it is at distance 1, and the width makes that weigh 1/2: the sample's weighted mean is 2/3, its weighted
    # variance 1/9 + 4/18 = 1/3, its covariance with the scores (0.9 - 0.1) / 3
    samples = np.array([[True], [False]])
    design = Lime(np.zeros((2, 3), np.int64), samples, 1 / math.sqrt(2 * math.log(2)), 1.0)
    np.testing.assert_allclose(design.weights(2), [1, 0.5], atol=1e-15)
    maps = design.estimate(np.array([[0.9, 0.1]]), np.array([0.9]))
    np.testing.assert_allclose(maps[0], np.full((2, 3), 0.8 / 3 / (1 / 3 + 1)), atol=1e-15)


def test_two_superpixels_by_hand() -> None:
    # all four samples, equally weighted by a wide kernel: superpixels are uncorrelated, of variance 4 * 1/4 = 1, so
    # a ridge of 1 halves the true effects 0.4 and -0.2
    samples = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    design = Lime(np.array([[0, 1, 1], [0, 0, 1]]), samples, 1e9, 1.0)
    scores = 0.7 + samples @ np.array([0.4, -0.2])
    maps = design.estimate(scores[None], np.array([0.9]))
    np.testing.assert_allclose(maps[0], [[0.2, -0.1, -0.1], [0.2, 0.2, -0.1]], atol=1e-15)


def test_masks_by_hand() -> None:
    samples = np.array([[1, 1, 1], [0, 1, 0]], bool)
    design = Lime(np.array([[0, 1, 1, 2], [0, 0, 2, 1]]), samples, WIDTH, 1.0)
    np.testing.assert_array_equal(design.masks(0, 1), np.ones((1, 2, 4)))
    np.testing.assert_array_equal(design.masks(1, 2)[0], [[0, 1, 1, 0], [0, 0, 0, 1]])
    assert design.masks(0, 2).dtype == np.float32
    assert (design.size, design.n) == ((2, 4), 2)


@settings(deadline=None, max_examples=60)
@given(designs(), st.integers(1, 3), st.data())
def test_the_map_is_the_coefficient_of_the_pixels_superpixel(
    design: Lime, references: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, design.n), label="samples scored so far")
    scores = some_scores(design, references, n)
    maps = design.estimate(scores, np.ones(references))
    assert maps.dtype == np.float64
    assert maps.shape == (references, *design.size)
    for score, found in zip(scores, maps, strict=True):
        expected = slow_coefficients(design, score)
        for y, x in np.ndindex(*design.size):
            assert found[y, x] == pytest.approx(expected[design.labels[y, x]], abs=1e-9)


@pytest.mark.parametrize(("cell", "samples"), [(4, 200), (2, 300), (2, 20), (30, 10), (4, 1), (4, 2)])
def test_coefficients_are_those_of_the_lime_package(cell: int, samples: int) -> None:
    base = pytest.importorskip("lime.lime_base")
    pairwise_distances = pytest.importorskip("sklearn.metrics").pairwise_distances
    design = lime(blocks(12, 20, cell), samples=samples, seed=4)
    data = design.samples.astype(np.int64)
    scores = some_scores(design, 3)
    distances = pairwise_distances(data, data[:1], metric="cosine").ravel()
    explainer = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / WIDTH**2)), random_state=0)
    found = design.coefficients(scores, np.ones(3))
    for reference in range(3):
        with warnings.catch_warnings():  # the package also asks for R^2, which one sample does not have
            warnings.filterwarnings("ignore", message=r"R\^2 score is not well-defined")
            _, pairs, *_ = explainer.explain_instance_with_data(
                data, scores.T, distances, reference, data.shape[1], feature_selection="none"
            )
        theirs = np.array([value for _, value in sorted(pairs)])
        np.testing.assert_allclose(found[reference], theirs, atol=1e-8)


def test_the_whole_method_is_that_of_the_lime_package() -> None:
    """Its image explainer draws the samples; what it hides is read off the images that it asks about."""
    explainer = pytest.importorskip("lime.lime_image").LimeImageExplainer(feature_selection="none", random_state=2)
    labels = blocks(8, 15, 3) // 7
    image = np.random.default_rng(1).integers(1, 256, (8, 15, 3), dtype=np.uint8)
    effects = np.random.default_rng(2).normal(size=(8 * 15 * 3, 2)) / 4000
    asked: list[Any] = []

    def similarities(images: Any) -> Float64:
        asked.extend(images)
        scores: Float64 = np.tanh(images.reshape(len(images), -1) @ effects)
        return scores

    theirs = explainer.explain_instance(
        image,
        similarities,
        labels=(0, 1),
        top_labels=None,
        hide_color=0,
        num_samples=150,
        segmentation_fn=lambda _: labels,
    )
    _, first = np.unique(labels, return_index=True)
    samples = (np.array(asked)[..., 0] > 0).reshape(150, -1)[:, first]
    assert samples[0].all()
    design = Lime(labels, samples, WIDTH, 1.0)
    np.testing.assert_array_equal(design.masks(0, 150)[..., None] * image, asked)
    scores = similarities(np.array(asked)).T
    maps = design.estimate(scores, scores[:, 0])
    for reference in (0, 1):
        expected = dict(theirs.local_exp[reference])
        literal = [[expected[value] for value in row] for row in labels]
        np.testing.assert_allclose(maps[reference], literal, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(designs())
def test_coefficients_are_those_of_a_weighted_ridge_regression(design: Lime) -> None:
    ridge = pytest.importorskip("sklearn.linear_model").Ridge
    score = some_scores(design, 1)
    model = ridge(alpha=design.ridge, solver="svd").fit(
        design.samples.astype(np.float64), score[0], sample_weight=design.weights(design.n)
    )
    np.testing.assert_allclose(design.coefficients(score, np.ones(1))[0], model.coef_, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(designs(), st.integers(1, 7), st.data())
def test_a_map_depends_on_its_own_scores_alone_to_the_bit(design: Lime, references: int, data: st.DataObject) -> None:
    scores, base = some_scores(design, references), np.arange(references, dtype=np.float64)
    whole = design.estimate(scores, base)
    order = data.draw(st.permutations(range(references)))
    cut = data.draw(st.integers(0, references))
    parts = [design.estimate(scores[some], base[some]) for some in (order[:cut], order[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    np.testing.assert_array_equal(design.estimate(np.asfortranarray(scores), base), whole)


def test_a_thousand_references_and_one_are_the_same_to_the_bit() -> None:
    design = lime(blocks(20, 30, 3), samples=200)
    scores = some_scores(design, 1000)
    whole = design.estimate(scores, np.ones(1000))
    for at in (0, 1, 517, 999):
        np.testing.assert_array_equal(design.estimate(scores[at : at + 1], np.ones(1))[0], whole[at])


@settings(deadline=None, max_examples=40)
@given(designs(), st.floats(-3, 3), st.floats(-5, 5))
def test_maps_scale_with_the_scores_and_ignore_what_is_added(design: Lime, factor: float, added: float) -> None:
    scores, base = some_scores(design, 2), np.zeros(2)
    expected = factor * design.estimate(scores, base)
    np.testing.assert_allclose(design.estimate(factor * scores + added, base + 1), expected, atol=1e-11)


@settings(deadline=None, max_examples=40)
@given(designs(), st.sampled_from([0.1, 1 / 3, 0.9999999, -4.0]))
def test_equal_scores_give_a_map_of_exact_zeros(design: Lime, score: float) -> None:
    maps = design.estimate(np.full((2, design.n), score), np.array([score, 0.0]))
    np.testing.assert_array_equal(maps, np.zeros((2, *design.size)))


def test_one_sample_gives_a_map_of_zeros() -> None:
    design = lime(blocks(5, 8, 2), samples=9)
    np.testing.assert_array_equal(design.estimate(np.array([[0.7]]), np.array([0.7])), np.zeros((1, 5, 8)))


def test_more_superpixels_than_samples_have_a_defined_map() -> None:
    design = lime(np.arange(63).reshape(7, 9), samples=5)
    score = some_scores(design, 1)
    maps = design.estimate(score, np.ones(1))
    assert np.isfinite(maps).all()
    np.testing.assert_allclose(maps[0].ravel(), slow_coefficients(design, score[0]), atol=1e-12)


def test_a_kernel_that_sees_the_query_alone_gives_zeros() -> None:
    design = lime(blocks(5, 8, 2), samples=20, kernel_width=1e-4)
    np.testing.assert_allclose(design.estimate(some_scores(design, 1), np.ones(1)), np.zeros((1, 5, 8)), atol=1e-12)


def test_the_superpixels_that_matter_are_found() -> None:
    labels = blocks(24, 36, 6)
    design = lime(labels, samples=600, seed=1)
    effects = np.zeros(24)
    effects[[7, 8]] = 0.2, -0.1
    scores = 0.8 + (design.samples @ effects)[None]
    found = design.coefficients(scores, np.ones(1))[0]
    assert found[7] == pytest.approx(0.2, abs=0.01)
    assert found[8] == pytest.approx(-0.1, abs=0.01)
    assert np.abs(np.delete(found, [7, 8])).max() < 0.01


def test_labels_are_numbered_without_gaps_in_their_order() -> None:
    labels = np.array([[90, -5], [2**40, 90]])
    design = lime(labels, samples=3)
    np.testing.assert_array_equal(design.labels, [[1, 0], [2, 1]])
    np.testing.assert_array_equal(lime(np.array([[3, 1]], np.uint8)).labels, [[1, 0]])


@settings(deadline=None, max_examples=40)
@given(designs(), st.data())
def test_slices_of_masks_are_the_whole(design: Lime, data: st.DataObject) -> None:
    cuts = sorted({0, design.n, *data.draw(st.lists(st.integers(0, design.n), max_size=4))})
    pieces = [design.masks(start, stop) for start, stop in pairwise(cuts)]
    whole = design.masks(0, design.n)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert (whole[0] == 1).all()
    for mask, sample in zip(whole, design.samples, strict=True):
        np.testing.assert_array_equal(mask, [[sample[value] for value in row] for row in design.labels])


def test_draws_are_fair_follow_the_seed_and_only_grow() -> None:
    labels = blocks(8, 12, 4)
    first, longer = lime(labels, samples=4000, seed=5).samples, lime(labels, samples=4100, seed=5).samples
    np.testing.assert_array_equal(longer[:4000], first)
    assert not np.array_equal(lime(labels, samples=4000, seed=6).samples, first)
    assert np.abs(first[1:].mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(3999)
    signs = 2.0 * first[1:] - 1
    assert np.abs(signs.T @ signs / 3999 - np.eye(6)).max() < 5 / math.sqrt(3999)


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"kernel_width": 0.0}, {"kernel_width": math.nan}, {"ridge": 0.0}, {"ridge": math.inf}],
)
def test_impossible_parameters_are_named(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        lime(blocks(4, 6, 2), **wrong)


@pytest.mark.parametrize("labels", [np.zeros((0, 3), np.int64), np.zeros(4, np.int64), np.zeros((2, 3))])
def test_what_are_no_labels_is_named(labels: Any) -> None:
    with pytest.raises(ValueError, match=rf"integer labels \[H, W\].*got {labels.dtype}"):
        lime(labels)


@pytest.mark.parametrize(("scores", "base"), [((2, 6), 2), ((2, 0), 2), ((2, 5), 3), ((5,), 5)])
def test_scores_that_do_not_fit_are_refused(scores: tuple[int, ...], base: int) -> None:
    with pytest.raises(ValueError, match="0 < n' <= 5"):
        lime(blocks(4, 6, 2), samples=5).estimate(np.zeros(scores), np.zeros(base))


def test_no_references_give_no_maps() -> None:
    assert lime(blocks(4, 6, 2), samples=5).estimate(np.zeros((0, 5)), np.zeros(0)).shape == (0, 4, 6)
