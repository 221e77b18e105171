"""Controls against other implementations and cases worked out by hand, and that they ask the model for nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from transforms.core.records import Float64, Frame, Image, content_id
from transforms.core.saliency.contract import NO_FILL, ImageView, Needs, References
from transforms.core.saliency.controls import CONTROLS, CentreControl, EdgeControl, RandomControl
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.methods import METHODS
from transforms.explaining.image_session import ImageSession
from transforms.explaining.image_session import SessionView as ServedImageView
from transforms.serving.load_image import LoadedImage
from transforms.serving.models import Models, Serving

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@dataclass(frozen=True)
class Picture:
    """An image with no model behind it: whoever asks for an embedding fails."""

    pixels: Image
    number: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return (self.pixels.shape[0], self.pixels.shape[1])

    def seed(self, seed: int) -> int:
        return 1000 * seed + self.number


def some_pixels(size: tuple[int, int], seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def maps_of(control: Any, pixels: Image, number: int = 0, references: int = 1) -> Float64:
    saliency = control.prepare(cast(ImageView, Picture(pixels, number)))
    found = saliency.maps(References(np.ones((references, 4), np.float32)))
    assert (found.passes, found.bias) == (0, None)
    maps: Float64 = found.saliency
    assert maps.dtype == np.float64
    return maps


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(CONTROLS)), SIZES, st.integers(0, 3))
def test_every_reference_has_the_same_finite_map_of_the_frame(
    name: str, size: tuple[int, int], references: int
) -> None:
    pixels = some_pixels(size)
    maps = maps_of(CONTROLS[name](), pixels, references=references)
    assert maps.shape == (references, *size)
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()
    for one in maps:
        np.testing.assert_array_equal(one, maps_of(CONTROLS[name](), pixels)[0])


@pytest.mark.parametrize(("size", "cells"), [((24, 40), 8), ((13, 22), 5), ((7, 9), 1)])
def test_noise_is_upsampled_bilinearly(size: tuple[int, int], cells: int) -> None:
    noise = np.random.default_rng(3007).random((cells, cells))
    expected = ndimage.zoom(
        noise, (size[0] / cells, size[1] / cells), order=1, mode="nearest", grid_mode=True, prefilter=False
    )
    found = maps_of(RandomControl(cells=cells, seed=3), some_pixels(size), number=7)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_noise_by_hand() -> None:
    # two cells on four pixels: their centres lie at 0.5 and 2.5, so the pixels between are 3/4 and 1/4 of the first
    (first, second) = np.random.default_rng(0).random((1, 2))[0]
    found = maps_of(RandomControl(cells=2), some_pixels((1, 4)))[0]
    expected = [first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second]
    np.testing.assert_allclose(found, [expected], atol=1e-15)


def test_noise_in_a_frame_of_few_pixels_has_a_draw_for_each() -> None:
    found = maps_of(RandomControl(cells=8), some_pixels((3, 5)))[0]
    np.testing.assert_allclose(found, np.random.default_rng(0).random((3, 5)), atol=1e-15)


def test_noise_is_the_images_own_and_the_seeds() -> None:
    pixels = some_pixels((16, 24))
    one = maps_of(RandomControl(), pixels)
    np.testing.assert_array_equal(one, maps_of(RandomControl(), some_pixels((16, 24), seed=1)))  # it does not look
    assert abs(np.corrcoef(one.ravel(), maps_of(RandomControl(), pixels, number=1).ravel())[0, 1]) < 0.5
    assert abs(np.corrcoef(one.ravel(), maps_of(RandomControl(seed=1), pixels).ravel())[0, 1]) < 0.5


def test_the_centre_by_hand() -> None:
    # a third of 9 and of 15 pixels is 3 and 5: that far from the centre the Gaussian is exp(-1/2)
    found = maps_of(CentreControl(spread=1 / 3), some_pixels((9, 15)))[0]
    assert found[4, 7] == found.max() == 1
    np.testing.assert_allclose(found[[1, 7, 4, 4], [7, 7, 2, 12]], np.exp(-0.5), rtol=1e-15)
    np.testing.assert_allclose(found[1, 2], np.exp(-1), rtol=1e-15)
    np.testing.assert_array_equal(found, found[::-1, ::-1])
    even = maps_of(CentreControl(), some_pixels((2, 8)))[0]  # the centre lies between pixels; 0.5 and 2 pixels
    np.testing.assert_allclose(even[0, 3], np.exp(-0.5) * np.exp(-1 / 32), rtol=1e-15)
    np.testing.assert_array_equal(even[0], even[1])


def slow_edges(luma: Float64) -> Float64:
    """The Sobel operator by its two kernels, pixel by pixel, the border repeated."""
    padded, out = np.pad(luma, 1, mode="edge"), np.empty(luma.shape)
    down = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
    for row, column in np.ndindex(*luma.shape):
        window = padded[row : row + 3, column : column + 3]
        out[row, column] = np.sqrt((window * down).sum() ** 2 + (window * down.T).sum() ** 2)
    return out


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 7), st.integers(1, 9)), st.integers(0, 99))
def test_edges_are_those_of_the_sobel_operator(size: tuple[int, int], seed: int) -> None:
    pixels = some_pixels(size, seed)
    expected = slow_edges(pixels @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_allclose(maps_of(EdgeControl(smoothing=0), pixels)[0], expected, atol=1e-9)


@pytest.mark.parametrize(("colour", "luma"), [((100, 100, 100), 100.0), ((200, 0, 0), 59.8), ((0, 0, 100), 11.4)])
def test_a_step_by_hand(colour: tuple[int, int, int], luma: float) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = colour
    edges = 4 * luma * np.array([0, 0, 1, 1, 0, 0])  # the kernel's columns are 1, 2, 1 on either side of the step
    np.testing.assert_allclose(maps_of(EdgeControl(smoothing=0), pixels)[0], np.tile(edges, (4, 1)), atol=1e-9)


def test_edges_are_blurred_in_parts_of_each_side() -> None:
    pixels = np.zeros((5, 40, 3), np.uint8)
    pixels[:, 20:] = 50
    sharp, blurred = (maps_of(EdgeControl(smoothing=part), pixels)[0, 0] for part in (0, 0.05))
    kernel = np.exp(-(np.arange(-8, 9) ** 2) / 8)  # 0.05 of 40 pixels are 2, cut at four of them
    np.testing.assert_allclose(blurred, np.convolve(sharp, kernel / kernel.sum(), mode="same"), atol=1e-9)
    lying = maps_of(EdgeControl(smoothing=0.05), pixels.transpose(1, 0, 2))[0]
    np.testing.assert_allclose(lying[:, 0], blurred, atol=1e-9)


def test_an_even_image_has_no_edges() -> None:
    np.testing.assert_array_equal(maps_of(EdgeControl(), np.full((6, 9, 3), 213, np.uint8)), np.zeros((1, 6, 9)))


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_whatever_changes_a_map_changes_the_id(name: str) -> None:
    control = CONTROLS[name]()
    assert (control.name, control.needs, control.fill) == (name, Needs(), NO_FILL)
    names = [field.name for field in dataclasses.fields(control)]
    assert sorted(control.parameters()) == sorted(names)
    others = [dataclasses.replace(control, **{parameter: getattr(control, parameter) * 2 or 3}) for parameter in names]
    assert len({Explainer(one, one.fill).id for one in (control, *others)}) == 1 + len(names)
    pixels = some_pixels((40, 60))
    assert all((maps_of(one, pixels) != maps_of(control, pixels)).any() for one in others)


def test_no_control_has_a_methods_name() -> None:
    assert list(CONTROLS) == ["random", "centre", "edges"]
    assert not CONTROLS.keys() & METHODS.keys()


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("random", {"cells": 0}, "at least one cell a side, got 0"),
        ("centre", {"spread": 0.0}, "finite spread above 0, got 0.0"),
        ("centre", {"spread": float("inf")}, "finite spread above 0, got inf"),
        ("centre", {"spread": float("nan")}, "finite spread above 0, got nan"),
        ("edges", {"smoothing": -0.1}, "smoothing of 0 or more, got -0.1"),
        ("edges", {"smoothing": float("nan")}, "smoothing of 0 or more, got nan"),
    ],
)
def test_what_is_no_parameter_is_refused(name: str, values: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CONTROLS[name](**values)


def test_a_worker_draws_controls_without_a_pass(bundle: Path) -> None:
    models = Models(Serving(str(bundle)))
    size = models.similarity.size
    pixels = some_pixels(size)
    shared = ImageSession(LoadedImage(pixels, Frame(size, size, (0, 0, *size)), "ab" * 32), models)
    image = ServedImageView(shared, NO_FILL)
    np.testing.assert_array_equal(image.pixels, pixels)
    number = int(content_id("5", "ab" * 32, letter="")[:12], 16)  # of the run's seed and the image's content
    for control in (CentreControl(), EdgeControl()):
        found = control.prepare(image).maps(References(np.ones((2, 4), np.float32)))
        np.testing.assert_array_equal(found.saliency, maps_of(control, pixels, references=2))
    noise = RandomControl(seed=5).prepare(image).maps(References(np.ones((1, 4), np.float32))).saliency
    np.testing.assert_array_equal(noise, maps_of(RandomControl(), pixels, number=number))
    assert shared.passes == 0
