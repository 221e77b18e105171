"""Legends of regions, and label images read for a photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hostile
from transforms.core import errors
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.images import ImageLimits, Resize, frame_of
from transforms.core.records import Frame, Product
from transforms.inputs.region_files import RegionReader, source_of
from transforms.inputs.region_legend import MAX_BYTES, Legend, read_legend
from transforms.serving.load_image import ImageLoader
from transforms.storage import Access

LEGEND = Legend({"ground": 0, "body": 1, "sleeve": 2}, {"colour": ("body", "sleeve"), "sleeve": ("body",)})


def written(folder: Path, content: Any) -> str:
    path = folder / "regions.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


# The legend


def test_a_legend_is_read(tmp_path: Path) -> None:
    content = {
        "regions": {"ground": 0, "body": 1, "sleeve": 2},
        "columns": {"colour": ["body", "sleeve"], "sleeve": ["body"]},
    }
    assert read_legend(written(tmp_path, content)) == LEGEND
    del content["columns"]
    assert read_legend(written(tmp_path, content)) == Legend({"ground": 0, "body": 1, "sleeve": 2}, {})
    assert read_legend(written(tmp_path, {"regions": {"last": 65_535}})).labels("last") == {65_535}


def test_a_name_is_a_region_or_else_a_column() -> None:
    assert LEGEND.labels("ground") == {0}
    assert LEGEND.labels("colour") == {1, 2}
    assert LEGEND.labels("sleeve") == {2}  # as a column it would be 1
    with pytest.raises(
        UsageError, match=r"^'cuff' is no region .* 'ground', 'body', 'sleeve', and of the columns 'colour', 'sleeve'$"
    ):
        LEGEND.labels("cuff")
    with pytest.raises(UsageError, match=r"tells of the regions 'body'$"):
        Legend({"body": 1}).labels("colour")


def test_what_a_region_shows_is_known_where_the_legend_says_it() -> None:
    assert LEGEND.shows("sleeve", "colour=red") is True
    assert LEGEND.shows("ground", "colour=red") is False
    assert LEGEND.shows("sleeve", "sleeve=long=ish") is False
    assert LEGEND.shows("body", "brand=Ada") is None
    assert LEGEND.shows("(elsewhere)", "colour=red") is None
    assert LEGEND.shows("(label 7)", "colour=red") is None
    assert Legend({"body": 1}).shows("body", "colour=red") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "legend"),
        (b"{", "Expecting"),
        (b"[" * 100_000, "recursion"),
        (b'{"regions": {"a": ' + b"1" * 10_000 + b"}}", "digits"),
        (b'{"regions": {"a": NaN}}', "label of 'a'"),
        (b'{"regions": {"a": 1, "a": 2}}', "'a' stands in it twice"),
        (b'{"regions": {"a": 1}, "regions": {"b": 1}}', "'regions' stands in it twice"),
        ([], "no object 'regions'"),
        ({}, "no object 'regions'"),
        ({"regions": {}}, "no object 'regions'"),
        ({"regions": ["body"]}, "no object 'regions'"),
        ({"regions": {"body": -1}}, "label of 'body' is no whole number from 0 to 65,535"),
        ({"regions": {"body": 65_536}}, "label of 'body'"),
        ({"regions": {"body": True}}, "label of 'body'"),
        ({"regions": {"body": 1.0}}, "label of 'body'"),
        ({"regions": {"body": "1"}}, "label of 'body'"),
        ({"regions": {"bo\x1bdy\ud800": None}}, r"label of 'bo\\x1bdy\\ud800'"),
        ({"regions": {"bo\x00dy": 1}}, r"'bo\\x00dy' is no name of a region"),
        ({"regions": {"\ud800": 1}}, r"'\\ud800' is no name of a region"),
        ({"regions": {" ": 1}}, "' ' is no name of a region"),
        ({"regions": {"(elsewhere)": 1}}, "'\\(elsewhere\\)' names what is no region of yours"),
        ({"regions": {"(label 7)": 1}}, "'\\(label 7\\)' names what is no region of yours"),
        ({"regions": {"body": 1}, "colums": {"colour": ["body"]}}, "'colums' is neither"),
        ({"regions": {"body": 1}, "columns": None}, "'columns' is no object"),
        ({"regions": {"body": 1}, "columns": {"colour": "body"}}, "column 'colour' has no list"),
        ({"regions": {"body": 1}, "columns": {"colour": []}}, "column 'colour' has no list"),
        ({"regions": {"body": 1}, "columns": {"colour": [1]}}, "column 'colour' has no list"),
        ({"regions": {"body": 1}, "columns": {"colour": [["body"]]}}, "column 'colour' has no list"),
        ({"regions": {"body": 1}, "columns": {"colour": ["body", "cuff"]}}, "shown by 'cuff', which is no region"),
    ],
)
def test_what_is_no_legend_is_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        read_legend(written(tmp_path, content))
    message = str(caught.value)
    assert "regions.json is no legend" in message
    assert "`whymatch demo`" in message
    assert message.isprintable()
    assert len(message) < 600


def test_a_legend_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"regions\.json"):
        read_legend(str(tmp_path / "regions.json"))
    with pytest.raises(UsageError, match="more than the 1,048,576 bytes"):
        read_legend(written(tmp_path, b" " * (MAX_BYTES + 1)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["regions", "columns", "a"]), below, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(content=st.dictionaries(st.sampled_from(["regions", "columns"]), JSON) | JSON)
def test_any_json_is_a_legend_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    address = written(tmp_path_factory.getbasetemp(), content)
    try:
        legend = read_legend(address)
    except UsageError:
        return
    for name in (*legend.regions, *legend.columns):
        assert legend.labels(name) <= set(legend.regions.values())


# Label images of photographs


def labels_at(path: Path, labels: Any, mode: Any = np.uint8) -> str:
    PIL.Image.fromarray(np.asarray(labels, mode)).save(path)
    return str(path)


def reader(folder: Path, **limits: int) -> RegionReader:
    return RegionReader(Access(roots=(str(folder),)), ImageLimits(**limits), LEGEND)


def test_the_region_in_the_frame_by_hand(tmp_path: Path) -> None:
    address = labels_at(tmp_path / "a.png", [[0, 1, 1, 2], [0, 0, 1, 2]])
    frame = frame_of((2, 4), Resize((4, 4), "pad"))
    found = reader(tmp_path).region(address, frame, LEGEND.labels("colour"))
    assert found.dtype == np.bool_
    assert found.astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert not reader(tmp_path).region(address, frame, frozenset([7])).any()
    assert not reader(tmp_path).region(address, frame, frozenset()).any()
    ground = reader(tmp_path).region(address, frame, frozenset([0]))
    assert ground.sum() == 3  # what is padded is no ground


def test_a_region_lies_where_its_photograph_shows_it(tmp_path: Path) -> None:
    """The photograph is stored lying and turned by EXIF; its labels were drawn on what a viewer sees."""
    upright = np.zeros((30, 20, 3), np.uint8)
    upright[4:12, 10:] = 250
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = PIL.Image.fromarray(upright).transpose(PIL.Image.Transpose.ROTATE_90)
    (tmp_path / "a.jpg").write_bytes(hostile.jpeg(lying, exif=exif))
    labels = labels_at(tmp_path / "a.png", upright[:, :, 0] // 250 * 2)
    for spec in (Resize((15, 10), "squash"), Resize((24, 24), "crop"), Resize((40, 50), "pad", pad_color=(0, 0, 0))):
        loaded = ImageLoader(Access(roots=(str(tmp_path),)), ImageLimits(), spec)(str(tmp_path / "a.jpg"))
        found = reader(tmp_path).region(labels, loaded.frame, LEGEND.labels("sleeve"))
        seen = loaded.pixels[:, :, 0] > 125
        assert found.sum() > 10
        assert (found != seen).sum() <= found.any(axis=0).sum() + found.any(axis=1).sum(), spec


def test_a_label_image_of_another_size_is_refused(tmp_path: Path) -> None:
    address = labels_at(tmp_path / "a.png", np.zeros((2, 4)))
    frame = Frame(original=(4, 2), size=(4, 4), box=(0, 0, 4, 2))
    with pytest.raises(errors.NotAnImage, match=r"has 2 x 4 pixels .* its photograph 4 x 2"):
        reader(tmp_path).region(address, frame, frozenset([0]))


def test_bad_label_images_are_pair_errors(tmp_path: Path) -> None:
    frame = Frame(original=(2, 4), size=(4, 4), box=(0, 0, 2, 4))
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    colour = labels_at(inside / "rgb.png", np.zeros((2, 4, 3)))
    (inside / "cut.png").write_bytes((inside / "rgb.png").read_bytes()[:40])
    (inside / "empty.png").write_bytes(b"")
    expected: dict[str, type[PairError]] = {
        labels_at(outside / "a.png", np.zeros((2, 4))): errors.AddressRefused,
        str(inside / "absent.png"): errors.NotFound,
        str(inside / ".." / "outside" / "a.png"): errors.AddressRefused,
        "https://example.com/a.png": errors.AddressRefused,
        str(inside / "empty.png"): errors.EmptyImage,
        str(inside / "cut.png"): errors.DamagedImage,
        colour: errors.NotAnImage,
    }
    for address, kind in expected.items():
        with pytest.raises(kind):
            reader(inside).region(address, frame, frozenset([0]))
    large = labels_at(inside / "large.png", np.zeros((2, 4)))
    with pytest.raises(errors.ImageTooLarge):
        reader(inside, max_pixels=7).region(large, frame, frozenset([0]))


# All regions of a frame


def test_all_regions_of_a_label_image_by_hand(tmp_path: Path) -> None:
    """2 x 4 in a frame of 4 x 4; 9 and 7 are no labels of the legend, and what is padded is no region."""
    address = labels_at(tmp_path / "a.png", [[0, 1, 9, 2], [0, 7, 9, 9]])
    found = reader(tmp_path).frame(address, frame_of((2, 4), Resize((4, 4), "pad")))
    assert found.names == ("ground", "body", "sleeve", "(label 7)", "(label 9)")
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [[-1] * 4, [0, 1, 4, 2], [0, 3, 4, 4], [-1] * 4]


def test_labels_at_both_ends_and_one_label_with_two_names(tmp_path: Path) -> None:
    address = labels_at(tmp_path / "a.png", [[0, 65_535, 65_534]], np.uint16)
    legend = Legend({"last": 65_535, "first": 0, "also last": 65_535})
    of = RegionReader(Access(roots=(str(tmp_path),)), ImageLimits(), legend)
    frame = Frame(original=(1, 3), size=(1, 4), box=(0, 0, 1, 4))
    found = of.frame(address, frame)
    assert [(*found.names, None)[label] for label in found.labels[0]] == ["first", "last", "(label 65534)", None]
    assert "also last" not in found.names


def test_a_photograph_is_no_label_image(tmp_path: Path) -> None:
    """64 labels beside the legend's three are taken, 65 are not."""
    frame = Frame(original=(1, 68), size=(1, 68), box=(0, 0, 1, 68))
    row = np.arange(68)
    found = reader(tmp_path).frame(labels_at(tmp_path / "a.png", [np.minimum(row, 66)]), frame)
    assert len(found.names) == 3 + 64
    assert found.names[-1] == "(label 66)"
    with pytest.raises(errors.NotAnImage, match="has 65 labels that the legend does not name, at most 64"):
        reader(tmp_path).frame(labels_at(tmp_path / "b.png", [row]), frame)


def test_bad_label_images_have_no_regions(tmp_path: Path) -> None:
    frame = Frame(original=(2, 4), size=(4, 4), box=(0, 0, 2, 4))
    with pytest.raises(errors.NotFound):
        reader(tmp_path).frame(str(tmp_path / "absent.png"), frame)
    with pytest.raises(errors.NotAnImage, match=r"has 4 x 2 pixels .* its photograph 2 x 4"):
        reader(tmp_path).frame(labels_at(tmp_path / "a.png", np.zeros((4, 2))), frame)


def test_a_label_image_wins_over_boxes(tmp_path: Path) -> None:
    address, boxes = labels_at(tmp_path / "a.png", [[1, 2]]), '{"logo": [[0, 1, 1, 1]]}'
    frame = Frame(original=(1, 2), size=(1, 2), box=(0, 0, 1, 2))
    expected = {
        Product("1", "x.jpg"): None,
        Product("1", "x.jpg", regions=address): [1, 2],
        Product("1", "x.jpg", boxes=boxes): [-1, 0],
        Product("1", "x.jpg", regions=address, boxes=boxes): [1, 2],
    }
    for product, labels in expected.items():
        source = source_of(product)
        found = None if source is None else reader(tmp_path).frame(source, frame).labels[0].tolist()
        assert found == labels
