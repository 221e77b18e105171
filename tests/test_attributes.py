"""SANE's ranking of attributes, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.attributes import match_scores, rank_attributes
from transforms.core.maps import area_average
from transforms.core.types import Float32, Float64


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
    ranked = rank_attributes(confidence, activations, SALIENCY, (0.5, 0.25), top=3)
    assert [(one.index, one.confidence) for one in ranked] == [(2, 1.0), (0, 0.25), (1, 0.5)]
    np.testing.assert_allclose([one.score for one in ranked], [0.5, 0.375, 0.0], atol=1e-12)
    np.testing.assert_allclose([one.match for one in ranked], [0, 1, -1], atol=1e-12)


@pytest.mark.parametrize(("phi", "first"), [((1.0, 0.0), [2, 1, 0]), ((0.0, 1.0), [0, 2, 1])])
def test_either_part_can_be_switched_off(phi: tuple[float, float], first: list[int]) -> None:
    confidence = np.array([0.25, 0.5, 1.0], np.float32)
    activations = maps([[1, 1, 0]], [[-1, -1, 0]], [[1, -1, 0]])
    ranked = rank_attributes(confidence, activations, SALIENCY, phi, top=3)
    assert [one.index for one in ranked] == first


def test_ties_go_to_the_first_of_the_vocabulary() -> None:
    confidence = np.array([0.1, 0.5, 0.5, 0.9, 0.5], np.float32)
    activations = np.repeat(maps([[0, 0, 1]]), 5, axis=0)
    ranked = rank_attributes(confidence, activations, SALIENCY, (1.0, 1.0), top=4)
    assert [one.index for one in ranked] == [3, 1, 2, 4]


@pytest.mark.parametrize(("top", "count"), [(0, 0), (1, 1), (3, 3), (5, 3)])
def test_no_more_attributes_than_there_are(top: int, count: int) -> None:
    activations = maps([[1, 1, 0]], [[1, 0, 0]], [[0, 0, 1]])
    ranked = rank_attributes(np.full(3, 0.5, np.float32), activations, SALIENCY, (0.5, 0.5), top)
    assert [one.index for one in ranked] == [0, 1, 2][:count]
    assert all(isinstance(value, float) for one in ranked for value in (one.score, one.confidence, one.match))
