"""Boxes around regions: what is refused, and where they lie in a frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import hostile
from transforms.core import errors
from transforms.core.imaging.images import ImageLimits, Resize, ResizeMode, frame_of
from transforms.core.imaging.regions import labels_in_frame
from transforms.core.records import Frame, Product
from transforms.inputs.region_boxes import MAX_BOXES_TEXT, Box, boxes_in_frame, read_boxes
from transforms.inputs.region_files import RegionReader, source_of
from transforms.inputs.region_legend import Legend
from transforms.serving.load_image import ImageLoader
from transforms.storage import Access


def in_frame(text: str, frame: Frame) -> tuple[tuple[str, ...], list[list[int]]]:
    source = source_of(Product("1", "x.jpg", boxes=text))
    assert source is not None
    found = RegionReader(Access(roots=()), ImageLimits(), Legend({"ground": 0})).frame(source, frame)
    return found.names, found.labels.tolist()


def whole(height: int, width: int) -> Frame:
    """A frame that shows each pixel of the original as it is."""
    return Frame((height, width), (height, width), (0, 0, height, width))


def test_boxes_by_hand() -> None:
    """The logo lies on the shirt, and the tag beyond the picture's right edge; names keep the order of the text."""
    text = '{"shirt": [[0, 1, 3, 3]], "logo": [[1, 2, 1, 1.0]], "tag": [[2, 4, 1, 9], [0, 4, 1, 1]], "none": []}'
    assert in_frame(text, whole(3, 5)) == (
        ("shirt", "logo", "tag", "none"),
        [[-1, 0, 0, 0, 2], [-1, 0, 1, 0, -1], [-1, 0, 0, 0, 2]],
    )
    assert in_frame(" {}\n", whole(1, 2)) == ((), [[-1, -1]])


def test_the_smaller_box_wins_whatever_the_order() -> None:
    large, small = [0, 0, 2, 3], [0, 1, 1, 2]
    for one, other, expected in ((large, small, [[0, 1, 1], [0] * 3]), (small, large, [[1, 0, 0], [1] * 3])):
        assert in_frame(json.dumps({"a": [one], "b": [other]}), whole(2, 3))[1] == expected
    # of equal ones the first
    assert in_frame('{"b": [[0, 0, 1, 2]], "a": [[0, 1, 1, 2]]}', whole(1, 3))[1] == [[0, 0, 1]]
    # small is what the picture shows of it: two pixels here, against three
    assert in_frame('{"b": [[-90, 0, 91, 2]], "a": [[0, 0, 1, 3]]}', whole(1, 3))[1] == [[0, 0, 1]]


def test_boxes_in_a_crop_and_in_a_pad_by_hand() -> None:
    """The centre crop of 2 x 6 shows columns 2 and 3; padded to 6 x 6 it lies in rows 2 and 3."""
    text = '{"left": [[0, 0, 2, 3]], "dot": [[1, 3, 1, 1]]}'
    assert in_frame(text, frame_of((2, 6), Resize((2, 2), "crop")))[1] == [[0, -1], [0, 1]]
    padded = in_frame(text, frame_of((2, 6), Resize((6, 6), "pad")))[1]
    assert padded == [[-1] * 6, [-1] * 6, [0, 0, 0, -1, -1, -1], [0, 0, 0, 1, -1, -1], [-1] * 6, [-1] * 6]
    # a box that reaches beyond the picture ends with the picture: the padding is no logo
    beyond = in_frame('{"logo": [[-9, 5, 99, 99]]}', frame_of((2, 6), Resize((6, 6), "pad")))[1]
    assert np.array(beyond).tolist() == [[-1] * 6] * 2 + [[-1] * 5 + [0]] * 2 + [[-1] * 6] * 2


def test_a_pixel_lies_in_a_box_where_its_centre_does() -> None:
    """2 x 4 squashed to 1 x 2: the centres are (1, 1) and (1, 3); the upper and the left edge belong to a box."""
    frame = Frame((2, 4), (1, 2), (0, 0, 2, 4))
    assert in_frame('{"a": [[1, 1, 0.5, 2]]}', frame)[1] == [[0, -1]]
    assert in_frame('{"a": [[0, 0, 1, 4]]}', frame)[1] == [[-1, -1]]
    assert in_frame('{"a": [[0.5, 1.001, 1, 2]]}', frame)[1] == [[-1, 0]]
    assert in_frame('{"a": [[0.5, 1.001, 1, 1.998]]}', frame)[1] == [[-1, -1]]


BOXES = st.tuples(st.integers(-3, 7), st.integers(-3, 9), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=200, deadline=None)
@given(
    original=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    mode=st.sampled_from(["squash", "crop", "pad"]),
    boxes=st.lists(st.tuples(st.sampled_from("abc"), BOXES), max_size=5),
)
def test_whole_boxes_are_what_they_are_as_a_label_image(
    original: tuple[int, int], size: tuple[int, int], mode: ResizeMode, boxes: list[tuple[str, tuple[int, ...]]]
) -> None:
    """Drawn pixel by pixel: each looks for its smallest box. Label 0 is no region, ``places + 1`` are."""
    height, width = original
    frame = frame_of(original, Resize(size, mode))
    given: dict[str, list[tuple[int, ...]]] = {}
    for name, (top, left, tall, wide) in boxes:
        given.setdefault(name, []).append((top, left, tall, wide))
    drawn = np.zeros(original, int)
    covered: list[tuple[int, int, NDArray[np.bool_]]] = []
    for place, some in enumerate(given.values()):
        for top, left, tall, wide in some:
            inside = np.zeros(original, bool)
            inside[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = True
            covered.append((int(inside.sum()), place, inside))
    if any(area == 0 for area, _, _ in covered):
        with pytest.raises(errors.BadBoxes, match=f"outside of its photograph of {height} x {width} pixels"):
            in_frame(json.dumps(given), frame)
        return
    for at in np.ndindex(*original):
        found = [(area, order, place) for order, (area, place, inside) in enumerate(covered) if inside[at]]
        drawn[at] = min(found)[2] + 1 if found else 0
    expected = np.maximum(labels_in_frame(drawn, frame) - 1, -1)
    assert in_frame(json.dumps(given), frame) == (tuple(given), expected.tolist())


def test_boxes_lie_where_a_viewer_sees_them(tmp_path: Path) -> None:
    """The photograph is stored lying and turned by EXIF; its boxes are those of what a viewer sees."""
    upright = np.zeros((30, 20, 3), np.uint8)
    upright[4:12, 10:18] = 250
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = PIL.Image.fromarray(upright).transpose(PIL.Image.Transpose.ROTATE_90)
    (tmp_path / "a.jpg").write_bytes(hostile.jpeg(lying, exif=exif))
    for spec in (Resize((30, 20), "squash"), Resize((24, 20), "crop"), Resize((40, 50), "pad", pad_color=(0, 0, 0))):
        loaded = ImageLoader(Access(roots=(str(tmp_path),)), ImageLimits(), spec)(str(tmp_path / "a.jpg"))
        found = np.array(in_frame('{"logo": [[4, 10, 8, 8]]}', loaded.frame)[1]) == 0
        seen = loaded.pixels[:, :, 0] > 125
        assert found.sum() > 10
        assert (found != seen).sum() <= found.any(axis=0).sum() + found.any(axis=1).sum(), spec


MANY = json.dumps({"a": [[0, 0, 1, 1]] * 257}, separators=(",", ":"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expecting value"),
        ("3", "no object with boxes for each name"),
        ("[[0, 0, 1, 1]]", "no object"),
        ("{'a': [[0, 0, 1, 1]]}", "Expecting property name"),
        ('{"a": [0, 0, 1, 1]}', "a box of 'a' is no list of four numbers"),
        ('{"a": 3}', "'a' has no list of boxes"),
        ('{"a": null}', "'a' has no list of boxes"),
        ('{"a": {"b": [[0, 0, 1, 1]]}}', "'a' has no list of boxes"),
        ('{"a": [[0, 0, 1]]}', "a box of 'a'"),
        ('{"a": [[0, 0, 1, 1, 1]]}', "a box of 'a'"),
        ('{"a": [[0, 0, 1, "1"]]}', "a box of 'a'"),
        ('{"a": [[0, 0, 1, true]]}', "a box of 'a'"),
        ('{"a": [[0, null, 1, 1]]}', "a box of 'a'"),
        ('{"a": [[0, [0], 1, 1]]}', "a box of 'a'"),
        ('{"a": [[0, 0, 0, 1]]}', "a height and a width above 0"),
        ('{"a": [[0, 0, 1, -1]]}', "a height and a width above 0"),
        ('{"a": [[NaN, 0, 1, 1]]}', "NaN is no JSON"),
        ('{"a": [[0, 0, Infinity, 1]]}', "Infinity is no JSON"),
        ('{"a": [[0, 0, 1e999, 1]]}', "a box of 'a'"),
        ('{"a": [[0, 0, 1, ' + "9" * 5000 + "]]}", "a box of 'a'"),
        ('{"a": [[-1e308, 0, 1e308, 1]]}', "outside of its photograph"),
        ('{"a": [[1e308, 1e308, 1e308, 1e308]]}', "outside of its photograph"),
        ('{"a": [[0, 0, 1e-320, 1]], "a": []}', "'a' stands in it twice"),
        ('{"": []}', "'' is no name of a region"),
        (r'{"\u0000": []}', r"'\\x00' is no name"),
        (r'{"\ud800": []}', r"'\\ud800' is no name"),
        ('{"(elsewhere)": []}', "names what is no region of yours"),
        ('{"(label 3)": []}', "names what is no region of yours"),
        (json.dumps({str(at): [] for at in range(65)}), "has 65 names, at most 64"),
        (MANY, "has 257 boxes, at most 256"),
        ("[" * 8000, "recursion"),
        ('{"a": [' + "[0, 0, 1, 1], " * 10**6 + "[0, 0, 1, 1]]}", "more than 8,192 characters"),
        ('{"a": []}' + " " * MAX_BOXES_TEXT, "more than 8,192 characters"),
    ],
)
def test_what_is_no_boxes_is_refused(text: str, told: str) -> None:
    with pytest.raises(errors.BadBoxes, match=told) as caught:
        in_frame(text, whole(3, 5))
    message = str(caught.value)
    assert "[top, left, height, width]" in message
    assert message.isprintable()
    assert len(message) < 400


def test_as_many_boxes_as_allowed_are_read() -> None:
    most = {str(at): [[0, 0, 1, 1]] * 4 for at in range(64)}
    text = json.dumps(most)
    assert {name: len(some) for name, some in read_boxes(text).items()} == dict.fromkeys(most, 4)
    assert read_boxes('{"a": []}'.ljust(MAX_BOXES_TEXT)) == {"a": ()}
    assert read_boxes('{"a": [[-1, 2.5, 3e0, 0.1]]}') == {"a": (Box(-1.0, 2.5, 3.0, 0.1),)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=8,
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 1e308, -1e308, 5e-324])
NEARLY_BOXES = st.dictionaries(st.text(max_size=3), st.lists(st.lists(NUMBERS, min_size=3, max_size=5) | JSON))


@settings(max_examples=300, deadline=None)
@given(
    text=st.text() | JSON.map(json.dumps) | NEARLY_BOXES.map(json.dumps),
    frame=st.sampled_from([whole(3, 5), frame_of((300, 200), Resize((4, 6), "pad"))]),
)
def test_any_text_is_boxes_or_bad_boxes(text: str, frame: Frame) -> None:
    try:
        boxes = read_boxes(text)
        found = boxes_in_frame(boxes, frame)
    except errors.BadBoxes:
        return
    assert found.labels.shape == frame.size
    assert -1 <= found.labels.min() <= found.labels.max() < max(len(boxes), 1)
