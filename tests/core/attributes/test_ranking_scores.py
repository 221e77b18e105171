"""SANE's ranking of attributes, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.attributes.ranking import Phi, Ranking, Scale, Scales, match_scores, rank_attributes
from transforms.core.imaging.maps import area_average
from transforms.core.records import Float32, Float64


def maps(*values: list[list[float]]) -> Float32:
    return np.array(values, np.float32)


SALIENCY: Float64 = np.array(
    [
        [4.0, 0.0, 1.0, 1.0, -1.0, -1.0],
        [0.0, 0.0, 1.0, 1.0, -1.0, 3.0],
    ]
)
"""2 x 6; averaged down to 1 x 3 it is 1, 1, 0."""


def test_the_cosine_by_hand() -> None:
    activations = maps([[1, 1, 5]], [[1, -1, 0]], [[0, 0, 2]], [[3, 0, 4]], [[-2, -2, 0]], [[0, 0, 0]])
    expected = [2 / math.sqrt(27 * 2), 0, 0, 3 / (5 * math.sqrt(2)), -1, 0]
    np.testing.assert_allclose(match_scores(activations, SALIENCY), expected, atol=1e-12)


def test_a_map_without_structure_matches_nothing() -> None:
    np.testing.assert_array_equal(match_scores(maps([[1, 2, 3]], [[0, 0, 0]]), np.zeros((2, 6))), [0, 0])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(st.integers(1, 9), st.integers(1, 9))
)
def test_the_cosine_is_that_of_the_averaged_map(a: int, small: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(a)
    activations, saliency = rng.normal(size=(a, *small)).astype(np.float32), rng.normal(size=size)
    found = match_scores(activations, saliency)
    averaged = area_average(saliency, small).ravel()
    for score, activation in zip(found, activations.astype(np.float64), strict=True):
        inner = math.fsum(x * y for x, y in zip(activation.ravel(), averaged, strict=True))
        assert score == pytest.approx(inner / np.linalg.norm(activation) / np.linalg.norm(averaged), abs=1e-12)
        assert -1 - 1e-12 <= score <= 1 + 1e-12


def test_phi_weighs_confidence_and_match() -> None:
    confidence = np.array([0.25, 0.5, 1.0], np.float32)
    activations = maps([[1, 1, 0]], [[-1, -1, 0]], [[1, -1, 0]])  # matches 1, -1 and 0
    ranked = rank_attributes(confidence, activations, SALIENCY, Ranking((0.5, 0.25, 0)), top=3)
    assert [(one.index, one.confidence) for one in ranked] == [(2, 1.0), (0, 0.25), (1, 0.5)]
    np.testing.assert_allclose([one.score for one in ranked], [0.5, 0.375, 0.0], atol=1e-12)
    np.testing.assert_allclose([one.match for one in ranked], [0, 1, -1], atol=1e-12)


@pytest.mark.parametrize(("phi", "first"), [((1, 0, 0), [2, 1, 0]), ((0, 1, 0), [0, 2, 1]), ((0, 0, 1), [1, 2, 0])])
def test_each_part_can_stand_alone(phi: Phi, first: list[int]) -> None:
    confidence = np.array([0.25, 0.5, 1.0], np.float32)
    activations = maps([[1, 1, 0]], [[-1, -1, 0]], [[1, -1, 0]])
    ranked = rank_attributes(confidence, activations, SALIENCY, Ranking(phi, priors=(0.1, 0.9, 0.5)), top=3)
    assert [one.index for one in ranked] == first


def test_ties_go_to_the_first_of_the_vocabulary() -> None:
    confidence = np.array([0.1, 0.5, 0.5, 0.9, 0.5], np.float32)
    activations = np.repeat(maps([[0, 0, 1]]), 5, axis=0)
    ranked = rank_attributes(confidence, activations, SALIENCY, Ranking((1, 1, 0)), top=4)
    assert [one.index for one in ranked] == [3, 1, 2, 4]


@pytest.mark.parametrize(("top", "count"), [(0, 0), (1, 1), (3, 3), (5, 3)])
def test_no_more_attributes_than_there_are(top: int, count: int) -> None:
    activations = maps([[1, 1, 0]], [[1, 0, 0]], [[0, 0, 1]])
    ranked = rank_attributes(np.full(3, 0.5, np.float32), activations, SALIENCY, Ranking(), top)
    assert [one.index for one in ranked] == [0, 1, 2][:count]
    assert all(isinstance(value, float) for one in ranked for value in (one.score, one.confidence, one.match))


def test_each_part_is_scaled_before_it_is_weighed() -> None:
    scales = Scales(Scale((0, 1), (0, 10)), Scale((-1, 0, 1), (0, 0, 4)), Scale((0.2, 0.4), (1, 2)))
    ranking = Ranking((1, 0.5, 2), scales, priors=(0.2, 0.3, 0.4))
    found = ranking.scores([[0.1, 0.2, 0.3]], [[-1, 0.5, 1]])
    np.testing.assert_allclose(found, [[1 + 0 + 2, 2 + 1 + 3, 3 + 2 + 4]])
    ranked = rank_attributes(np.zeros(3, np.float32), maps([[0, 0, 1]], [[0, 0, 1]], [[0, 0, 1]]), SALIENCY, ranking, 1)
    assert [(one.index, one.prior) for one in ranked] == [(2, 0.4)]


def test_without_priors_the_third_term_is_left_out() -> None:
    assert Ranking((1, 1, 5)).scores([0.25], [0.5]).tolist() == [0.75]


def test_a_scale_is_straight_between_and_beyond_its_knots() -> None:
    scale = Scale((0, 1, 3), (0, 2, 3))
    np.testing.assert_allclose(scale([[-1.0, 0.5], [2.0, 5.0]]), [[-2.0, 1.0], [2.5, 4.0]])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True),
    st.lists(st.integers(-50, 50), min_size=6, max_size=6),
    st.lists(st.floats(-100, 100), min_size=2, max_size=8),
)
def test_a_scale_keeps_the_order(values: list[int], levels: list[int], points: list[float]) -> None:
    scale = Scale(tuple(map(float, sorted(values))), tuple(map(float, sorted(levels)[: len(values)])))
    np.testing.assert_allclose(scale(scale.values), scale.levels, atol=1e-12)
    found = scale(np.array(sorted(points)))
    assert (found[1:] - found[:-1] >= -1e-9).all()


@pytest.mark.parametrize(
    ("values", "levels"), [((0,), (1,)), ((0, 0), (0, 1)), ((1, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 1), (0, 1, 2))]
)
def test_what_is_no_scale_is_refused(values: tuple[float, ...], levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at least two rising values"):
        Scale(values, levels)


@pytest.mark.parametrize("phi", [(0.5, 0.5), (0.5, -0.1, 0), (0.5, float("nan"), 0)])
def test_phi_is_three_weights(phi: Phi) -> None:
    with pytest.raises(ValueError, match="three finite weights"):
        Ranking(phi)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ((0, math.inf), (0, 1)),
        ((0, 1), (math.nan, 1)),
        (("a", "b"), (0, 1)),
        ((0, 10**400), (0, 1)),
        ((0, True), (0, 1)),
    ],
)
def test_knots_are_finite_numbers(values: tuple[float, ...], levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        Scale(values, levels)


def test_slopes_are_finite() -> None:
    for values in ((0, 5e-324, 1), (-1e-310, 0, 1)):
        with pytest.raises(ValueError, match="slopes are finite"):
            Scale(values, (0, 1, 1))
    assert Scale((0, 1e-300), (0, 1))(0.0) == 0
