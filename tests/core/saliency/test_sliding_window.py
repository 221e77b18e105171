"""Sliding window against loops over windows and pixels, on frames that are not square."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.records import Float64
from transforms.core.saliency.sliding_window import SlidingWindow, sliding_window


def slow_corners(size: tuple[int, int], window: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of every window, row by row."""
    found = []
    height, width = min(window, size[0]), min(window, size[1])
    for top in range(size[0]):
        for left in range(size[1]):
            fits = top + height <= size[0] and left + width <= size[1]
            on_row = top % stride == 0 or top + height == size[0]
            on_column = left % stride == 0 or left + width == size[1]
            if fits and on_row and on_column:
                found.append((top, left, height, width))
    return found


def slow_estimate(
    size: tuple[int, int], windows: list[tuple[int, int, int, int]], scores: Float64, base: Float64
) -> Float64:
    maps = np.zeros((len(scores), *size))
    for r, score in enumerate(scores):
        for y in range(size[0]):
            for x in range(size[1]):
                drops = [
                    float(base[r] - score[n])
                    for n, (top, left, height, width) in enumerate(windows[: len(score)])
                    if top <= y < top + height and left <= x < left + width
                ]
                if drops:
                    maps[r, y, x] = math.fsum(drops) / len(drops)
    return maps


SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))
PARAMETERS = st.tuples(SIZES, st.integers(1, 15), st.integers(1, 16))


def test_windows_and_map_by_hand() -> None:
    design = sliding_window((3, 5), window=2, stride=2)
    assert [tuple(corner) for corner in design.corners] == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    hidden = 1 - design.masks(0, 6)
    np.testing.assert_array_equal(hidden[1], [[0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(hidden[5], [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
    scores = 1 - np.array([[6.0, 12.0, 24.0, 60.0, 120.0, 240.0]])
    saliency = design.estimate(scores, np.array([1.0]))[0]
    expected = [
        [6, 6, 12, (12 + 24) / 2, 24],
        [(6 + 60) / 2, (6 + 60) / 2, (12 + 120) / 2, (12 + 24 + 120 + 240) / 4, (24 + 240) / 2],
        [60, 60, 120, (120 + 240) / 2, 240],
    ]
    np.testing.assert_allclose(saliency, expected, atol=1e-12)


@settings(deadline=None, max_examples=80)
@given(PARAMETERS)
def test_windows_lie_where_the_definition_says(parameters: tuple[tuple[int, int], int, int]) -> None:
    size, window, stride = parameters
    design = sliding_window(size, window=window, stride=stride)
    windows = slow_corners(size, window, stride)
    assert [(int(top), int(left), *design.window) for top, left in design.corners] == windows
    assert design.n == len(windows)
    masks = design.masks(0, design.n)
    assert masks.dtype == np.float32
    for mask, (top, left, height, width) in zip(masks, windows, strict=True):
        for y in range(size[0]):
            for x in range(size[1]):
                inside = top <= y < top + height and left <= x < left + width
                assert mask[y, x] == (0 if inside else 1)
    if stride <= window:
        assert (masks.min(axis=0) == 0).all()  # every pixel is hidden by some window


@settings(deadline=None, max_examples=80)
@given(PARAMETERS, st.integers(1, 3), st.data())
def test_the_estimate_is_the_literal_mean_of_drops(
    parameters: tuple[tuple[int, int], int, int], references: int, data: st.DataObject
) -> None:
    size, window, stride = parameters
    design = sliding_window(size, window=window, stride=stride)
    n = data.draw(st.integers(1, design.n), label="windows scored so far")
    rng = np.random.default_rng(n)
    scores, base = rng.normal(0.8, 0.1, (references, n)), rng.normal(0.9, 0.1, references)
    maps = design.estimate(scores, base)
    assert maps.dtype == np.float64
    np.testing.assert_allclose(maps, slow_estimate(size, slow_corners(size, window, stride), scores, base), atol=1e-12)


def test_the_papers_setting_is_the_mean_over_its_masks() -> None:
    design = sliding_window((112, 80), window=32, stride=4)
    assert design.n == 21 * 13
    rng = np.random.default_rng(0)
    scores, base = rng.normal(0.8, 0.1, (2, design.n)), np.array([0.9, 0.7])
    hidden = 1 - design.masks(0, design.n).astype(np.float64)
    literal = np.einsum("rn,nyx->ryx", base[:, None] - scores, hidden) / hidden.sum(axis=0)
    np.testing.assert_allclose(design.estimate(scores, base), literal, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(PARAMETERS, st.integers(1, 6), st.data())
def test_a_map_depends_on_its_own_scores_alone_to_the_bit(
    parameters: tuple[tuple[int, int], int, int], references: int, data: st.DataObject
) -> None:
    design = sliding_window(parameters[0], window=parameters[1], stride=parameters[2])
    rng = np.random.default_rng(references)
    scores, base = rng.normal(0.8, 0.1, (references, design.n)), rng.normal(0.9, 0.1, references)
    whole = design.estimate(scores, base)
    order = data.draw(st.permutations(range(references)))
    cut = data.draw(st.integers(0, references))
    parts = [design.estimate(scores[some], base[some]) for some in (order[:cut], order[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@settings(deadline=None, max_examples=40)
@given(PARAMETERS, st.data())
def test_slices_of_masks_are_the_whole(parameters: tuple[tuple[int, int], int, int], data: st.DataObject) -> None:
    design = sliding_window(parameters[0], window=parameters[1], stride=parameters[2])
    start = data.draw(st.integers(0, design.n))
    stop = data.draw(st.integers(start, design.n))
    np.testing.assert_array_equal(design.masks(start, stop), design.masks(0, design.n)[start:stop])


def test_windows_of_one_pixel_give_back_the_drops() -> None:
    design = sliding_window((2, 3), window=1, stride=1)
    drops = np.array([[0.1, -0.2, 0.3], [0.0, 0.5, -0.6]])
    maps = design.estimate(1 - drops.reshape(1, -1), np.array([1.0]))
    np.testing.assert_allclose(maps[0], drops, atol=1e-15)


def test_a_frame_one_pixel_high() -> None:
    design = sliding_window((1, 5), window=3, stride=2)
    assert design.window == (1, 3)
    maps = design.estimate(np.array([[0.0, 0.6]]), np.array([1.0]))
    np.testing.assert_allclose(maps[0], [[1, 1, 0.7, 0.4, 0.4]], atol=1e-15)


def test_a_window_larger_than_the_frame_hides_all_of_it() -> None:
    design = sliding_window((4, 7), window=32, stride=4)
    assert design.n == 1
    np.testing.assert_array_equal(design.masks(0, 1), np.zeros((1, 4, 7)))
    np.testing.assert_allclose(design.estimate(np.array([[0.25]]), np.array([0.75]))[0], np.full((4, 7), 0.5))


def test_a_window_as_wide_as_the_frame_slides_down_only() -> None:
    design = sliding_window((9, 4), window=5, stride=3)
    assert [tuple(corner) for corner in design.corners] == [(0, 0), (3, 0), (4, 0)]


def test_pixels_between_distant_windows_are_zero() -> None:
    design = sliding_window((2, 9), window=2, stride=5)
    maps = design.estimate(np.array([[0.1, 0.2, 0.3]]), np.array([0.5]))
    np.testing.assert_allclose(maps[0, 1], [0.4, 0.4, 0, 0, 0, 0.3, 0.3, 0.2, 0.2], atol=1e-15)
    assert (maps[0, :, 2:5] == 0).all()


def test_scores_equal_to_the_base_give_a_map_of_exact_zeros() -> None:
    design = sliding_window((9, 14), window=4, stride=3)
    np.testing.assert_array_equal(design.estimate(np.full((1, design.n), 0.3), np.array([0.3])), np.zeros((1, 9, 14)))


def test_equal_keys_mean_equal_masks() -> None:
    first = sliding_window((9, 14), window=4, stride=3)
    assert sliding_window((9, 14), window=4, stride=3).key == first.key
    others = [sliding_window((14, 9), window=4, stride=3), sliding_window((9, 14), window=5, stride=3)]
    others.append(sliding_window((9, 14), window=4, stride=2))
    assert len({first.key, *(other.key for other in others)}) == 4
    # a window that is cut to the frame is the frame, however long it was asked to be
    wide, wider = sliding_window((9, 14), window=20), sliding_window((9, 14), window=30)
    assert wide.key == wider.key
    np.testing.assert_array_equal(wide.masks(0, 1), wider.masks(0, 1))


@pytest.mark.parametrize(("window", "stride"), [(0, 4), (32, 0), (-1, 4)])
def test_impossible_parameters_are_named(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"window >= 1 and stride >= 1, got {window} and {stride}"):
        sliding_window((9, 14), window=window, stride=stride)


def test_scores_that_do_not_fit_are_refused() -> None:
    design: SlidingWindow = sliding_window((9, 14), window=4, stride=3)
    with pytest.raises(ValueError, match=f"n' <= {design.n}"):
        design.estimate(np.zeros((1, design.n + 1)), np.zeros(1))
    with pytest.raises(ValueError, match="base"):
        design.estimate(np.zeros((2, design.n)), np.zeros(1))
