"""Embeddings under conditions: by hand, row by row, and what is kept of masked versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models.networks import D, vectors
from transforms.core.records import Float64
from transforms.core.saliency.contract import References
from transforms.core.saliency.perturbation import mean_similarities
from transforms.core.similarity import (
    SimilarityFunction,
    conditioned,
    for_condition,
    reduce_perturbed,
    rows_kept,
    similarities,
)

FUNCTIONS: tuple[SimilarityFunction, ...] = ("cosine", "dot", "euclidean")
MASKS = [(1.0, 0.0, 0.5, 0.0, 2.0), (0.0, 1.0, 1.0, 0.25, 0.0), (0.1, 0.2, 3.0, 0.0, 1.0)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_kept_of_masked_versions_is_enough(function: SimilarityFunction) -> None:
    """Against all similarities, of each version and each embedding, with the formula written out."""
    masks = [np.array(mask, np.float32) for mask in MASKS]

    def similarity(left: Float64, right: Float64) -> float:
        if function == "euclidean":
            return -float(np.linalg.norm(left - right))
        return float(left @ right) / (
            float(np.linalg.norm(left) * np.linalg.norm(right)) if function == "cosine" else 1
        )

    embeddings = vectors(4, 1, unit=function == "cosine")
    for count in (1, 2, 3, 7):
        versions = vectors(count, count, unit=function == "cosine")
        kept = reduce_perturbed(versions, masks, function)
        expected_rows = {"cosine": min(count, 3), "dot": 1, "euclidean": count}[function]
        assert len(kept) == expected_rows == rows_kept(count, 3, function)
        for number, mask in enumerate(masks):
            compared = for_condition(kept, mask, number, len(masks), function)
            assert compared.shape == (count if function == "euclidean" else 1, D)
            assert compared.dtype == np.float32
            found = mean_similarities(
                References(np.zeros((1, D), np.float32), compared[None]),
                conditioned(embeddings, mask, function),
                function,
            )
            wide = mask.astype(np.float64)
            expected = [
                np.mean([similarity(wide * version, wide * embedding) for version in versions])
                for embedding in embeddings
            ]
            np.testing.assert_allclose(found[0], expected, atol=1e-6)
    plain = reduce_perturbed(vectors(7, 0, unit=True), [], function)
    assert len(plain) == rows_kept(7, 0, function) == (7 if function == "euclidean" else 1)


@given(
    embeddings=st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    mask=st.lists(st.floats(0, 3, width=32), min_size=3, max_size=3),
    function=st.sampled_from(FUNCTIONS),
)
def test_a_row_depends_on_itself_alone(
    embeddings: list[list[float]], mask: list[float], function: SimilarityFunction
) -> None:
    rows, scale = np.array(embeddings, np.float32), np.array(mask, np.float32)
    found = conditioned(rows, scale, function)
    for row, one in zip(rows, found, strict=True):
        np.testing.assert_array_equal(conditioned(row[None], scale, function)[0], one)
        product = row.astype(np.float64) * scale
        length = np.linalg.norm(product)
        assert np.isfinite(one).all()
        if function != "cosine":
            np.testing.assert_array_equal(one, product.astype(np.float32))
        else:
            np.testing.assert_allclose(one, product / length if length > 0 else 0 * product, atol=1e-6)


def test_a_condition_by_hand() -> None:
    """[3, 4, 12] under (1, 0.5, 0) is [3, 2, 0]; of length 1 it is [3, 2, 0] / sqrt(13)."""
    rows, mask = np.array([[3, 4, 12], [0, 0, 5]], np.float32), np.array([1, 0.5, 0], np.float32)
    np.testing.assert_array_equal(conditioned(rows, mask, "dot"), [[3, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(conditioned(rows, mask, "euclidean"), [[3, 2, 0], [0, 0, 0]])
    unit = conditioned(rows, mask, "cosine")
    np.testing.assert_allclose(unit, np.array([[3, 2, 0], [0, 0, 0]]) / math.sqrt(13), atol=1e-7)
    np.testing.assert_array_equal(similarities(unit, unit[1:], "cosine"), [[0], [0]])  # nothing to compare
    assert conditioned(rows, None, "cosine") is rows
    with pytest.raises(ValueError, match=r"mask \[D\]"):
        conditioned(rows, mask[:2], "dot")
