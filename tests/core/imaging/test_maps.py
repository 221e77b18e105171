"""Area averages and map statistics, by hand and by brute force, on maps that are not square."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.imaging.maps import area_average, background_of, map_statistics
from transforms.core.records import Float64

SIDES = st.integers(1, 12)


def supersampled(saliency: Float64, size: tuple[int, int]) -> Float64:
    """The area average by brute force: repeat every pixel until the cells' edges fall between pixels."""
    height, width = (math.lcm(side, cells) for side, cells in zip(saliency.shape, size, strict=True))
    fine = np.repeat(np.repeat(saliency, height // saliency.shape[0], axis=0), width // saliency.shape[1], axis=1)
    return np.asarray(fine.reshape(size[0], height // size[0], size[1], width // size[1]).mean(axis=(1, 3)))


def nowhere(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.zeros(shape, np.bool_)


def test_an_average_by_hand() -> None:
    saliency = np.array([[0.0, 3.0, 6.0], [9.0, 12.0, 15.0]])
    # columns 3 -> 2: a cell is one pixel and half of the next
    np.testing.assert_allclose(area_average(saliency, (1, 2)), [[(4.5 + 7.5 / 2) / 1.5, (10.5 + 7.5 / 2) / 1.5]])
    np.testing.assert_allclose(area_average(saliency, (2, 1)), [[3], [12]])
    np.testing.assert_allclose(area_average(saliency, (1, 1)), [[7.5]])
    np.testing.assert_array_equal(area_average(saliency, (2, 3)), saliency)
    np.testing.assert_allclose(area_average(saliency, (4, 3)), np.repeat(saliency, 2, axis=0))


@settings(deadline=None, max_examples=100)
@given(SIDES, SIDES, SIDES, SIDES)
def test_averages_are_exact_where_sizes_do_not_divide(height: int, width: int, h: int, w: int) -> None:
    saliency = np.random.default_rng(height * 13 + width).normal(0.1, 1, (2, height, width))
    found = area_average(saliency, (h, w))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [supersampled(one, (h, w)) for one in saliency], atol=1e-12)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), saliency.mean(axis=(1, 2)), atol=1e-12)


def test_averages_of_a_model_size() -> None:
    saliency = np.random.default_rng(0).normal(size=(112, 80))
    np.testing.assert_allclose(area_average(saliency, (28, 28)), supersampled(saliency, (28, 28)), atol=1e-12)


def test_float32_is_averaged_in_float64() -> None:
    ones = np.full((3, 1000), 0.1, np.float32)
    np.testing.assert_allclose(area_average(ones, (1, 7)), float(np.float32(0.1)), rtol=1e-14)


def test_the_peak_is_the_first_highest_pixel() -> None:
    saliency = np.array([[0.0, 1.0, 5.0], [5.0, -9.0, 5.0]])
    found = map_statistics(saliency, nowhere((2, 3)))
    assert (found.peak_row, found.peak_column) == (0, 2)


def test_the_border_is_an_eighth_of_each_side() -> None:
    # 8 x 16: one row above and below, two columns left and right
    found = map_statistics(np.ones((8, 16)), nowhere((8, 16)))
    assert found.border_area == (128 - 6 * 12) / 128
    assert found.border_share == pytest.approx(found.border_area)
    saliency = np.zeros((8, 16))
    saliency[0, 5], saliency[4, 1], saliency[4, 2], saliency[6, 13] = 1, 2, 4, 8
    assert map_statistics(saliency, nowhere((8, 16))).border_share == pytest.approx(3 / 15)


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((4, 4), 4 * 4),  # the centre of the first of four pixels lies at an eighth, not within it
        ((5, 7), 3 * 5),
        ((12, 20), 10 * 16),
        ((13, 28), 9 * 22),
        ((1, 16), 1 * 12),
        ((112, 80), 84 * 60),
    ],
)
def test_a_pixel_is_border_where_its_centre_is(size: tuple[int, int], inner: int) -> None:
    expected = 1 - inner / (size[0] * size[1])
    assert map_statistics(np.ones(size), nowhere(size)).border_area == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(0, 99))
def test_shares_by_counting(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    saliency, background = rng.normal(size=(height, width)), rng.random((height, width)) < 0.4
    found = map_statistics(saliency, background)
    total = border = behind = area = 0.0
    for y in range(height):
        for x in range(width):
            evidence = max(float(saliency[y, x]), 0.0)
            distance = (min(y, height - 1 - y) + 0.5) / height, (min(x, width - 1 - x) + 0.5) / width
            total += evidence
            area += min(distance) < 1 / 8
            border += evidence * (min(distance) < 1 / 8)
            behind += evidence * bool(background[y, x])
    assert found.border_area == pytest.approx(area / saliency.size)
    assert found.background_area == pytest.approx(background.mean())
    assert found.border_share == pytest.approx(border / total if total else 0)
    assert found.background_share == pytest.approx(behind / total if total else 0)
    assert saliency[found.peak_row, found.peak_column] == saliency.max()
    assert -1e-12 <= found.entropy <= 1 + 1e-12


def test_background_share_counts_evidence_only() -> None:
    saliency = np.array([[3.0, -7.0, 1.0], [0.0, 4.0, -2.0]])
    background = np.array([[True, True, False], [False, False, True]])
    found = map_statistics(saliency, background)
    assert found.background_share == pytest.approx(3 / 8)
    assert found.background_area == pytest.approx(3 / 6)


def test_entropy_is_zero_for_one_pixel_and_one_for_all() -> None:
    one = np.full((3, 5), -1.0)
    one[1, 3] = 0.2
    assert map_statistics(one, nowhere((3, 5))).entropy == pytest.approx(0, abs=1e-15)
    assert map_statistics(np.full((3, 5), 0.2), nowhere((3, 5))).entropy == pytest.approx(1)
    half = np.zeros((2, 8))
    half[0, :4] = 7
    assert map_statistics(half, nowhere((2, 8))).entropy == pytest.approx(math.log(4) / math.log(16))
    assert map_statistics(np.ones((1, 1)), nowhere((1, 1))).entropy == 0


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_map_without_evidence_has_no_shares(value: float) -> None:
    found = map_statistics(np.full((4, 9), value), np.ones((4, 9), np.bool_))
    assert (found.border_share, found.background_share, found.entropy) == (0, 0, 0)
    assert (found.peak_row, found.peak_column) == (0, 0)
    assert found.background_area == 1


def test_background_is_what_no_channel_tells_from_the_border() -> None:
    image = np.full((5, 7, 3), 240, np.uint8)
    image[2, 2] = (240, 216, 240)  # 24 away: still background
    image[2, 3] = (240, 240, 215)  # 25 away in one channel
    image[2, 4] = 255
    image[0, 6] = 0  # one pixel of the border moves no median
    expected = np.ones((5, 7), np.bool_)
    expected[2, 3] = expected[0, 6] = False
    np.testing.assert_array_equal(background_of(image), expected)
