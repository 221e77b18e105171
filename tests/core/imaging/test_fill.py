"""What replaces a hidden pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from transforms.core.imaging.fill import border_color, check_fill, make_fill
from transforms.core.records import Image

MEAN = (123.5, 116.25, 103.0)


def photograph() -> Image:
    """44 x 66 pixels: a dark rectangle on light grey."""
    image = np.full((44, 66, 3), (230, 231, 232), np.uint8)
    image[10:30, 20:50] = (10, 200, 40)
    return image


def test_mean_is_the_normalisations_colour() -> None:
    fill = make_fill("mean", photograph(), MEAN)
    assert fill.dtype == np.float32
    np.testing.assert_array_equal(fill, np.array(MEAN, np.float32).reshape(1, 1, 1, 3))


@pytest.mark.parametrize(
    ("kind", "color"), [("#ff8000", (255, 128, 0)), ("#00000a", (0, 0, 10)), ("#FFFFFF", (255,) * 3)]
)
def test_a_colour_is_itself(kind: str, color: tuple[int, int, int]) -> None:
    fill = make_fill(kind, photograph(), MEAN)
    assert fill.dtype == np.float32
    np.testing.assert_array_equal(fill, np.array(color).reshape(1, 1, 1, 3))


def test_auto_is_the_median_of_the_outermost_pixels() -> None:
    image = photograph()
    image[:, 0] = 0  # 44 of 2 * 66 + 2 * 42 border pixels
    fill = make_fill("auto", image, MEAN)
    assert fill.dtype == np.float32
    np.testing.assert_array_equal(fill.ravel(), [230, 231, 232])


def test_the_border_colour_by_hand() -> None:
    image = np.zeros((3, 4, 3), np.uint8)
    image[..., 0] = [[1, 3, 4, 5], [6, 99, 99, 7], [2, 8, 9, 10]]  # each once, corners too: the median of 1 to 10
    image[..., 1] = 200
    image[1, 1:3, 2] = 255
    np.testing.assert_array_equal(border_color(image), [5.5, 200, 0])
    assert border_color(image).dtype == np.float32


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1), (2, 3)])
def test_the_border_of_a_thin_image_is_all_of_it(size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(border_color(np.full((*size, 3), 77, np.uint8)), [77] * 3)


def test_blur_is_a_gaussian_of_the_shorter_side_over_22() -> None:
    image = photograph()
    fill = make_fill("blur", image, MEAN)
    assert fill.shape == (1, 44, 66, 3)
    assert fill.dtype == np.float32
    rows = gaussian_filter1d(image.astype(np.float64), 2.0, axis=0, mode="nearest")
    expected = gaussian_filter1d(rows, 2.0, axis=1, mode="nearest")
    np.testing.assert_allclose(fill[0], expected, atol=1e-3)


def test_blur_keeps_a_plain_image_and_the_order_of_channels() -> None:
    plain = np.full((22, 31, 3), (5, 100, 250), np.uint8)
    np.testing.assert_allclose(make_fill("blur", plain, MEAN)[0], plain, atol=1e-4)


def test_blur_by_the_normal_distribution() -> None:
    image = np.zeros((44, 66, 3), np.uint8)
    image[:, 33] = 255  # a line: a row of the result is the kernel
    found = make_fill("blur", image, MEAN)[0, 20, :, 0]
    weights = np.exp(-0.5 * ((np.arange(66) - 33) / 2.0) ** 2)
    np.testing.assert_allclose(found, 255 * weights / weights.sum(), atol=0.02)


@pytest.mark.parametrize("kind", ["", "white", "#fff", "#12345g", "#1234567", "Mean", "#123456\n", "blur "])
def test_other_names_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="mean, auto, blur or #rrggbb, not"):
        check_fill(kind)
    with pytest.raises(ValueError, match="mean, auto, blur or #rrggbb, not"):
        make_fill(kind, photograph(), MEAN)


def test_names_of_fills_pass() -> None:
    assert [check_fill(kind) for kind in ("mean", "auto", "blur", "#0aF9c3")] == ["mean", "auto", "blur", "#0aF9c3"]
