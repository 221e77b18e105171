"""The closed form over positions: it adds up, it is the papers' double sum, and a row sees no other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.records import Float32, Float64
from transforms.core.saliency.decomposition import Decomposed, decompose
from transforms.core.similarity import SimilarityFunction, similarities

SHAPES = [(3, 4, (12, 16)), (2, 3, (7, 10)), (1, 1, (5, 4)), (1, 5, (1, 9)), (4, 6, (4, 6)), (5, 7, (3, 2))]


def some(h: int, w: int, references: int = 4, dimension: int = 6, seed: int = 0) -> tuple[Float32, Float32, Float32]:
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0, 1, (dimension, h, w)), rng.normal(0, 2, dimension), rng.normal(0, 3, (references, dimension))
    local, bias, rows = (value.astype(np.float32) for value in drawn)
    return local, bias, rows


def embedding_of(local: Float32, bias: Float32) -> Float64:
    return np.asarray(local.astype(np.float64).sum(axis=(1, 2)) + bias)


def upsampled(cells: Float64, size: tuple[int, int]) -> Float64:
    """Bilinear with half-pixel centres, edges repeated, each cell's total weight taken out: pixel by pixel."""
    (h, w), (height, width) = cells.shape, size
    weights = np.zeros((height, width, h, w))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0.0), h - 1.0)
            x = min(max((j + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            top, left = int(y), int(x)
            for row, part in ((top, 1 - y + top), (min(top + 1, h - 1), y - top)):
                for column, share in ((left, 1 - x + left), (min(left + 1, w - 1), x - left)):
                    weights[i, j, row, column] += part * share
    return np.asarray(np.einsum("ijyx,yx->ij", weights / weights.sum(axis=(0, 1)), cells))


@pytest.mark.parametrize("function", ["cosine", "dot"])
@pytest.mark.parametrize(("h", "w", "size"), SHAPES)
def test_map_and_bias_add_up_to_the_similarity(
    h: int, w: int, size: tuple[int, int], function: SimilarityFunction
) -> None:
    local, bias, rows = some(h, w)
    found = decompose(local, bias, rows, function, size)
    assert found.maps.shape == (4, *size)
    assert found.maps.dtype == found.bias.dtype == np.float64
    query = embedding_of(local, bias)
    expected = rows.astype(np.float64) @ query
    constant = rows.astype(np.float64) @ bias
    if function == "cosine":
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1) * np.linalg.norm(query)
        expected, constant = expected / lengths, constant / lengths
    np.testing.assert_allclose(found.bias, constant, rtol=1e-12)
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2)) + found.bias, expected, rtol=1e-10, atol=1e-12)
    by_the_table = similarities(rows, query.astype(np.float32)[None], function)[:, 0]
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2)) + found.bias, by_the_table, rtol=1e-4)


def test_by_hand() -> None:
    """Two positions side by side, (3, 0) and (0, 3), bias (0, 1): the embedding is (3, 4), of length 5."""
    local = np.array([[[3, 0]], [[0, 3]]], np.float32)
    references = np.array([[10, 0], [0, 2], [3, 4]], np.float32)
    found = decompose(local, np.array([0, 1], np.float32), references, "cosine", (1, 2))
    np.testing.assert_allclose(found.maps[:, 0], [[0.6, 0], [0, 0.6], [9 / 25, 12 / 25]], atol=1e-15)
    np.testing.assert_allclose(found.bias, [0, 0.2, 4 / 25], atol=1e-15)
    wide = decompose(local, np.array([0, 1], np.float32), references[:1], "dot", (2, 4))
    np.testing.assert_allclose(wide.maps[0], np.tile([[7.5, 5.625, 1.875, 0]], (2, 1)), atol=1e-12)


@pytest.mark.parametrize(("h", "w", "size"), SHAPES[:5])
def test_the_upsampling_is_bilinear(h: int, w: int, size: tuple[int, int]) -> None:
    local, bias, rows = some(h, w, references=1)
    cells = np.einsum("d,dyx->yx", rows[0].astype(np.float64), local.astype(np.float64))
    found = decompose(local, bias, rows, "dot", size).maps[0]
    np.testing.assert_allclose(found, upsampled(cells, size), rtol=1e-10, atol=1e-12)


def test_equal_positions_give_a_flat_map_where_cells_divide_the_frame() -> None:
    local = np.ones((2, 3, 4), np.float32)
    found = decompose(local, np.zeros(2, np.float32), np.ones((1, 2), np.float32), "cosine", (12, 20))
    np.testing.assert_allclose(found.maps, 1 / 240, rtol=1e-12)
    ripple = decompose(local, np.zeros(2, np.float32), np.ones((1, 2), np.float32), "cosine", (10, 13)).maps * 130
    assert np.abs(ripple - 1).max() < 0.05
    assert ripple.sum() == pytest.approx(130, rel=1e-12)


def test_it_is_the_papers_double_sum() -> None:
    """The sum over pairs of positions, with the three bias terms, as the papers write it; the lengths left out."""
    (query, bias, _), (other, _, _) = some(2, 3), some(3, 2, seed=1)
    reference = embedding_of(other, bias).astype(np.float32)[None]
    pairs = np.einsum("dyx,dij->yxij", query.astype(np.float64), other.astype(np.float64))
    with_bias = np.einsum("dyx,d->yx", query.astype(np.float64), bias.astype(np.float64))
    of_bias = np.einsum("dij,d->ij", other.astype(np.float64), bias.astype(np.float64))
    found = decompose(query, bias, reference, "dot", (2, 3))
    np.testing.assert_allclose(found.maps[0], pairs.sum(axis=(2, 3)) + with_bias, rtol=1e-5, atol=1e-5)
    constant = float((bias.astype(np.float64) ** 2).sum())
    np.testing.assert_allclose(found.bias[0], of_bias.sum() + constant, rtol=1e-5, atol=1e-5)
    swapped = decompose(other, bias, embedding_of(query, bias).astype(np.float32)[None], "dot", (3, 2))
    total = pairs.sum() + with_bias.sum() + of_bias.sum() + constant
    for either in (found, swapped):
        assert either.maps.sum() + either.bias[0] == pytest.approx(total, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("function", ["cosine", "dot"])
def test_rows_do_not_depend_on_their_group(function: SimilarityFunction) -> None:
    local, bias, rows = some(3, 4, references=1000, dimension=9)
    together = decompose(local, bias, rows, function, (10, 13))
    order = np.random.default_rng(4).permutation(1000)
    permuted = decompose(local, bias, rows[order], function, (10, 13))
    strided = decompose(local, bias, np.asfortranarray(rows), function, (10, 13))
    np.testing.assert_array_equal(permuted.maps, together.maps[order])
    np.testing.assert_array_equal(permuted.bias, together.bias[order])
    np.testing.assert_array_equal(strided.maps, together.maps)
    for index in (0, 1, 17, 999):
        alone = decompose(local, bias, rows[index : index + 1], function, (10, 13))
        np.testing.assert_array_equal(alone.maps[0], together.maps[index])
        assert alone.bias[0] == together.bias[index]


def total(found: Decomposed) -> Float64:
    return np.asarray(found.maps.sum(axis=(1, 2)) + found.bias)


def test_a_query_equal_to_its_reference_has_cosine_1() -> None:
    local, bias, _ = some(3, 4)
    found = decompose(local, bias, embedding_of(local, bias).astype(np.float32)[None], "cosine", (12, 16))
    np.testing.assert_allclose(total(found), 1, rtol=1e-6)


def test_embeddings_of_length_zero_give_zero_maps() -> None:
    local, bias, rows = some(2, 3)
    rows[1] = 0
    found = decompose(local, bias, rows, "cosine", (4, 6))
    assert not found.maps[1].any()
    assert found.bias[1] == 0
    assert np.isfinite(found.maps).all()
    assert found.maps[[0, 2, 3]].any(axis=(1, 2)).all()
    opposite = np.stack([local[:, 0], -local[:, 0]], axis=1)  # the positions cancel out
    for function in ("cosine", "dot"):
        found = decompose(opposite, np.zeros_like(bias), rows, function, (4, 6))
        np.testing.assert_allclose(total(found), 0, atol=1e-12)
        assert (np.abs(found.maps[0]).max() == 0) == (function == "cosine")


def test_no_reference_gives_no_map() -> None:
    local, bias, rows = some(2, 3)
    assert decompose(local, bias, rows[:0], "cosine", (4, 6)).maps.shape == (0, 4, 6)


def test_euclidean_is_refused() -> None:
    with pytest.raises(ValueError, match="a distance is no sum over positions"):
        decompose(*some(2, 3), "euclidean", (4, 6))


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_shapes_that_do_not_fit_are_refused(wrong: int) -> None:
    given_arrays = list(some(2, 3))
    given_arrays[wrong] = given_arrays[wrong][..., None]
    with pytest.raises(ValueError, match=r"expected local \[D, h, w\]"):
        decompose(given_arrays[0], given_arrays[1], given_arrays[2], "cosine", (4, 6))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers()
)
def test_sums_are_kept_at_every_size(cells: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    local, bias, rows = some(*cells, seed=abs(seed))
    found = decompose(local, bias, rows, "dot", size)
    expected = rows.astype(np.float64) @ embedding_of(local, bias)
    np.testing.assert_allclose(total(found), expected, rtol=1e-9, atol=1e-9)
    scaled = decompose(local, bias, rows * np.float32(4), "cosine", size)  # a power of two: exact
    np.testing.assert_allclose(scaled.maps, decompose(local, bias, rows, "cosine", size).maps, rtol=1e-12, atol=1e-15)
