"""The judges of saliency maps against their definitions, other implementations, and cases worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tests.support.models.bundles import small_bundle
from transforms.core.imaging.fill import make_fill
from transforms.core.metrics.curves import Curve, PixelSteps, curve, deletion, insertion, map_agreement
from transforms.core.records import Float32, Float64
from transforms.serving import bundle as bundles
from transforms.serving.similarity_model import SimilarityModel

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 9))
# few distinct values, so that ties are the rule
TIED = arrays(np.float64, SHAPES, elements=st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0]))
MAPS = TIED | arrays(np.float64, SHAPES, elements=st.floats(-1e6, 1e6, width=32))
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(*[arrays(np.float64, shape, elements=st.integers(-4, 4).map(float)) for _ in range(2)])
)


def slow_masks(saliency: Float64, inserts: bool, steps: int) -> Float32:
    """One pixel after the other, by definition: [steps + 1, H, W]."""
    pixels = sorted(np.ndindex(*saliency.shape), key=lambda at: -saliency[at])  # sorted is stable
    masks = np.full((steps + 1, *saliency.shape), 0 if inserts else 1, np.float32)
    for k, mask in enumerate(masks):
        for at in pixels[: int(k * saliency.size / steps + 0.5)]:
            mask[at] = 1 if inserts else 0
    return masks


def test_insertion_and_deletion_by_hand() -> None:
    saliency = np.array([[0.1, 0.9, 0.5], [0.5, -1.0, 0.2]])  # of the two 0.5 the first goes first
    shown = np.array([[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(insertion(saliency, 3).masks(0, 4).reshape(4, 6), shown)
    np.testing.assert_array_equal(deletion(saliency, 3).masks(0, 4).reshape(4, 6), 1 - shown)


@settings(max_examples=60, deadline=None)
@given(saliency=MAPS, steps=st.sampled_from([1, 2, 4, 10, 100]))
def test_masks_are_those_of_the_definition(saliency: Float64, steps: int) -> None:
    for make, inserts in ((insertion, True), (deletion, False)):
        design = make(saliency, steps)
        masks = design.masks(0, design.n)
        assert masks.dtype == np.float32
        assert (design.n, design.size, design.key) == (steps + 1, saliency.shape, None)
        np.testing.assert_array_equal(masks, slow_masks(saliency, inserts, steps))


@pytest.mark.parametrize("make", [insertion, deletion])
def test_masks_come_alike_in_any_blocks(make: Any) -> None:
    design = make(np.random.default_rng(0).random((9, 13)))
    assert design.n == 101
    whole = design.masks(0, 101)
    np.testing.assert_array_equal(np.concatenate([design.masks(at, at + 16) for at in range(0, 101, 16)]), whole)
    assert design.masks(96, 112).shape == (5, 9, 13)
    # equal steps: of 117 pixels 1 or 2 change from each mask to the next
    assert set(np.abs(np.diff(whole.sum(axis=(1, 2))))) == {1.0, 2.0}


def test_deletion_is_not_insertion_of_the_inverse_map() -> None:
    saliency = np.array([[1.0, 1.0, 0.0, 2.0]])
    backwards = insertion(-saliency, 4).masks(0, 5)[::-1]
    assert (deletion(saliency, 4).masks(0, 5) != backwards).any()  # of the two 1 each takes the first


def test_one_pixel() -> None:
    design = insertion(np.array([[0.3]]))
    np.testing.assert_array_equal(design.masks(0, 101).ravel(), [0] * 50 + [1] * 51)


def test_a_constant_map_goes_row_by_row() -> None:
    masks = insertion(np.zeros((2, 5)), 10).masks(0, 11).reshape(11, 10)
    np.testing.assert_array_equal(masks, np.tri(11, 10, -1))


@pytest.mark.parametrize("broken", [np.zeros(4), np.zeros((0, 3)), np.array([[np.nan, 1.0]]), np.array([[np.inf]])])
def test_what_is_no_map_is_refused(broken: Float64) -> None:
    with pytest.raises(ValueError, match=r"expected a map|is finite"):
        insertion(broken)
    with pytest.raises(ValueError, match="at least one step"):
        deletion(np.zeros((2, 2)), 0)


def test_the_runtime_takes_the_masks(tmp_path: Path) -> None:
    """Insertion ends, and deletion begins, with the whole image; the other ends are the fill."""
    small_bundle(tmp_path, attributes=False)
    model = SimilarityModel(bundles.read(str(tmp_path)), tmp_path, "cpu", threads=1, batch=16)
    rng = np.random.default_rng(0)
    image, white = rng.integers(0, 256, (*model.size, 3), dtype=np.uint8), make_fill("#ffffff", np.zeros(1), (0, 0, 0))  # type: ignore[arg-type]
    saliency = rng.random(model.size)
    whole, filled = model.embed(np.stack([image, np.full_like(image, 255)]))
    for design in (insertion(saliency), deletion(saliency)):
        embedded = model.perturbed(image, model.bank(design, hold=False), white)
        ends = (filled, whole) if design.inserts else (whole, filled)
        np.testing.assert_allclose(embedded[[0, -1]], ends, atol=1e-5)
        k = 30
        by_hand = np.where(design.masks(k, k + 1)[0, ..., None] == 1, image, 255).astype(np.uint8)
        np.testing.assert_allclose(embedded[k], model.embed(by_hand[None])[0], atol=1e-5)
        assert not np.allclose(embedded[k], whole, atol=1e-3)


def test_a_curve_by_hand() -> None:
    found = curve(np.array([0.2, 0.4, 0.8, 0.6]))
    np.testing.assert_allclose(found.normalised, [0, 1 / 3, 1, 2 / 3])
    assert found.area == pytest.approx((1 / 6 + 2 / 3 + 5 / 6) / 3)
    assert found.raw_area == pytest.approx((0.3 + 0.6 + 0.7) / 3)


def test_a_straight_curve_has_half_and_a_step_what_it_leaves() -> None:
    assert curve(np.linspace(-1, 0.3, 101)).area == pytest.approx(0.5)
    assert curve(np.array([0.0] * 50 + [1.0] * 51)).area == pytest.approx(0.505)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e-300])
def test_a_constant_curve_favours_no_map(value: float) -> None:
    found = curve(np.full(101, value))
    assert found.area == 0.5
    assert (found.normalised == 0.5).all()
    assert found.raw_area == pytest.approx(value)


@settings(max_examples=60, deadline=None)
@given(scores=arrays(np.float64, st.integers(2, 120), elements=st.floats(-1, 1, width=32)), low=st.floats(-2, 2))
def test_areas_are_those_of_numpy_and_of_any_scale(scores: Float64, low: float) -> None:
    found: Curve = curve(scores)
    at = np.linspace(0, 1, len(scores))
    assert found.raw_area == pytest.approx(np.trapezoid(scores, at), abs=1e-12)
    assert found.area == pytest.approx(np.trapezoid(found.normalised, at), abs=1e-12)
    assert 0 <= found.area <= 1
    if np.ptp(scores) > 1e-3:
        assert (found.normalised.min(), found.normalised.max()) == (0, 1)
        assert curve(3 * scores + low).area == pytest.approx(found.area, abs=1e-9)
        assert curve(-scores).area == pytest.approx(1 - found.area, abs=1e-12)


@pytest.mark.parametrize("broken", [np.zeros((2, 101)), np.zeros(1), np.array([0.0, np.nan])])
def test_what_is_no_curve_is_refused(broken: Float64) -> None:
    with pytest.raises(ValueError, match="at least two finite scores"):
        curve(broken)


def test_a_map_that_finds_the_region_has_the_better_areas() -> None:
    """A similarity that sees only one region: the true map before its opposite, in both metrics."""
    truth = np.zeros((6, 8))
    truth[1:3, 4:7] = 1

    def area(design: PixelSteps) -> float:
        return curve((design.masks(0, 101) * truth).sum(axis=(1, 2))).area

    assert area(insertion(truth)) > 0.9 > 0.1 > area(insertion(-truth))
    assert area(deletion(truth)) < 0.1 < 0.9 < area(deletion(-truth))


def test_agreement_by_hand() -> None:
    one = np.array([[1.0, 2.0, 3.0]])
    found = map_agreement(one, np.array([[1.0, 3.0, 2.0]]))
    assert (found.pearson, found.spearman) == pytest.approx((0.5, 0.5))
    found = map_agreement(one, one**3)
    assert found.spearman == pytest.approx(1)
    assert found.pearson < 0.99
    assert map_agreement(one, 7 - 2 * one).pearson == pytest.approx(-1)


@settings(max_examples=100, deadline=None)
@given(maps=PAIRS, scale=st.sampled_from([1e-200, 1.0, 1e150]))
def test_agreement_is_that_of_scipy(maps: tuple[Float64, Float64], scale: float) -> None:
    one, other = maps
    found = map_agreement(scale * one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert (found.pearson, found.spearman) == (0, 0)
        return
    assert found.pearson == pytest.approx(stats.pearsonr(one.ravel(), other.ravel()).statistic, abs=1e-9)
    assert found.spearman == pytest.approx(stats.spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_a_constant_map_agrees_with_none(value: float) -> None:
    flat, other = np.full((5, 7), value), np.arange(35.0).reshape(5, 7)
    for pair in ((flat, other), (other, flat), (flat, flat)):
        found = map_agreement(*pair)
        assert (found.pearson, found.spearman) == (0, 0)


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        map_agreement(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="1 pixels are not"):
        map_agreement(np.array([[np.nan, 1.0]]), np.zeros((1, 2)))
