"""Label images and the judges of how a map finds a region: by hand, and against slow definitions of each."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from tests.support import hostile
from transforms.core import errors
from transforms.core.imaging import images
from transforms.core.imaging.images import ImageLimits, Resize, ResizeMode
from transforms.core.imaging.maps import map_statistics
from transforms.core.imaging.regions import decode_labels, labels_in_frame
from transforms.core.metrics.curves import insertion
from transforms.core.metrics.regions import iou, peak, pixel_auc, pointing
from transforms.core.records import Float64, Frame

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 9))
# few distinct values, so that ties are the rule
TIED = arrays(np.float64, SHAPES, elements=st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0]))
MAPS = TIED | arrays(np.float64, SHAPES, elements=st.floats(-1e6, 1e6, width=32))


@st.composite
def found_regions(draw: st.DrawFn) -> tuple[Float64, NDArray[np.bool_]]:
    """A map, and a region of its pixels that is not empty."""
    saliency = draw(MAPS)
    region = draw(arrays(np.bool_, saliency.shape))
    region[draw(st.integers(0, saliency.shape[0] - 1)), draw(st.integers(0, saliency.shape[1] - 1))] = True
    return saliency, region


# The highest pixel


def test_the_peak_of_a_plateau_is_its_first_pixel() -> None:
    assert peak(np.array([[0.0, 1.0, 2.0], [2.0, 2.0, 0.0]])) == (0, 2)
    assert peak(np.zeros((3, 4))) == (0, 0)
    assert peak(np.array([[-5.0]])) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(saliency=MAPS)
def test_the_peak_is_that_of_the_statistics(saliency: Float64) -> None:
    found = map_statistics(saliency, np.zeros(saliency.shape, bool))
    assert peak(saliency) == (found.peak_row, found.peak_column)


def test_pointing_by_hand() -> None:
    """The peak is (0, 4); the region's nearest pixel is (2, 3), the root of 5 away."""
    saliency = np.zeros((3, 5))
    saliency[0, 4] = 1
    region = np.zeros((3, 5), bool)
    region[2, :4] = True
    assert not pointing(saliency, region)
    assert not pointing(saliency, region, 2)
    assert not pointing(saliency, region, 2.236)
    assert pointing(saliency, region, 5**0.5)
    saliency[2, 0] = 2
    assert pointing(saliency, region)
    region[0, 4] = True
    saliency[0, 4] = 2  # of two peaks the first, row by row
    assert pointing(saliency, region & (np.arange(5) == 4))


@settings(max_examples=150, deadline=None)
@given(case=found_regions(), tolerance=st.integers(0, 9).map(float) | st.integers(0, 60).map(lambda n: n**0.5))
def test_pointing_is_that_of_the_definition(case: tuple[Float64, NDArray[np.bool_]], tolerance: float) -> None:
    saliency, region = case
    best = None
    for at in np.ndindex(*saliency.shape):  # row by row
        if best is None or saliency[at] > saliency[best]:
            best = at
    assert best is not None
    hit = False
    for row, column in np.ndindex(*saliency.shape):
        distance = ((row - best[0]) ** 2 + (column - best[1]) ** 2) ** 0.5
        hit = hit or bool(region[row, column] and distance <= tolerance)
    assert pointing(saliency, region, tolerance) is hit


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_of_pixels(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is"):
        pointing(np.zeros((1, 2)), np.ones((1, 2), bool), tolerance)


# As many pixels as the region has


def test_iou_by_hand() -> None:
    region = np.array([[True, True, False, False], [True, False, False, False]])
    assert iou(np.array([[5.0, 3, 0, 1], [4, 2, -1, 0]]), region) == 1
    assert iou(np.array([[5.0, 0, 0, 4], [0, 3, 0, 0]]), region) == pytest.approx(1 / 5)  # one of three is shared
    assert iou(np.array([[0.0, 0, 0, 4], [0, 3, 5, 0]]), region) == 0
    assert iou(np.zeros((2, 4)), region) == pytest.approx(2 / 4)  # the first three pixels
    assert iou(np.array([[5.0, 1, 0, 4], [1, 1, 1, 0]]), region) == pytest.approx(2 / 4)  # of four 1, the first
    assert iou(np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), np.ones((2, 4), bool)) == 1


@settings(max_examples=150, deadline=None)
@given(case=found_regions())
def test_iou_is_that_of_the_definition(case: tuple[Float64, NDArray[np.bool_]]) -> None:
    saliency, region = case
    inside = {at for at in np.ndindex(*region.shape) if region[at]}
    pixels = sorted(np.ndindex(*saliency.shape), key=lambda at: -saliency[at])  # sorted is stable
    highest = set(pixels[: len(inside)])
    assert iou(saliency, region) == pytest.approx(len(inside & highest) / len(inside | highest))
    shown = insertion(saliency, saliency.size).masks(len(inside), len(inside) + 1)[0] == 1
    assert iou(saliency, region) == pytest.approx((shown & region).sum() / (shown | region).sum())


@pytest.mark.parametrize("judge", [pointing, iou])
@pytest.mark.parametrize(
    ("saliency", "region", "told"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "with 0 inside"),
        (np.zeros((2, 3)), np.ones((3, 2), bool), r"\(2, 3\) and bool \(3, 2\)"),
        (np.zeros((2, 3)), np.ones((2, 3), int), "int64"),
        (np.zeros(3), np.ones(3, bool), r"\[H, W\]"),
        (np.array([[0.0, np.nan]]), np.ones((1, 2), bool), "finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(judge: Any, saliency: Float64, region: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        judge(saliency, region)


# The order of all pixels


def test_pixel_auc_by_hand() -> None:
    inside = np.array([[True, False, False], [True, False, False]])
    assert pixel_auc(np.array([[5.0, 1, 2], [4, 3, 0]]), inside) == 1
    assert pixel_auc(np.array([[0.0, 1, 2], [3, 3, 4]]), inside) == pytest.approx((0 + 2.5) / 8)
    assert pixel_auc(np.ones((2, 3)), inside) == 0.5


@settings(max_examples=100, deadline=None)
@given(data=st.data(), saliency=TIED)
def test_pixel_auc_counts_pairs(data: st.DataObject, saliency: Float64) -> None:
    """Against the count over all pairs of pixels, and against a rank test."""
    region = data.draw(arrays(np.bool_, saliency.shape))
    inside, outside = saliency[region], saliency[~region]
    if not len(inside) or not len(outside):
        with pytest.raises(ValueError, match="inside and outside"):
            pixel_auc(saliency, region)
        return
    wins = sum((one > other) + (one == other) / 2 for one, other in product(inside, outside))
    assert pixel_auc(saliency, region) == pytest.approx(wins / (len(inside) * len(outside)))
    tested = stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))
    assert pixel_auc(saliency, region) == pytest.approx(tested)


def test_pixel_auc_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        saliency, region = rng.integers(0, 6, (7, 11)).astype(np.float64), rng.random((7, 11)) < 0.3
        expected = metrics.roc_auc_score(region.ravel(), saliency.ravel())
        assert pixel_auc(saliency, region) == pytest.approx(expected)


def test_a_region_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="inside and outside"):
        pixel_auc(np.zeros((2, 3)), np.eye(3, 2, dtype=bool))


@settings(max_examples=60, deadline=None)
@given(case=found_regions(), scale=st.sampled_from([0.5, 4.0]), shift=st.sampled_from([-1.0, 0.0, 2.0]))
def test_no_judge_minds_the_scale(case: tuple[Float64, NDArray[np.bool_]], scale: float, shift: float) -> None:
    saliency, region = np.round(case[0]), case[1]  # whole numbers, so that no two become one by rounding
    other = saliency * scale + shift
    assert pointing(saliency, region) == pointing(other, region)
    assert iou(saliency, region) == iou(other, region)
    if not region.all():
        assert pixel_auc(saliency, region) == pixel_auc(other, region)


# Labels in the model's frame


def test_labels_in_a_squashed_frame_by_hand() -> None:
    labels = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    # centres: rows 0.33, 1, 1.67; columns 0.75, 2.25, 3.75, 5.25
    frame = Frame(original=(2, 6), size=(3, 4), box=(0, 0, 2, 6))
    found = labels_in_frame(labels, frame)
    assert found.dtype == np.int64
    assert found.tolist() == [[1, 3, 4, 6], [7, 9, 10, 12], [7, 9, 10, 12]]


def test_labels_in_a_padded_and_in_a_cropped_frame_by_hand() -> None:
    labels = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8)
    padded = labels_in_frame(labels, images.frame_of((2, 4), Resize((4, 4), "pad")))
    assert padded.tolist() == [[-1] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [-1] * 4]
    cropped = labels_in_frame(labels, images.frame_of((2, 4), Resize((2, 2), "crop")))
    assert cropped.tolist() == [[2, 3], [6, 7]]


SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def specs(draw: st.DrawFn, interpolation: st.SearchStrategy[Any]) -> Resize:
    """A resize of every kind, black where there is no picture."""
    mode: ResizeMode = draw(st.sampled_from(["squash", "crop", "pad"]))
    shorter = draw(st.none() | st.integers(1, 40)) if mode == "crop" else None
    return Resize(draw(SIDES), mode, draw(interpolation), shorter, pad_color=(0, 0, 0))


@settings(max_examples=150, deadline=None)
@given(original=SIDES, spec=specs(st.just("nearest")), seed=st.integers(0, 99))
def test_labels_in_the_frame_are_those_of_the_formula(original: tuple[int, int], spec: Resize, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 300, original)
    frame = images.frame_of(original, spec)
    top, left, height, width = frame.box
    found = labels_in_frame(labels, frame)
    assert found.shape == frame.size
    for row, column in np.ndindex(*frame.size):
        y, x = top + (row + 0.5) * height / frame.size[0], left + (column + 0.5) * width / frame.size[1]
        inside = 0 <= y < original[0] and 0 <= x < original[1]
        assert found[row, column] == (labels[int(y), int(x)] if inside else -1)


@settings(max_examples=200, deadline=None)
@given(original=SIDES, spec=specs(st.just("nearest")), seed=st.integers(0, 99))
def test_labels_lie_as_pillow_s_nearest_pixels(original: tuple[int, int], spec: Resize, seed: int) -> None:
    """Save where a centre falls on the line between two pixels, which are then both the nearest."""
    labels = np.random.default_rng(seed).integers(1, 256, original, np.uint8)
    image, frame = images.resize(np.repeat(labels[:, :, None], 3, axis=2), spec)
    clear = []
    for start, length, pixels in zip(frame.box[:2], frame.box[2:], frame.size, strict=True):
        centres = start + (np.arange(pixels) + 0.5) * length / pixels
        clear.append(np.abs(centres - np.round(centres)) > 1e-6)
    found = labels_in_frame(labels, frame)
    expected = np.where(image[:, :, 0] == 0, -1, image[:, :, 0].astype(int))
    np.testing.assert_array_equal(found[np.ix_(*clear)], expected[np.ix_(*clear)])
    np.testing.assert_array_equal(found == -1, image[:, :, 0] == 0)


@settings(max_examples=200, deadline=None)
@given(
    original=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    spec=specs(st.sampled_from(["bilinear", "bicubic"])),
    part=st.floats(0, 1),
    axis=st.sampled_from([0, 1]),
)
def test_two_halves_lie_as_those_of_the_photograph(
    original: tuple[int, int], spec: Resize, part: float, axis: int
) -> None:
    """A photograph of two flat halves and its labels, cut at the same place, agree within one pixel of the frame."""
    cut = 1 + round(part * (original[axis] - 2))
    labels = (np.indices(original)[axis] >= cut).astype(np.uint8)
    photograph = np.repeat(np.where(labels, 180, 60).astype(np.uint8)[:, :, None], 3, axis=2)
    image, frame = images.resize(photograph, spec)
    found = labels_in_frame(labels, frame)
    np.testing.assert_array_equal(found == -1, image[:, :, 0] == 0)
    seen = np.where(image[:, :, 0] > 120, 1, 0)
    seen[image[:, :, 0] == 0] = -1
    assert ((found != seen).sum(axis=axis) <= 1).all()


def test_labels_of_another_size_or_kind_are_refused() -> None:
    frame = Frame(original=(2, 3), size=(4, 4), box=(0, 0, 2, 3))
    with pytest.raises(ValueError, match=r"original's size \(2, 3\) are needed; got \(3, 2\)"):
        labels_in_frame(np.zeros((3, 2), int), frame)
    wrongs: list[Any] = [np.full((2, 3), -1), np.zeros((2, 3)), np.zeros((2, 3), bool)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="whole numbers from 0"):
            labels_in_frame(wrong, frame)


# Label images


def png_of(image: PIL.Image.Image, orientation: int | None = None) -> bytes:
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    return stream.getvalue()


def of_palette(indices: NDArray[np.uint8]) -> PIL.Image.Image:
    """Indices whose colours are all one, and transparent: they say nothing."""
    image = PIL.Image.fromarray(indices)
    image.putpalette([9, 9, 9] * 256)
    image.info["transparency"] = 1
    return image


LABELS = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)
LABEL_IMAGES = {
    "L": PIL.Image.fromarray(LABELS),
    "P": of_palette(LABELS),
    "I;16": PIL.Image.fromarray(LABELS.astype(np.uint16) * 257),
    "1": PIL.Image.fromarray(LABELS > 2),
}
EXPECTED = {"L": LABELS, "P": LABELS, "I;16": LABELS.astype(int) * 257, "1": (LABELS > 2).astype(int)}


@pytest.mark.parametrize("mode", LABEL_IMAGES)
def test_label_images_of_one_channel(mode: str) -> None:
    assert LABEL_IMAGES[mode].mode == mode
    found = decode_labels(png_of(LABEL_IMAGES[mode]), ImageLimits())
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, EXPECTED[mode])


@pytest.mark.parametrize(("depth", "rows"), [(1, b"\x40\xa0"), (2, b"\x18\xc4"), (4, b"\x01\x20\xf4\x30")])
@pytest.mark.parametrize("colour", [0, 3])
def test_labels_of_few_bits_are_not_stretched(depth: int, rows: bytes, colour: int) -> None:
    """Grey of 2 bits would be 0, 85, 170, 255 to a viewer; the labels are 0 to 3."""
    extra = [(b"PLTE", bytes(3 * 2**depth))] if colour == 3 else []
    found = decode_labels(hostile.png(2, 3, depth, colour, rows, extra), ImageLimits())
    expected = {1: [[0, 1, 0], [1, 0, 1]], 2: [[0, 1, 2], [3, 0, 1]], 4: [[0, 1, 2], [15, 4, 3]]}
    assert found.tolist() == expected[depth]


@pytest.mark.parametrize("mode", LABEL_IMAGES)
@pytest.mark.parametrize("orientation", range(9))
def test_a_label_image_is_turned_like_a_photograph(mode: str, orientation: int) -> None:
    found = decode_labels(png_of(LABEL_IMAGES[mode], orientation), ImageLimits())
    coloured = PIL.Image.fromarray(np.repeat(LABELS[:, :, None], 3, axis=2))
    photograph = images.decode(png_of(coloured, orientation))[:, :, 0]
    value_of = dict(zip(LABELS.ravel().tolist(), EXPECTED[mode].ravel().tolist(), strict=True))
    assert found.tolist() == [[value_of[grey] for grey in row] for row in photograph.tolist()]


def test_a_turned_label_image_by_hand() -> None:
    """6: what is stored as the first column is the top row, from right to left."""
    assert decode_labels(png_of(LABEL_IMAGES["L"], 6), ImageLimits()).tolist() == [[3, 0], [200, 1], [255, 2]]


HOSTILE = hostile.hostile_images()
VALID = hostile.valid_images()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_label_image_fails_as_a_photograph_does(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(errors.ImageError) as caught:
        decode_labels(data, ImageLimits())
    assert caught.value.reason == reason


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", VALID)
def test_a_photograph_is_no_label_image(name: str) -> None:
    if name.startswith("png_palette") or name in ("grey_png_16_bit", "grey_png_16_bit_key"):  # one channel
        assert decode_labels(VALID[name], ImageLimits()).shape == (60, 80)
        return
    told = "has the mode (RGB|LA)" if "png" in name else "a label image is a PNG"
    with pytest.raises(errors.NotAnImage, match=told):
        decode_labels(VALID[name], ImageLimits())


def test_the_limits_hold_for_label_images() -> None:
    data = png_of(LABEL_IMAGES["L"])
    assert decode_labels(data, ImageLimits(max_pixels=6, max_side=3)).shape == (2, 3)
    for limits in (ImageLimits(max_pixels=5), ImageLimits(max_side=2)):
        with pytest.raises(errors.ImageTooLarge, match="2 x 3 pixels"):
            decode_labels(data, limits)


SOUND = [png_of(image, 6) for image in LABEL_IMAGES.values()] + [
    hostile.png(2, 3, depth, 0, rows) for depth, rows in ((2, b"\x18\xc4"), (4, b"\x01\x20\xf4\x30"))
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None)
@given(
    data=st.sampled_from(SOUND),
    cut=st.floats(0, 2),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
)
def test_damaged_bytes_give_labels_or_an_image_error(data: bytes, cut: float, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(data[: int(len(data) * cut)] if cut < 1 else data)
    for place, mask in flips:
        if damaged:
            damaged[int(len(damaged) * place)] ^= mask
    try:
        found = decode_labels(bytes(damaged), ImageLimits())
    except errors.ImageError:
        return
    assert found.ndim == 2
    assert 0 <= found.min() <= found.max() <= 65_535
