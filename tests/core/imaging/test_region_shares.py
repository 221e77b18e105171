"""Shares of a map by region: by hand, and what must hold of any map and any regions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from transforms.core.imaging.maps import background_of, map_statistics
from transforms.core.imaging.region_shares import NO_REGION, RegionShare, background_labels, shares
from transforms.core.records import Float64

NAMES = ("ground", "body", "sleeve")


@st.composite
def labelled_maps(draw: st.DrawFn) -> tuple[Float64, NDArray[np.integer]]:
    """A map with ties, or with values up to the largest float, and labels of it."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 7)))
    values = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0]) | st.floats(allow_nan=False, allow_infinity=False)
    labels = draw(arrays(draw(st.sampled_from([np.int8, np.int64])), shape, elements=st.integers(-1, len(NAMES) - 1)))
    return draw(arrays(np.float64, shape, elements=values)), labels


def test_by_hand() -> None:
    """2 x 4; the positive part is 8, of which the body has 1 + 4 and no region has 3."""
    saliency = np.array([[-5.0, 1, 0, 3], [0, 4, -1, 0]])
    labels = np.array([[0, 1, 1, -1], [0, 1, 0, -1]])
    assert shares(saliency, labels, NAMES) == (
        RegionShare("ground", 0.0, 3 / 8, False),
        RegionShare("body", 5 / 8, 3 / 8, True),
        RegionShare(NO_REGION, 3 / 8, 2 / 8, False),
    )


def test_a_map_without_a_positive_part_has_no_shares_and_yet_a_peak() -> None:
    """Of equal highest pixels it is the first, row by row: the one at (0, 2)."""
    saliency = np.array([[-2.0, -1, -0.5], [-0.5, -3, -0.5]])
    labels = np.array([[0, 0, 2], [1, 1, 1]])
    assert shares(saliency, labels, NAMES) == (
        RegionShare("ground", 0.0, 2 / 6, False),
        RegionShare("body", 0.0, 3 / 6, False),
        RegionShare("sleeve", 0.0, 1 / 6, True),
    )
    assert [one.peak for one in shares(np.zeros((2, 3)), labels, NAMES)] == [True, False, False]


def test_without_regions_all_is_elsewhere() -> None:
    assert shares(np.array([[1.0, 2.0]]), np.array([[-1, -1]]), ()) == (RegionShare(NO_REGION, 1.0, 1.0, True),)


def test_labels_of_few_bits_name_as_many_regions_as_they_can() -> None:
    """uint8 has no room for the 256 that stands for no region."""
    names = [str(at) for at in range(256)]
    found = shares(np.array([[1.0, 3.0]]), np.array([[0, 255]], np.uint8), names)
    assert found == (RegionShare("0", 0.25, 0.5, False), RegionShare("255", 0.75, 0.5, True))


def test_the_largest_values_do_not_overflow() -> None:
    largest = np.finfo(np.float64).max
    found = shares(np.full((1, 4), largest), np.array([[0, 0, 0, 1]]), NAMES)
    assert [one.share for one in found] == [0.75, 0.25]


@settings(max_examples=200, deadline=None)
@given(case=labelled_maps())
def test_shares_are_those_of_the_definition(case: tuple[Float64, NDArray[np.integer]]) -> None:
    saliency, labels = case
    found = shares(saliency, labels, NAMES)
    pixels = list(np.ndindex(*saliency.shape))  # row by row
    largest = max(1.0, float(np.abs(saliency).max()))
    evidence = {at: max(float(saliency[at]) / largest, 0.0) for at in pixels}
    total = math.fsum(evidence.values())
    first = max(pixels, key=lambda at: float(saliency[at]))  # max keeps the first of equal ones
    wanted = [(at, name) for at, name in enumerate(NAMES) if (labels == at).any()]
    wanted += [(-1, NO_REGION)] if (labels == -1).any() else []
    assert [one.name for one in found] == [name for _, name in wanted]
    for one, (label, _) in zip(found, wanted, strict=True):
        inside = [at for at in pixels if labels[at] == label]
        if total > 1e-300:  # below that the definition loses digits, not the shares
            assert one.share == pytest.approx(math.fsum(evidence[at] for at in inside) / total, abs=1e-12)
        assert one.area == len(inside) / len(pixels)
        assert one.peak == (first in inside)


@settings(max_examples=200, deadline=None)
@given(case=labelled_maps())
def test_shares_and_areas_sum_to_one_and_one_region_has_the_peak(case: tuple[Float64, NDArray[np.integer]]) -> None:
    saliency, labels = case
    found = shares(saliency, labels, NAMES)
    assert all(0 <= one.share <= 1 and 0 < one.area <= 1 for one in found)
    assert sum(one.area for one in found) == pytest.approx(1)
    assert sum(one.share for one in found) == pytest.approx(1 if (saliency > 0).any() else 0)
    assert sum(one.peak for one in found) == 1


@pytest.mark.parametrize(
    ("saliency", "labels", "told"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), int), r"\(2, 3\) and int64 \(3, 2\)"),
        (np.zeros(3), np.zeros(3, int), r"a map \[H, W\]"),
        (np.zeros((0, 3)), np.zeros((0, 3), int), r"a map \[H, W\]"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "whole numbers .* float64"),
        (np.zeros((1, 2)), np.array([[0, -2]]), "from -1 to 2; got -2 to 0"),
        (np.zeros((1, 2)), np.array([[0, 3]]), "from -1 to 2; got 0 to 3"),
        (np.array([[0.0, np.nan]]), np.array([[0, 1]]), "is finite; 1 pixels are not"),
        (np.array([[0.0, np.inf]]), np.array([[0, 1]]), "is finite"),
    ],
)
def test_wrong_arrays_are_refused(saliency: Float64, labels: NDArray[np.integer], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        shares(saliency, labels, NAMES)


# Where nothing is given


def test_background_and_foreground_by_hand() -> None:
    """A grey wall, 4 x 5, with a dark square whose channels are further than 24 from it."""
    image = np.full((4, 5, 3), 200, np.uint8)
    image[1:3, 2:4] = (200, 200, 175)
    image[0, 0] = (200, 176, 200)  # 24 away: still the wall
    labels, names = background_labels(background_of(image))
    assert names == ("background", "foreground")
    assert labels.tolist() == [[0] * 5, [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0] * 5]
    saliency = np.zeros((4, 5))
    saliency[1, 2], saliency[3, 4] = 3, 1
    assert shares(saliency, labels, names) == (
        RegionShare("background", 0.25, 16 / 20, False),
        RegionShare("foreground", 0.75, 4 / 20, True),
    )


@settings(max_examples=60, deadline=None)
@given(background=arrays(np.bool_, (3, 4)), saliency=arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)))
def test_the_background_s_share_is_that_of_the_statistics(background: NDArray[np.bool_], saliency: Float64) -> None:
    found = {one.name: one for one in shares(saliency, *background_labels(background))}
    expected = map_statistics(saliency, background)
    assert ("background" in found) == bool(background.any())
    if background.any():
        assert found["background"].share == pytest.approx(expected.background_share)
        assert found["background"].area == pytest.approx(expected.background_area)
