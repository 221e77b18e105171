"""Pixels under limits, the resize, and the way back into the original's pixels."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tests.support import hostile
from transforms.core import errors
from transforms.core.imaging import images
from transforms.core.imaging.images import ImageLimits, Interpolation, Resize, ResizeMode
from transforms.core.records import Frame

INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos")


def to_original(frame: Frame, y: float, x: float) -> tuple[float, float]:
    """The point (y, x) of the input frame, 0 <= y <= H, in original pixels; pixel i covers i to i + 1 in both."""
    top, left, height, width = frame.box
    return top + y * height / frame.size[0], left + x * width / frame.size[1]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# Decoding


def test_limits_hold_at_their_edge() -> None:
    data = hostile.jpeg()  # 60 x 80
    assert images.decode(data, ImageLimits(max_pixels=4800, max_side=80)).shape == (60, 80, 3)
    with pytest.raises(errors.ImageTooLarge, match=r"60 x 80 pixels .* 4,799 pixels"):
        images.decode(data, ImageLimits(max_pixels=4799))
    with pytest.raises(errors.ImageTooLarge, match="79 a side"):
        images.decode(data, ImageLimits(max_side=79))


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"max_pixels": 10**9}, {"max_side": 70_000}])
def test_limits_that_pillow_would_overrule_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(errors.UsageError, match="image limits"):
        ImageLimits(**options)


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    """Pillow's convert("RGB") clips 300 and 65,535 to white alike."""
    values = np.array([[0, 255, 256], [300, 32_896, 65_535]], ">u2")
    image = images.decode(hostile.png(2, 3, 16, 0, values.tobytes()))
    expected = [[0, 0, 1], [1, 128, 255]]
    for channel in range(3):
        assert image[:, :, channel].tolist() == expected


def test_sixteen_bit_colour_agrees_with_sixteen_bit_grey() -> None:
    values = np.random.default_rng(3).integers(0, 65_536, (5, 7)).astype(">u2")
    grey = images.decode(hostile.png(5, 7, 16, 0, values.tobytes()))
    colour = images.decode(hostile.png(5, 7, 16, 2, np.dstack([values] * 3).astype(">u2").tobytes()))
    np.testing.assert_array_equal(grey, colour)


def test_transparency_lies_on_white() -> None:
    rgba = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [200, 0, 100, 51]]], np.uint8)
    image = images.decode(hostile.png(1, 3, 8, 6, rgba.tobytes()))
    # 0.2 of (200, 0, 100) over 0.8 of white
    assert image.tolist() == [[[200, 0, 100], [255, 255, 255], [244, 204, 224]]]


def test_one_bit_and_one_pixel() -> None:
    assert images.decode(hostile.png(1, 3, 1, 0, b"\xa0")).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]


def test_colour_key_of_one_bit_grey() -> None:
    data = hostile.png(1, 2, 1, 0, b"\x40", [(b"tRNS", struct.pack(">H", 0))])  # black, white; black is transparent
    assert images.decode(data).tolist() == [[[255] * 3, [255] * 3]]


def test_sha256_is_that_of_the_bytes() -> None:
    assert images.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_unsafe_decoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images.require_safe_decoder()
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(errors.UsageError, match="LOAD_TRUNCATED_IMAGES"):
        images.require_safe_decoder()
    monkeypatch.setattr("PIL.__version__", "12.3.0")
    with pytest.raises(errors.UsageError, match=r"pip install --no-deps pillow==13\.0\.0"):
        images.require_safe_decoder()


# Resizing


def test_squash_shows_the_whole_image() -> None:
    image, frame = images.resize(noise(60, 80), Resize((32, 48), "squash"))
    assert image.shape == (32, 48, 3)
    assert frame == Frame((60, 80), (32, 48), (0.0, 0.0, 60.0, 80.0))


def test_crop_box_by_hand() -> None:
    """60 x 80, shorter side to 40: 40 x 53. The 32 x 32 window starts at (4, round(10.5) = 10)."""
    image, frame = images.resize(noise(60, 80), Resize((32, 32), "crop", shorter=40))
    assert image.shape == (32, 32, 3)
    assert frame.box == pytest.approx((4 * 60 / 40, 10 * 80 / 53, 32 * 60 / 40, 32 * 80 / 53))


def test_crop_without_shorter_covers_the_size() -> None:
    """60 x 80 covers 30 x 20 as 30 x 40; the window is the middle half."""
    _, frame = images.resize(noise(60, 80), Resize((30, 20), "crop"))
    assert frame.box == pytest.approx((0, 20, 60, 40))
    _, frame = images.resize(noise(80, 60), Resize((20, 30), "crop"))
    assert frame.box == pytest.approx((20, 0, 40, 60))


def test_pad_keeps_the_ratio_and_fills() -> None:
    """60 x 80 into 40 x 40 is 30 x 40, 5 rows of fill above and below."""
    image, frame = images.resize(noise(60, 80), Resize((40, 40), "pad", pad_color=(1, 2, 3)))
    assert frame.box == pytest.approx((-10, 0, 80, 80))
    assert (image[:5] == (1, 2, 3)).all()
    assert (image[35:] == (1, 2, 3)).all()
    assert not (image[5:35] == (1, 2, 3)).all(axis=2).any()


def test_same_size_is_untouched() -> None:
    original = noise(20, 30)
    for mode in ("squash", "crop", "pad"):
        for interpolation in INTERPOLATIONS:
            image, frame = images.resize(original, Resize((20, 30), mode, interpolation))
            np.testing.assert_array_equal(image, original)
            assert frame.box == (0, 0, 20, 30)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (0, 5), "mode": "crop"},
        {"size": (5,), "mode": "crop"},
        {"size": (5, 5), "mode": "stretch"},
        {"size": (5, 5), "mode": "crop", "interpolation": "cubic"},
        {"size": (5, 5), "mode": "squash", "shorter": 7},
        {"size": (5, 5), "mode": "crop", "shorter": 0},
        {"size": (5, 5), "mode": "pad", "pad_color": (0, 0, 256)},
    ],
)
def test_a_wrong_resize_is_a_usage_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError):
        Resize(**arguments)


def test_a_resize_read_from_json_is_the_same() -> None:
    read: Any = {"size": [5, 7], "mode": "pad", "pad_color": [1, 2, 3]}
    assert Resize(**read) == Resize((5, 7), "pad", pad_color=(1, 2, 3))
    assert len({Resize(**read), Resize((5, 7), "pad", pad_color=(1, 2, 3))}) == 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (61, 47), (33, 33), (7, 90), (500, 331)])
def test_crop_is_torchvision_s_to_the_bit(shape: tuple[int, int], interpolation: Interpolation) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from torchvision.transforms import v2

    original = noise(*shape)
    for shorter, size in [
        (40, (32, 32)),
        (40, (32, 40)),
        (41, (30, 21)),
        (37, (37, 37)),
        (33, (20, 32)),
        (20, (32, 24)),
    ]:
        mode = v2.InterpolationMode(interpolation)
        theirs = v2.Compose([v2.Resize(shorter, mode), v2.CenterCrop(size)])(PIL.Image.fromarray(original))
        ours, _ = images.resize(original, Resize(size, "crop", interpolation, shorter))
        np.testing.assert_array_equal(ours, np.asarray(theirs), err_msg=f"{shorter} {size}")


@pytest.mark.parametrize("spec", [Resize((24, 20), "crop", shorter=30), Resize((24, 20), "crop", shorter=16)])
@pytest.mark.parametrize("shape", [(60, 80), (300, 20), (11, 97)])
def test_crop_of_an_extremely_long_image(shape: tuple[int, int], spec: Resize, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way without the scaled image shows what the other shows, but for rounding."""
    expected, frame = images.resize(noise(*shape), spec)
    monkeypatch.setattr(images, "_LARGEST_INTERMEDIATE", 0)
    image, same_frame = images.resize(noise(*shape), spec)
    assert same_frame == frame
    inner = np.s_[1:-1, 1:-1]  # at the border the one filter sees beyond the window, the other does not
    assert np.abs(image.astype(int) - expected)[inner].max() <= 1


def test_an_extremely_long_image_takes_no_memory() -> None:
    """Scaled so that 1 pixel becomes 224, its 20,000 would become 4,480,000: 3 GB."""
    image, frame = images.resize(noise(1, 20_000), Resize((224, 224), "crop"))
    assert image.shape == (224, 224, 3)
    assert frame.box == pytest.approx((0, 9999.5, 1, 1))


# The way back

SIZES = st.tuples(st.integers(8, 70), st.integers(8, 70))
SPECS = st.builds(
    Resize,
    size=SIZES,
    mode=st.sampled_from(["squash", "crop", "pad"]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)


@st.composite
def white_rectangles(draw: st.DrawFn) -> tuple[tuple[int, int], Resize, tuple[int, int, int, int]]:
    """The shape of an image, how it is resized, and a rectangle (top, left, bottom, right) that shows whole, with three
    pixels of the frame around it for the filter. In frames and images of these sizes there is one, in every mode.
    """
    shape = draw(st.tuples(st.integers(24, 70), st.integers(24, 70)))
    spec = draw(
        st.builds(
            Resize,
            size=st.tuples(st.integers(22, 70), st.integers(22, 70)),
            mode=st.sampled_from(["squash", "crop", "pad"]),
            interpolation=st.sampled_from(["bilinear", "bicubic"]),
            pad_color=st.just((0, 0, 0)),
        )
    )
    box = images.frame_of(shape, spec).box
    edges = []
    for axis in (0, 1):
        room = 3 * box[axis + 2] / spec.size[axis]
        first = math.ceil(max(box[axis], 0) + room)
        last = math.floor(min(box[axis] + box[axis + 2], shape[axis]) - room)
        start = draw(st.integers(first, last - 2))
        edges.append((start, draw(st.integers(start + 2, last))))
    return shape, spec, (edges[0][0], edges[1][0], edges[0][1], edges[1][1])


@settings(max_examples=150, deadline=None)
@given(white_rectangles())
def test_a_rectangle_comes_back_to_its_place(
    drawn: tuple[tuple[int, int], Resize, tuple[int, int, int, int]],
) -> None:
    """The restored brightness of a white rectangle has its centre where the rectangle has it, in each mode."""
    shape, spec, (top, left, bottom, right) = drawn
    original = np.zeros((*shape, 3), np.uint8)
    original[top:bottom, left:right] = 255
    image, frame = images.resize(original, spec)
    pixel = (frame.box[2] / spec.size[0], frame.box[3] / spec.size[1])  # of the input frame, in original pixels
    restored = np.nan_to_num(images.restore(image.mean(axis=2), frame))
    rows, columns = np.indices(shape) + 0.5
    centre = (rows * restored).sum() / restored.sum(), (columns * restored).sum() / restored.sum()
    assert centre[0] == pytest.approx((top + bottom) / 2, abs=0.35 * max(1, pixel[0]))
    assert centre[1] == pytest.approx((left + right) / 2, abs=0.35 * max(1, pixel[1]))


@pytest.mark.parametrize(
    ("spec", "cell", "expected"),
    [
        # A map of 4 x 4 over the frame. Squash: cell (1, 2) covers rows 15 to 30 and columns 40 to 60.
        (Resize((32, 32), "squash"), (1, 2), (15, 30, 40, 60)),
        # Crop of the middle 60 x 60: columns 10 to 70, a cell is 15 x 15.
        (Resize((30, 30), "crop"), (1, 2), (15, 30, 40, 55)),
        # Pad: the frame is 80 x 80 from row -10, a cell is 20 x 20.
        (Resize((32, 32), "pad"), (1, 2), (10, 30, 40, 60)),
    ],
)
def test_overlay_of_a_60_by_80_image_lies_where_it_should(
    spec: Resize, cell: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    _, frame = images.resize(noise(60, 80), spec)
    saliency = np.zeros((4, 4))
    saliency[cell] = 1
    restored = images.restore(saliency, frame)
    assert restored.shape == (60, 80)
    assert restored.dtype == np.float32
    # Linear between the centres of cells: at least one half exactly within the cell.
    rows, columns = np.nonzero(np.nan_to_num(restored) > 0.5)
    top, bottom, left, right = expected
    assert top <= rows.min() <= rows.max() < bottom
    assert left <= columns.min() <= columns.max() < right
    peak = np.unravel_index(np.nanargmax(restored), restored.shape)
    y, x = to_original(frame, (cell[0] + 0.5) * spec.size[0] / 4, (cell[1] + 0.5) * spec.size[1] / 4)
    assert (y, x) == pytest.approx(((top + bottom) / 2, (left + right) / 2))
    assert abs(peak[0] + 0.5 - y) <= 0.5
    assert abs(peak[1] + 0.5 - x) <= 0.5


def test_outside_of_the_crop_is_nan() -> None:
    _, frame = images.resize(noise(60, 80), Resize((30, 30), "crop"))  # columns 10 to 70
    restored = images.restore(np.ones((8, 8)), frame)
    assert np.isnan(restored[:, :10]).all()
    assert np.isnan(restored[:, 70:]).all()
    assert (restored[:, 10:70] == 1).all()


def test_restore_by_hand() -> None:
    """Two cells over four pixels: their centres lie at 1 and 3, the pixels' at 0.5, 1.5, 2.5, 3.5."""
    frame = Frame(original=(4, 1), size=(2, 1), box=(0, 0, 4, 1))
    assert images.restore(np.array([[0.0], [1.0]]), frame)[:, 0].tolist() == [0, 0.25, 0.75, 1]


def test_restore_of_a_map_of_the_original_s_size_is_the_map() -> None:
    saliency = np.random.default_rng(0).random((6, 9))
    frame = Frame(original=(6, 9), size=(32, 40), box=(0, 0, 6, 9))
    np.testing.assert_allclose(images.restore(saliency, frame), saliency, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(shape=SIZES, spec=SPECS, grid=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 99))
def test_restore_against_scipy(shape: tuple[int, int], spec: Resize, grid: tuple[int, int], seed: int) -> None:
    _, frame = images.resize(noise(*shape), spec)
    saliency = np.random.default_rng(seed).normal(size=grid)
    restored = images.restore(saliency, frame)
    top, left, height, width = frame.box
    rows, columns = np.indices(shape) + 0.5
    y, x = (rows - top) / height, (columns - left) / width
    expected = ndimage.map_coordinates(saliency, [y * grid[0] - 0.5, x * grid[1] - 0.5], order=1, mode="nearest")
    inside = (y >= 0) & (y <= 1) & (x >= 0) & (x <= 1)
    np.testing.assert_array_equal(np.isnan(restored), ~inside)
    np.testing.assert_allclose(restored[inside], expected[inside], atol=1e-5)


@given(shape=SIZES, spec=SPECS)
def test_the_frame_s_corners_are_those_of_its_box(shape: tuple[int, int], spec: Resize) -> None:
    _, frame = images.resize(noise(*shape), spec)
    top, left, height, width = frame.box
    for y, x in itertools.product((0, 1), (0, 1)):
        point = to_original(frame, y * spec.size[0], x * spec.size[1])
        assert point == pytest.approx((top + y * height, left + x * width))


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_the_box_agrees_with_the_mode(mode: ResizeMode) -> None:
    for shape, size in itertools.product([(60, 80), (80, 60), (5, 90)], [(32, 48), (48, 32), (40, 40)]):
        _, frame = images.resize(noise(*shape), Resize(size, mode))
        top, left, height, width = frame.box
        bottom, right = top + height, left + width
        if mode == "crop":
            assert top >= 0
            assert left >= 0
            assert bottom <= shape[0] + 1e-9
            assert right <= shape[1] + 1e-9
        elif mode == "pad":
            assert top <= 0
            assert left <= 0
            assert bottom >= shape[0] - 1e-9
            assert right >= shape[1] - 1e-9
        else:
            assert frame.box == (0, 0, *shape)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4)])
def test_restore_of_what_is_no_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        images.restore(np.zeros(shape), Frame((4, 4), (4, 4), (0, 0, 4, 4)))
