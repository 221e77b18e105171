"""Superpixels: labels that cover every image, in numbers that were asked for, the same every time."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from transforms.core.errors import MissingDependency, UsageError
from transforms.core.records import Image
from transforms.serving.superpixels import superpixels


def shirt(height: int, width: int) -> Image:
    """A red rectangle in the middle of a white ground."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[height // 4 : 3 * height // 4, width // 3 : 2 * width // 3] = (200, 20, 30)
    return image


def pure(labels: Any, inside: Any) -> float:
    """The share of the frame under superpixels that lie to 9 tenths inside or outside."""
    shares = np.bincount(labels.ravel(), inside.ravel()) / np.bincount(labels.ravel())
    return float(((shares < 0.1) | (shares > 0.9))[labels].mean())


def check_labels(labels: Any, image: Image) -> int:
    """The number of superpixels, after checking what is promised of labels."""
    assert labels.dtype == np.int64
    assert labels.shape == image.shape[:2]
    values = np.unique(labels)
    np.testing.assert_array_equal(values, np.arange(len(values)))
    return len(values)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 200), st.sampled_from(["grey", "noise"]), st.data())
def test_any_image_has_labels_without_gaps_and_always_the_same(
    height: int, width: int, segments: int, kind: str, data: st.DataObject
) -> None:
    if kind == "grey":
        image = np.full((height, width, 3), data.draw(st.integers(0, 255)), np.uint8)
    else:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    labels = superpixels(image, segments=segments)
    assert check_labels(labels, image) <= height * width
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(superpixels(np.asfortranarray(before), segments=segments), labels)


@pytest.mark.parametrize("size", [(112, 80), (60, 150), (224, 112)])
@pytest.mark.parametrize("segments", [30, 100])
def test_about_as_many_as_asked_for_at_any_size(size: tuple[int, int], segments: int) -> None:
    image = shirt(*size)
    labels = superpixels(image, segments=segments)
    assert segments / 2 <= check_labels(labels, image) <= 1.5 * segments
    # a white ground is cut like everything else: no superpixel holds more than a few times its part
    assert np.bincount(labels.ravel()).max() < 4 * labels.size / segments


def test_superpixels_are_connected_and_follow_edges() -> None:
    image = shirt(150, 110)
    red = (image == (200, 20, 30)).all(axis=-1)
    labels = superpixels(image)
    assert all(label(labels == value)[1] == 1 for value in np.unique(labels))
    assert pure(labels, red) > 0.92
    assert pure(superpixels(np.zeros_like(image)), red) < 0.9  # a regular grid does not


def test_texture_does_not_collapse_into_one_superpixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 80, 3), dtype=np.uint8)
    labels = superpixels(image)
    assert check_labels(labels, image) > 10
    assert np.bincount(labels.ravel()).max() < labels.size / 2


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1)])
def test_a_frame_one_pixel_high_or_wide(size: tuple[int, int]) -> None:
    image = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    found = check_labels(superpixels(image, segments=5), image)
    assert found == 1 if size == (1, 1) else 2 <= found <= 10


def test_one_segment_is_the_whole_image() -> None:
    np.testing.assert_array_equal(superpixels(shirt(20, 31), segments=1), np.zeros((20, 31)))


def test_labels_do_not_depend_on_the_process() -> None:
    code = (
        "import numpy as np; from transforms.serving.superpixels import superpixels; "
        "image = np.random.default_rng(5).integers(0, 256, (40, 56, 3), dtype=np.uint8); "
        "print(superpixels(image, segments=60).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    image = np.random.default_rng(5).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    assert done.stdout.strip() == str(superpixels(image, segments=60).tolist())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 5), np.uint8), ((4, 5, 4), np.uint8), ((0, 5, 3), np.uint8), ((4, 5, 3), np.float32)]
)
def test_what_is_no_image_is_named(shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(ValueError, match=rf"uint8 \[H, W, 3\], got {np.dtype(dtype)} \[{', '.join(map(str, shape))}\]"):
        superpixels(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    "wrong", [{"segments": 0}, {"compactness": 0.0}, {"compactness": float("nan")}, {"compactness": float("inf")}]
)
def test_impossible_parameters_are_named(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        superpixels(shirt(8, 9), **wrong)


def test_a_missing_package_is_a_usage_error_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)  # None makes the import fail
    with pytest.raises(MissingDependency, match=r"pip install 'whymatch\[lime\]'") as caught:
        superpixels(shirt(8, 9))
    assert isinstance(caught.value, UsageError)


def test_the_module_loads_without_scikit_image() -> None:
    code = "import sys; sys.modules['skimage'] = None; import transforms.serving.superpixels; print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "loaded"
