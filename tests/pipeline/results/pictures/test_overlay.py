"""The overlay lies where it should, and the picture of pairs says what the tables say."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.results.pictures import heat, sheet
from pipeline.results.pictures.overlay import PAIR_BYTES, caption, draw_pairs
from pipeline.results.pictures.sheet import TILE, tile_origin
from tests.support.tables.rows import attribute, explanation, publish, run
from transforms import tables
from transforms.core.errors import UsageError
from transforms.core.imaging import images
from transforms.core.imaging.images import Resize
from transforms.core.records import Frame
from transforms.storage import Access

pytest.importorskip("duckdb")

Pixels = NDArray[np.uint8]


def peak_map(shape: tuple[int, int], row: float, column: float, width: float = 1.5) -> NDArray[np.float64]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)))


def hottest(drawn: Pixels) -> tuple[float, float]:
    """The centre of the most coloured pixels, as (y, x): the more evidence, the less green."""
    green = drawn[..., 1].astype(int)
    rows, columns = np.nonzero(green <= green.min() + 2)
    return float(rows.mean()) + 0.5, float(columns.mean()) + 0.5


# Where the overlay lies


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        # 80 high, 60 wide, to 30x30: at a scale of 1/2, rows 10 to 70 are seen; in them, cell (3, 20) has its centre at
        # (7, 41)
        ((80, 60), (17.0, 41.0)),
        ((60, 80), (7.0, 51.0)),
    ],
)
def test_the_overlay_of_a_cropped_60x80_image_by_hand(original: tuple[int, int], expected: tuple[float, float]) -> None:
    photograph = np.full((*original, 3), 255, np.uint8)
    _, frame = images.resize(photograph, Resize((30, 30), "crop"))
    drawn = heat.overlay(photograph, peak_map((30, 30), 3, 20), frame)
    assert drawn.shape == photograph.shape
    assert hottest(drawn) == pytest.approx(expected, abs=0.51)
    strong = heat.strength(peak_map((30, 30), 3, 20), frame)
    seen = np.zeros(original, bool)
    seen[(slice(10, 70), slice(None)) if original[0] == 80 else (slice(None), slice(10, 70))] = True
    np.testing.assert_array_equal(~np.isnan(strong), seen)
    veil = drawn[~seen]
    assert (veil == veil[0]).all()  # flat over a white photograph: no colour where the model saw nothing
    assert np.ptp(veil[0].astype(int)) < 15


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(80, 60), (60, 80)]),
    st.sampled_from([Resize((30, 30), "crop"), Resize((24, 20), "crop", shorter=28), Resize((18, 40), "pad"),
                     Resize((33, 21), "squash")]),
    st.floats(0.25, 0.75),
    st.floats(0.25, 0.75),
)  # fmt: skip
def test_what_the_model_saw_is_what_the_overlay_marks(
    original: tuple[int, int], spec: Resize, down: float, across: float
) -> None:
    """A dot in the photograph, found again in the model's frame, marked there, is marked at the dot."""
    y, x = int(original[0] * down), int(original[1] * across)
    photograph = np.full((*original, 3), 255, np.uint8)
    photograph[y - 2 : y + 3, x - 2 : x + 3] = 0
    small, frame = images.resize(photograph, spec)
    dark = 255.0 - small.mean(axis=-1)
    row, column = (np.sum(dark * axis) / dark.sum() for axis in np.mgrid[: spec.size[0], : spec.size[1]])
    white = np.full_like(photograph, 255)
    for shape in (spec.size, (14, 14)):  # a map of the frame's size, and a coarse one as it is stored
        cells = ((row + 0.5) * shape[0] / spec.size[0] - 0.5, (column + 0.5) * shape[1] / spec.size[1] - 0.5)
        marked = heat.strength(peak_map(shape, *cells), frame)
        found = np.argwhere(np.nan_to_num(marked) >= np.nanmax(marked) - 1e-6).mean(axis=0)
        a_cell = max(frame.box[2] / shape[0], frame.box[3] / shape[1])
        assert found == pytest.approx((y, x), abs=a_cell + 0.5)
        drawn = heat.overlay(white, peak_map(shape, *cells), frame)
        assert hottest(drawn) == pytest.approx((y + 0.5, x + 0.5), abs=a_cell + 1.5)


def test_a_scaled_copy_carries_the_same_map() -> None:
    photograph = np.full((160, 120, 3), 255, np.uint8)
    _, frame = images.resize(photograph, Resize((30, 30), "crop"))
    small = heat.scaled(frame, (80, 60))
    assert small == Frame((80, 60), (30, 30), (10.0, 0.0, 60.0, 60.0))
    strong = heat.strength(peak_map((7, 7), 2, 5), frame)
    halves = strong.reshape(80, 2, 60, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(heat.strength(peak_map((7, 7), 2, 5), small), halves, atol=0.02)


def test_only_evidence_for_the_match_is_coloured() -> None:
    photograph = np.full((4, 6, 3), 100, np.uint8)
    frame = Frame((4, 6), (4, 6), (0.0, 0.0, 4.0, 6.0))
    plain = round(0.6 * 100 + 0.4 * 255)
    for flat in (np.zeros((4, 6)), np.full((4, 6), -3.0)):
        assert (heat.overlay(photograph, flat, frame) == plain).all()
    signed = np.zeros((4, 6))
    signed[1, 1], signed[2, 4] = 2.0, -9.0
    drawn = heat.overlay(photograph, signed, frame)
    assert (drawn == plain).all(axis=-1).sum() == 23
    assert drawn[1, 1, 0] > drawn[1, 1, 1] + 50
    doubled = heat.overlay(photograph, 2 * signed, frame)
    np.testing.assert_array_equal(drawn, doubled)
    with pytest.raises(ValueError, match="frame says"):
        heat.overlay(photograph[:3], signed, frame)


def test_colours_are_ordered_by_lightness() -> None:
    ramp = heat.color(np.linspace(0, 1, 101))
    linear = np.where(ramp / 255 <= 0.04045, ramp / 255 / 12.92, ((ramp / 255 + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16  # CIE L*
    steps = -np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 4 * steps.mean()


# The picture of pairs


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Eight queries of three categories and their references, photographs of 80 x 60, cropped by the model."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows, photographs = [], []
    for number in range(16):
        path = tmp_path / "images" / f"{number}.png"
        pixels = np.full((80, 60, 3), 250, np.uint8)
        pixels[20:60, 15:45] = rng.integers(0, 200, 3)
        PIL.Image.fromarray(pixels).save(path)
        photographs.append(
            {"address": str(path), "image_sha256": images.sha256(path.read_bytes()), "height": 80, "width": 60}
        )
    _, frame = images.resize(pixels, Resize((30, 30), "crop"))
    for number in range(8):
        name = ("category=dress", "category=dress", "category=shoe", "category=hat")[number % 4]
        top = [attribute(name, 0.7, on_reference=(True, False, None)[number % 3])]
        for rank in (2, 1):
            reference = number + 8 if rank == 1 else (number + 1) % 8
            given = cropped(frame, peak_map((10, 10), 3, 5)) | {
                "query": photographs[number]["address"], "reference": photographs[reference]["address"],
                "rank": rank, "border_share": number / 10,
            }  # fmt: skip
            rows.append({**explanation(f"q{number}", f"r{reference}", **given), "top": top})
    out = str(tmp_path / "tables")
    publish(out, "explanations", "r1", rows)
    publish(out, "images", "r1", photographs)
    publish(out, "products", "r1", [product(number) for number in range(8)])
    publish(out, "runs", "r1", [run(explained=16, failed=0)])
    return tmp_path


def cropped(frame: Frame, saliency: NDArray[np.float64]) -> tables.Row:
    top, left, height, width = frame.box
    return {
        "map": saliency.ravel().tolist(), "map_height": saliency.shape[0], "map_width": saliency.shape[1],
        "input_height": frame.size[0], "input_width": frame.size[1],
        "original_height": frame.original[0], "original_width": frame.original[1],
        "crop_top": top, "crop_left": left, "crop_height": height, "crop_width": width,
    }  # fmt: skip


def product(number: int) -> tables.Row:
    attributes = [f"season={('summer', 'winter')[number % 2]}"]
    return {"product_id": f"q{number}", "image": f"/images/{number}.png", "attributes": attributes, "split": None}


def shown(shop: Path, name: str = "pairs.png", **options: Any) -> tuple[list[dict[str, Any]], Pixels]:
    options = {"access": Access(roots=(str(shop),)), **options}
    pairs = draw_pairs(str(shop / "tables"), picture=shop / name, **options)
    return pairs, np.array(PIL.Image.open(shop / name).convert("RGB"))


def tile(picture: Pixels, cell: int, number: int) -> Pixels:
    y, x = tile_origin(cell, number)
    return picture[y : y + TILE, x : x + TILE]


def test_the_picture_shows_each_map_at_its_place(shop: Path) -> None:
    pairs, picture = shown(shop, count=6)
    assert len(pairs) == 6
    assert (shop / "pairs.png").stat().st_size <= 6 * PAIR_BYTES
    scale = TILE / 80
    left = (TILE - round(60 * scale)) / 2
    # the centre of cell (3, 5) of 10 is (21, 33) in the 60 x 60 pixels that the model saw, from row 10 on
    expected = ((10 + 21) * scale, left + 33 * scale)
    for cell, pair in enumerate(pairs):
        assert hottest(tile(picture, cell, 1)) == pytest.approx(expected, abs=3)
        for number, address in ((0, pair["query"]), (2, pair["reference"])):
            middle = np.array(PIL.Image.open(address))[40, 30].astype(int)
            found = tile(picture, cell, number)[TILE // 2, TILE // 2].astype(int)
            assert np.abs(found - middle).max() <= 8
        assert pair["rank"] == 1


def test_pairs_are_spread_and_drawn_alike_again(shop: Path) -> None:
    pairs, picture = shown(shop, count=3)
    assert [pair["top"][0]["name"] for pair in pairs] == ["category=dress", "category=hat", "category=shoe"]
    again, same = shown(shop, "again.png", count=3)
    assert [pair["pair_id"] for pair in again] == [pair["pair_id"] for pair in pairs]
    np.testing.assert_array_equal(picture, same)
    seasons, _ = shown(shop, count=4, spread="season")
    assert sorted(int(pair["query_id"][1:]) % 2 for pair in seasons) == [0, 0, 1, 1]
    everything, _ = shown(shop, count=50)
    assert len({pair["query_id"] for pair in everything}) == len(everything) == 8


def test_a_condition_and_a_run_choose(shop: Path) -> None:
    pairs, _ = shown(shop, where="border_share > 0.55 -- the border", count=9)
    assert {pair["query_id"] for pair in pairs} == {"q6", "q7"}
    out = str(shop / "tables")
    publish(out, "explanations", "r2", [explanation("later", "one")])
    publish(out, "runs", "r2", [run(explained=1, failed=0, minutes=5)])
    assert [pair["query_id"] for pair in shown(shop)[0]] == ["later"]
    assert len(shown(shop, run_id="r1", count=2)[0]) == 2
    for options, message in [
        ({"run_id": "r9"}, "no complete run 'r9'; it holds r1, r2"),
        ({"where": "similarity > 2"}, "fulfils: similarity > 2"),
        ({"where": "nonsense = 1"}, "nonsense"),
        ({"count": 0}, "--count must be at least 1"),
        ({"name": "pairs.gif"}, "must end in .png"),
        ({"name": "no/folder.png"}, "cannot write"),
    ]:
        with pytest.raises(UsageError, match=message):
            shown(shop, **options)  # type: ignore[arg-type]


def test_an_image_that_cannot_be_shown_is_a_grey_tile(shop: Path) -> None:
    os.remove(shop / "images/8.png")  # a reference
    (shop / "images/1.png").write_bytes((shop / "images/2.png").read_bytes())  # another photograph than was audited
    pairs, picture = shown(shop, where="query_id IN ('q0', 'q1')")
    of = {pair["query_id"]: cell for cell, pair in enumerate(pairs)}
    blank = {(query, number): is_grey(tile(picture, cell, number)) for query, cell in of.items() for number in range(3)}
    assert blank == {
        ("q0", 0): False, ("q0", 1): False, ("q0", 2): True, ("q1", 0): True, ("q1", 1): True, ("q1", 2): False
    }  # fmt: skip
    nothing, closed = shown(shop, access=Access(), where="query_id = 'q4'")
    assert len(nothing) == 1
    assert all(is_grey(tile(closed, 0, number)) for number in range(3))


def is_grey(drawn: Pixels) -> bool:
    return bool(np.ptp(drawn.astype(int), axis=-1).max() < 30 and 228 <= np.median(drawn) <= 240)


def test_captions_say_what_the_tables_say() -> None:
    row = {
        **explanation("a\u202eb", "c\x1b[2J", rank=3),
        "top": [attribute("pattern=striped", 0.8, on_reference=False)],
    }
    lines = caption(row)
    assert [line.text for line in lines] == [
        r"a\u202eb  ·  c\x1b[2J",
        "similarity 0.750, rank 3  ·  rise",
        "pattern=striped: confidence 0.90, match with the map 0.60",
        "reference: does NOT have it, says the catalogue (the model's confidence: 0.80)",
    ]
    assert [line.warning for line in lines] == [False, False, False, True]
    chance = caption({**row, "explained": False, "unexplained_reason": "attribute_by_chance"})
    assert chance[2].text == "NOT explained, attribute by chance; first pattern=striped, match 0.60"
    assert chance[2].warning
    under = caption({**row, "condition": "tops\u202e+hats", "side": "reference"})
    assert under[1].text == r"similarity 0.750, rank 3  ·  rise of the reference  ·  tops\u202e+hats"
    plain = caption({**explanation("a", "b", border_share=0.31, border_area=0.4375), "rank": None})
    assert [line.text for line in plain] == [
        "a  ·  b",
        "similarity 0.750  ·  rise",
        "the border has 31% of the evidence, 44% of the area",
    ]


def test_a_picture_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    wild = PIL.Image.fromarray(noise).resize((900, 600), PIL.Image.Resampling.BICUBIC)
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG")):
        data = sheet.encode(wild, suffix, 100_000)
        assert len(data) <= 100_000 < len(sheet.encode(wild, suffix, 10**9))
        assert PIL.Image.open(io.BytesIO(data)).format == kind
