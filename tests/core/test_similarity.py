"""Similarities against scipy, and their promise: equal to the bit however references are grouped."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from transforms.core.records import Float32, Float64
from transforms.core.similarity import SimilarityFunction, similarities

FUNCTIONS: tuple[SimilarityFunction, ...] = get_args(SimilarityFunction)


def by_scipy(references: Float32, perturbed: Float32, function: SimilarityFunction) -> Float64:
    left, right = references.astype(np.float64), perturbed.astype(np.float64)
    if function == "dot":
        return np.array([[sum(a * b for a, b in zip(x, y, strict=True)) for y in right] for x in left])
    distance: Float64 = cdist(left, right, function)
    return 1 - distance if function == "cosine" else -distance


def vectors(count: int, dimension: int, seed: int) -> Float32:
    return np.random.default_rng(seed).normal(0.3, 1, (count, dimension)).astype(np.float32)


def test_by_hand() -> None:
    references = np.array([[3, 4], [0, 2]], np.float32)
    perturbed = np.array([[4, 3], [-3, -4], [3, 0]], np.float32)
    np.testing.assert_allclose(
        similarities(references, perturbed, "cosine"), [[24 / 25, -1, 3 / 5], [3 / 5, -4 / 5, 0]], atol=1e-15
    )
    np.testing.assert_array_equal(similarities(references, perturbed, "dot"), [[24, -25, 9], [6, -8, 0]])
    np.testing.assert_allclose(
        similarities(references, perturbed, "euclidean"), -np.sqrt([[2, 100, 16], [17, 45, 13]]), atol=1e-15
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("r", "n", "d"), [(3, 7, 5), (1, 1, 1), (5, 2, 128), (2, 3, 9001)])
def test_they_are_what_scipy_computes(function: SimilarityFunction, r: int, n: int, d: int) -> None:
    references, perturbed = vectors(r, d, 1), vectors(n, d, 2)
    found = similarities(references, perturbed, function)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_scipy(references, perturbed, function), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 7, 16, 33, 64, 128, 1000, 4097, 8193, 9000]),
    st.data(),
)
def test_permuting_and_splitting_references_changes_no_bit(
    function: SimilarityFunction, r: int, n: int, d: int, data: st.DataObject
) -> None:
    references, perturbed = vectors(r, d, r), vectors(n, d, n + 100)
    whole = similarities(references, perturbed, function)
    order = data.draw(st.permutations(range(r)), label="order")
    cuts = sorted({0, r, *data.draw(st.lists(st.integers(0, r), max_size=3), label="cuts")})
    parts = [similarities(references[order[a:b]], perturbed, function) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    # nor does it matter how the arrays lie in memory
    padded = np.zeros((r, d + 1), np.float32)
    padded[:, 1:] = references
    np.testing.assert_array_equal(similarities(padded[:, 1:], np.asfortranarray(perturbed), function), whole)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("d", [5, 33, 128, 1280, 8193])
def test_equal_embeddings_have_equal_similarities_wherever_they_stand(function: SimilarityFunction, d: int) -> None:
    one = vectors(1, d, 3)
    references = vectors(2, d, 4)
    alone = similarities(references, one, function)
    for n in (2, 7, 100):
        np.testing.assert_array_equal(
            similarities(references, np.repeat(one, n, axis=0), function), np.repeat(alone, n, axis=1)
        )


def test_a_zero_vector_has_cosine_zero() -> None:
    references = np.array([[0, 0, 0], [1, 2, 2]], np.float32)
    perturbed = np.array([[1, 2, 2], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(similarities(references, perturbed, "cosine"), [[0, 0], [1, 0]])


def test_the_extremes_of_float32_do_not_overflow() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    perturbed = np.array([[largest, largest], [smallest, 0]], np.float32)
    np.testing.assert_allclose(
        similarities(np.array([[1, 1]], np.float32), perturbed, "cosine"), [[1, np.sqrt(0.5)]], atol=1e-15
    )
    assert np.isfinite(similarities(perturbed, perturbed, "dot")).all()
    assert np.isfinite(similarities(perturbed, perturbed, "euclidean")).all()


def test_inputs_stay_as_they_are() -> None:
    references, perturbed = vectors(2, 5, 1), vectors(3, 5, 2)
    kept = references.copy(), perturbed.copy()
    for function in FUNCTIONS:
        similarities(references, perturbed, function)
        as_float64 = references.astype(np.float64)
        similarities(as_float64, as_float64, function)  # type: ignore[arg-type]
        np.testing.assert_array_equal(as_float64, kept[0])
    np.testing.assert_array_equal(references, kept[0])
    np.testing.assert_array_equal(perturbed, kept[1])


def test_no_references_give_no_rows() -> None:
    assert similarities(vectors(0, 5, 1), vectors(3, 5, 2), "cosine").shape == (0, 3)


@pytest.mark.parametrize(("left", "right"), [((2, 5), (3, 4)), ((5,), (3, 5)), ((2, 5), (5,))])
def test_shapes_that_do_not_fit_are_named(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[R, D\] and \[N, D\]"):
        similarities(np.zeros(left, np.float32), np.zeros(right, np.float32), "cosine")
