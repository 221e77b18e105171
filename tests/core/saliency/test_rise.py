"""RISE against its definition, pixel by pixel, on frames that are not square."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from scipy.stats import chi2

from transforms.core.records import Float32, Float64
from transforms.core.saliency import rise as module

rise = partial(module.rise, sampling="independent", estimator="average")
Rise = partial(module.Rise, estimator="average")


def axis_weights(side: int, cells: int, shift: int) -> list[list[float]]:
    """Bilinear weights [side][cells] of one axis, by definition, rounded to float32 as the design's are."""
    cell = math.ceil(side / cells)
    weights = []
    for pixel in range(shift, shift + side):
        position = (pixel + 0.5) * cells / ((cells + 1) * cell) - 0.5  # of the pixel's centre, in cell centres
        position = min(max(position, 0.0), cells - 1.0)
        row = [float(np.float32(max(0.0, 1 - abs(position - at)))) for at in range(cells)]
        weights.append(row)
    return weights


def slow_mask(design: module.Rise, at: int) -> Float64:
    """Mask ``at`` as the double sum over cells, float64 [H, W]."""
    (height, width), grid = design.size, design.grids[at]
    rows = axis_weights(height, grid.shape[0], int(design.shifts[at, 0]))
    columns = axis_weights(width, grid.shape[1], int(design.shifts[at, 1]))
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i, j in np.argwhere(grid):
                out[y, x] += rows[y][i] * columns[x][j]
    return out


def slow_estimate(masks: Any, scores: Float64) -> Float64:
    """The estimator's formula, one pixel at a time: maps [R, H, W]."""
    _, height, width = masks.shape
    maps = np.zeros((len(scores), height, width))
    for r, score in enumerate(scores):
        mean = math.fsum(score) / len(score)
        for y in range(height):
            for x in range(width):
                kept = [float(value) for value in masks[: len(score), y, x]]
                if total := math.fsum(kept):
                    above = math.fsum((f - mean) * m for f, m in zip(score, kept, strict=True))
                    maps[r, y, x] = above / total
    return maps


@st.composite
def designs(draw: st.DrawFn, largest: int = 20) -> module.Rise:
    cells = draw(st.integers(1, 6))
    size = (draw(st.integers(cells, largest)), draw(st.integers(cells, largest)))
    p = draw(st.sampled_from([0.1, 0.5, 0.9]))
    return rise(size, masks=draw(st.integers(1, 12)), cells=cells, p=p, seed=draw(st.integers(0, 99)))


def some_scores(design: module.Rise, references: int, n: int | None = None) -> Float64:
    rng = np.random.default_rng(design.n + 31 * references)
    return rng.normal(0.8, 0.1, (references, n or design.n))


def test_a_mask_by_hand() -> None:
    grids = np.array([[[1, 0], [0, 0]]], np.float32)
    design = Rise((4, 6), grids, np.array([[1, 2]]), "k")
    # cells of 2 x 3 pixels, upsampled to 6 x 9; rows 1 to 4 and columns 2 to 7 are cut out
    rows, columns = [1, 2 / 3, 1 / 3, 0], [17 / 18, 13 / 18, 9 / 18, 5 / 18, 1 / 18, 0]
    np.testing.assert_allclose(design.masks(0, 1)[0], np.outer(rows, columns), atol=1e-7)


def test_an_estimate_by_hand() -> None:
    grids = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 1]]], np.float32)
    design = Rise((2, 4), grids, np.array([[0, 0], [0, 1]]), "k")
    first = np.outer([1, 1 / 2], [1, 1, 2 / 3, 1 / 3])
    second = np.outer([1, 1], [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(design.masks(0, 2), [first, second], atol=1e-7)
    saliency = design.estimate(np.array([[3.0, 1.0]]), np.array([9.0]))  # 1 above and 1 below the mean
    expected = [[1, 1 / 2, 0, -1 / 2], [1, 1 / 5, -1 / 3, -5 / 7]]
    np.testing.assert_allclose(saliency[0], expected, atol=1e-7)


def test_one_cell_keeps_all_or_nothing() -> None:
    design = Rise((2, 3), np.array([1, 0, 1], np.float32).reshape(3, 1, 1), np.zeros((3, 2), np.int64), "k")
    np.testing.assert_array_equal(design.masks(0, 3)[:, 1, 2], [1, 0, 1])
    saliency = design.estimate(np.array([[0.2, 0.8, 0.5]]), np.array([1.0]))
    np.testing.assert_allclose(saliency[0], np.full((2, 3), -0.15), atol=1e-15)


@settings(deadline=None, max_examples=40)
@given(designs(largest=14))
def test_masks_are_the_bilinear_interpolation_of_their_grids(design: module.Rise) -> None:
    masks = design.masks(0, design.n)
    assert masks.dtype == np.float32
    assert masks.shape == (design.n, *design.size)
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks, [slow_mask(design, at) for at in range(design.n)], atol=3e-7, rtol=0)


@pytest.mark.parametrize(("size", "cells"), [((56, 80), 8), ((13, 22), 5), ((8, 31), 8), ((30, 7), 3)])
def test_masks_are_what_pillow_and_scipy_upsample(size: tuple[int, int], cells: int) -> None:
    design = rise(size, masks=6, cells=cells, seed=3)
    cell = [math.ceil(side / cells) for side in size]
    up = [(cells + 1) * side for side in cell]
    for grid, (top, left), mask in zip(design.grids, design.shifts, design.masks(0, 6), strict=True):
        box = np.s_[top : top + size[0], left : left + size[1]]
        pillow = PIL.Image.fromarray(grid).resize((up[1], up[0]), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_allclose(mask, np.asarray(pillow)[box], atol=1e-6)
        factors = (up[0] / cells, up[1] / cells)
        by_scipy = zoom(grid.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(mask, by_scipy[box], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(designs(largest=12), st.integers(1, 3), st.data())
def test_the_estimate_is_the_literal_sum_over_pixels(design: module.Rise, references: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, design.n), label="masks scored so far")
    scores = some_scores(design, references, n)
    maps = design.estimate(scores, np.ones(references))
    assert maps.dtype == np.float64
    exact = np.array([slow_mask(design, at) for at in range(n)])
    # where no more than a sliver of weight was kept, both sums are quotients of roundings
    sound = exact.sum(axis=0) > 1e-5
    np.testing.assert_allclose(maps[:, sound], slow_estimate(exact, scores)[:, sound], atol=1e-12)
    sound = exact.sum(axis=0) > 0.05
    literal = slow_estimate(design.masks(0, n), scores)
    np.testing.assert_allclose(maps[:, sound], literal[:, sound], atol=1e-5)


@pytest.mark.parametrize("size", [(112, 112), (80, 60)])
def test_the_estimate_of_a_real_design_is_the_sum_over_its_masks(size: tuple[int, int]) -> None:
    design = rise(size, masks=300, seed=1)
    for n in (300, 7):
        scores, masks = some_scores(design, 2, n), design.masks(0, n).astype(np.float64)
        above = scores - scores.mean(axis=1, keepdims=True)
        kept = masks.sum(axis=0)
        literal = np.einsum("rn,nyx->ryx", above, masks) / np.where(kept > 0, kept, 1)
        np.testing.assert_allclose(design.estimate(scores, np.zeros(2)), literal, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(designs(), st.data())
def test_slices_of_masks_are_the_whole(design: module.Rise, data: st.DataObject) -> None:
    cuts = sorted({0, design.n, *data.draw(st.lists(st.integers(0, design.n), max_size=4))})
    pieces = [design.masks(start, stop) for start, stop in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), design.masks(0, design.n))


@settings(deadline=None, max_examples=60)
@given(designs(), st.integers(1, 7), st.data())
def test_a_map_depends_on_its_own_scores_alone_to_the_bit(
    design: module.Rise, references: int, data: st.DataObject
) -> None:
    scores, base = some_scores(design, references), np.arange(references, dtype=np.float64)
    whole = design.estimate(scores, base)
    order = data.draw(st.permutations(range(references)))
    cut = data.draw(st.integers(0, references))
    parts = [design.estimate(scores[some], base[some]) for some in (order[:cut], order[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    np.testing.assert_array_equal(design.estimate(np.asfortranarray(scores), base), whole)


@settings(deadline=None, max_examples=40)
@given(designs(), st.floats(-3, 3), st.floats(-5, 5))
def test_maps_scale_with_the_scores_and_ignore_what_is_added(design: module.Rise, factor: float, added: float) -> None:
    scores, base = some_scores(design, 2), np.zeros(2)
    expected = factor * design.estimate(scores, base)
    np.testing.assert_allclose(design.estimate(factor * scores + added, base + 1), expected, atol=1e-11)


@pytest.mark.parametrize("score", [0.1, 0.7, 1 / 3, 0.9999999])
@pytest.mark.parametrize("n", [1, 3, 7, 50])
def test_equal_scores_give_a_map_of_exact_zeros(score: float, n: int) -> None:
    design = rise((9, 14), masks=50, cells=3)
    maps = design.estimate(np.full((2, n), score), np.array([score, 0.0]))
    np.testing.assert_array_equal(maps, np.zeros((2, 9, 14)))


def test_a_pixel_that_no_mask_keeps_is_zero() -> None:
    grids = np.array(
        [[[1, 0, 0]] * 3, [[0, 0, 0]] * 3, [[1, 0, 0]] * 3], np.float32
    )  # only the left third is ever kept
    design = Rise((6, 9), grids, np.zeros((3, 2), np.int64), "k")
    maps = design.estimate(np.array([[0.9, 0.1, 0.8]]), np.array([0.9]))
    assert np.isfinite(maps).all()
    never = design.masks(0, 3).sum(axis=0) == 0
    assert never[:, 6:].all()
    assert (maps[0][never] == 0).all()
    assert (maps[0][~never] > 0.2).all()
    nothing = design.estimate(np.array([[0.9, 0.1]])[:, ::-1], np.array([0.9]))[0][never]
    assert (nothing == 0).all()


def test_the_peak_lies_where_the_similarity_comes_from() -> None:
    design = rise((60, 44), masks=2000, seed=5)
    box = np.s_[12:20, 30:40]
    scores = 0.8 + 0.1 * design.masks(0, 2000)[:, *box].mean(axis=(1, 2))[None].astype(np.float64)
    saliency = design.estimate(scores, np.array([0.9]))[0]
    y, x = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 12 <= y < 20
    assert 30 <= x < 40
    assert saliency[box].mean() > 4 * np.abs(saliency[30:, :20]).mean()


def test_equal_keys_mean_equal_masks() -> None:
    given_: dict[str, Any] = {"size": (12, 17), "masks": 8, "cells": 4, "p": 0.5, "seed": 2, "bank": 1}
    first = rise(**given_)
    again = rise(**given_)
    assert again.key == first.key
    np.testing.assert_array_equal(again.masks(0, 8), first.masks(0, 8))
    for changed in ({"size": (17, 12)}, {"masks": 9}, {"cells": 3}, {"p": 0.6}, {"seed": 3}, {"bank": 0}, {"bank": 2}):
        other = rise(**{**given_, **changed})
        assert other.key != first.key
        masks, expected = other.masks(0, 8), first.masks(0, 8)
        assert masks.shape != expected.shape or not np.array_equal(masks, expected)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=6, unique=True))
def test_different_seeds_and_banks_differ(drawn: list[tuple[int, int]]) -> None:
    found = [rise((9, 16), masks=12, cells=4, seed=seed, bank=bank) for seed, bank in drawn]
    assert len({design.key for design in found}) == len(drawn)
    assert len({design.masks(0, 12).tobytes() for design in found}) == len(drawn)


def test_draws_have_the_distribution_that_is_promised() -> None:
    n, cells, p = 6000, 5, 0.3
    design = rise((23, 38), masks=n, cells=cells, p=p, seed=11)
    draws = design.grids.size
    assert set(np.unique(design.grids)) == {0.0, 1.0}
    assert abs(float(design.grids.mean()) - p) < 5 * math.sqrt(p * (1 - p) / draws)
    per_cell = design.grids.mean(axis=0)
    assert np.abs(per_cell - p).max() < 5 * math.sqrt(p * (1 - p) / n)
    # shifts: every pair of 0 to ceil(23 / 5) - 1 rows and 0 to ceil(38 / 5) - 1 columns, equally often
    counts = np.zeros((5, 8))
    np.add.at(counts, (design.shifts[:, 0], design.shifts[:, 1]), 1)
    expected = n / counts.size
    assert float((np.square(counts - expected) / expected).sum()) < chi2.ppf(1 - 1e-6, counts.size - 1)


def test_masks_keep_every_pixel_with_probability_p_on_average() -> None:
    n, p = 4000, 0.4
    masks = rise((30, 45), masks=n, cells=6, p=p, seed=4).masks(0, n)
    assert np.abs(masks.mean(axis=0, dtype=np.float64) - p).max() < 5 * math.sqrt(p * (1 - p) / n)
    # interpolation between cells averages draws, so the variance is that of a draw at most, and never none
    variance: Float32 = masks.var(axis=0)
    assert variance.max() < 1.2 * p * (1 - p)
    assert variance.min() > 0.2 * p * (1 - p)


@pytest.mark.parametrize(
    "wrong", [{"masks": 0}, {"cells": 0}, {"cells": 10}, {"p": 0.0}, {"p": 1.0}, {"p": float("nan")}, {"p": -0.5}]
)
def test_impossible_parameters_are_named(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"9 x 14.*{name}={value}"):
        rise((9, 14), **{"masks": 5, "cells": 3, **wrong})


@pytest.mark.parametrize(("scores", "base"), [((2, 6), 2), ((2, 0), 2), ((2, 5), 3), ((5,), 5)])
def test_scores_that_do_not_fit_are_refused(scores: tuple[int, ...], base: int) -> None:
    design = rise((9, 14), masks=5, cells=3)
    with pytest.raises(ValueError, match="0 < n' <= 5"):
        design.estimate(np.zeros(scores), np.zeros(base))


def test_no_references_give_no_maps() -> None:
    assert rise((9, 14), masks=5, cells=3).estimate(np.zeros((0, 5)), np.zeros(0)).shape == (0, 9, 14)
