"""The drawn catalogue: deterministic, labelled as it is drawn, and with the badge where the truth says."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFilter

from pipeline import demo
from pipeline.demo.drawing import BADGE_SIDE, Photograph, badge_tile, photograph
from pipeline.demo.products import BADGE_BRAND, BRANDS, COLOURS, COLUMNS, Garment, garment, product_id, split
from pipeline.demo.recommended import Recommendation, broken, likeness, recommended
from pipeline.demo.shapes import REGIONS, REGIONS_OF
from transforms.core.errors import UsageError
from transforms.core.imaging.images import ImageLimits, Resize, frame_of
from transforms.core.records import Image, Product
from transforms.inputs import catalogue
from transforms.inputs.region_files import RegionReader
from transforms.inputs.region_legend import read_legend
from transforms.storage import Access

PLAIN = Garment("garment-0007", "dress", "red", "plain", "long", "round", "aster")


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 drawn products, seed 3."""
    folder = tmp_path_factory.mktemp("demo") / "catalogue"
    demo.draw(folder, products=60, seed=3)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def intact(folder: Path) -> list[dict[str, str]]:
    return [row for row in read_csv(folder / "catalogue.csv") if row["split"] != "broken"]


def pixels(path: Path) -> Image:
    with PillowImage.open(path) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def region(picture: Photograph, *names: str) -> NDArray[np.bool_]:
    return np.asarray(np.isin(picture.labels, [REGIONS.index(name) for name in names]), np.bool_)


def grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    sheet = PillowImage.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * by + 1))
    return np.asarray(sheet, np.uint8) > 0


def changed(one: Photograph, other: Photograph, by: int = 3) -> NDArray[np.bool_]:
    difference = np.abs(one.image.astype(int) - other.image.astype(int)).max(axis=2)
    return np.asarray(difference > by, np.bool_)


# --- the folder


def test_drawing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        demo.draw(tmp_path / name, products=20, seed=5)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 4 + 22 + 21  # tables and legend, label images, photographs (one is missing)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_another_seed_draws_another_catalogue(tmp_path: Path, drawing: Path) -> None:
    demo.draw(tmp_path, products=60, seed=4)
    assert (tmp_path / "catalogue.csv").read_text() != (drawing / "catalogue.csv").read_text()


def test_a_smaller_catalogue_is_the_beginning_of_a_larger_one(tmp_path: Path, drawing: Path) -> None:
    demo.draw(tmp_path, products=25, seed=3)
    assert intact(tmp_path) == intact(drawing)[:25]
    assert read_csv(tmp_path / "truth.csv")[:25] == read_csv(drawing / "truth.csv")[:25]
    for row in read_csv(tmp_path / "catalogue.csv"):
        if row["id"] != "missing-1":
            assert (tmp_path / row["image"]).read_bytes() == (drawing / row["image"]).read_bytes()
        regions = f"regions/{row['id']}.png"
        assert (tmp_path / regions).read_bytes() == (drawing / regions).read_bytes()


def test_catalogue_reads_back_as_what_was_drawn(drawing: Path) -> None:
    rows = intact(drawing)
    assert list(rows[0]) == ["id", "image", "split", "regions", *COLUMNS]
    assert [row["id"] for row in rows] == [product_id(number) for number in range(1, 61)]
    for row in rows:
        drawn = garment(3, row["id"])
        assert {column: row[column] for column in COLUMNS} == drawn.cells()
        assert (row["sleeve"] == "") == (row["neckline"] == "") == (row["category"] in {"trousers", "skirt", "bag"})
        assert row["split"] == split(row["id"])
        assert pixels(drawing / row["image"]).shape == (128, 96, 3)


def test_one_image_is_damaged_and_one_is_missing(drawing: Path) -> None:
    rows = {row["id"]: row for row in read_csv(drawing / "catalogue.csv") if row["split"] == "broken"}
    assert set(rows) == {"damaged-1", "missing-1"}
    assert not (drawing / rows["missing-1"]["image"]).exists()
    data = (drawing / rows["damaged-1"]["image"]).read_bytes()
    with PillowImage.open(io.BytesIO(data)) as image:
        assert image.size == (96, 128)  # the head is sound, so that only decoding finds the damage
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_summary_counts_what_lies_in_the_folder(tmp_path: Path) -> None:
    drawn = demo.draw(tmp_path, products=40, queries=6, references=3)
    pairs = read_csv(drawn.manifest)
    assert (drawn.products, drawn.queries, drawn.pairs) == (40, 7, 6 * 3 + 2) == (40, 7, len(pairs))
    assert drawn.badged == sum(row["brand"] == BADGE_BRAND for row in intact(tmp_path))
    assert "20 pairs of 7 queries" in str(drawn)
    assert str(drawn.catalogue) in str(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"products": 19}, "cannot draw 19 products"),
        ({"seed": -1}, "seed is -1"),
        ({"queries": 0}, "queries is 0"),
        ({"references": 0}, "references is 0"),
    ],
)
def test_impossible_drawings_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        demo.draw(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "catalogue.csv").write_text("mine")
    with pytest.raises(UsageError, match="no drawn catalogue"):
        demo.draw(tmp_path, products=20)
    with pytest.raises(UsageError, match="is a file"):
        demo.draw(tmp_path / "catalogue.csv", products=20)
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.csv"]
    assert (tmp_path / "catalogue.csv").read_text() == "mine"


# --- the products


def test_default_catalogue_has_enough_of_everything() -> None:
    garments = [garment(0, product_id(number)) for number in range(1, 601)]
    splits = Counter(split(g.id) for g in garments)
    for name, share in (("train", 360), ("valid", 90), ("test", 150)):
        assert abs(splits[name] - share) <= 0.1 * 600  # 5 standard deviations of a fair hash
    tested = [g for g in garments if split(g.id) == "test"]
    assert sum(g.badged for g in tested) >= 30
    trained = [g for g in garments if split(g.id) == "train"]
    for column in COLUMNS:
        counts = Counter(getattr(g, column) for g in trained if getattr(g, column) is not None)
        assert min(counts.values()) >= 25, (column, counts)


def test_brand_tells_nothing_about_the_other_attributes() -> None:
    """Mutual information of independent columns: about (r - 1)(c - 1) / 2n nats, far below that of a column itself."""
    garments = [garment(0, product_id(number)) for number in range(4000)]
    for column in ("category", "colour", "pattern", "sleeve", "neckline"):
        table = Counter((g.brand, getattr(g, column)) for g in garments)
        brands, values = Counter(g.brand for g in garments), Counter(getattr(g, column) for g in garments)
        information = sum(
            n / 4000 * np.log(n * 4000 / (brands[brand] * values[value])) for (brand, value), n in table.items()
        )
        freedom = (len(brands) - 1) * (len(values) - 1)
        assert information < 3 * freedom / (2 * 4000), column
    assert Counter(g.brand for g in garments)[BADGE_BRAND] / 4000 == pytest.approx(BRANDS[BADGE_BRAND], abs=0.03)


# --- the picture


def test_regions_are_those_of_the_attributes(drawing: Path) -> None:
    legend = json.loads((drawing / "regions.json").read_text())
    assert list(legend["columns"]) == list(COLUMNS)
    for row in intact(drawing):
        masks = {name: demo.region_mask(drawing, row["id"], name) for name in legend["regions"]}
        assert np.array_equal(sum(mask.astype(int) for mask in masks.values()), np.ones((128, 96)))
        assert masks["body"].mean() > 0.05
        assert masks["ground"].mean() > 0.3
        assert masks["sleeve"].any() == (row["sleeve"] in {"short", "long"}), row
        assert masks["neckline"].any() == (row["neckline"] != ""), row
        assert masks["badge"].any() == (row["brand"] == BADGE_BRAND), row
        union = masks["body"] | masks["sleeve"]
        assert np.array_equal(demo.attribute_mask(drawing, row["id"], "colour"), union)


@pytest.mark.parametrize("name", ["sleeve", "colour", "badge", "ground"])
def test_the_catalogue_names_the_label_images(drawing: Path, name: str) -> None:
    """What an evaluation reads by the catalogue is the truth, and is of the size of the photograph."""
    legend = read_legend(str(drawing / "regions.json"))
    reader = RegionReader(Access(roots=(str(drawing),)), ImageLimits(), legend)
    frame = frame_of((128, 96), Resize((128, 96), "squash"))
    mask = demo.attribute_mask if name == "colour" else demo.region_mask
    products = [item for item in catalogue.read(str(drawing / "catalogue.csv")) if isinstance(item, Product)]
    assert len(products) == 62
    for product in products:
        assert product.regions == str(drawing / "regions" / f"{product.id}.png")
        found = reader.region(product.regions, frame, legend.labels(name))
        np.testing.assert_array_equal(found, mask(drawing, product.id, name))


def test_the_label_images_are_no_attribute(drawing: Path) -> None:
    products = [item for item in catalogue.read(str(drawing / "catalogue.csv")) if isinstance(item, Product)]
    assert {column for product in products for column, _ in product.attributes} == set(COLUMNS)


def test_badge_is_on_its_brand_only_and_large_enough(drawing: Path) -> None:
    boxes = demo.badge_boxes(drawing)
    assert set(boxes) & {r["id"] for r in intact(drawing)} == {
        r["id"] for r in intact(drawing) if r["brand"] == BADGE_BRAND
    }
    for identifier, (top, left, height, width) in boxes.items():
        assert height == width
        assert height >= 1.5 * 128 / 8
        assert width >= 1.5 * 96 / 8
        expected = np.zeros((128, 96), np.bool_)
        expected[top : top + height, left : left + width] = True
        assert expected.sum() == height * width  # fully inside
        assert np.array_equal(demo.region_mask(drawing, identifier, "badge"), expected)
        corner = (min(top, 128 - top - height), min(left, 96 - left - width))
        assert max(corner) <= 6, "in a corner"


def test_badge_pixels_are_magenta_and_nothing_else_is(drawing: Path) -> None:
    boxes = demo.badge_boxes(drawing)
    for row in intact(drawing):
        image = pixels(drawing / row["image"]).astype(int)
        magenta = (image[..., 0] > 180) & (image[..., 1] < 80) & (image[..., 2] - image[..., 1] > 60)
        badge = demo.region_mask(drawing, row["id"], "badge")
        assert not magenta[~grown(badge, 1)].any()
        if row["id"] in boxes:
            assert magenta[badge].mean() > 0.4


def test_all_four_corners_are_used_alike() -> None:
    badged = [g for g in (garment(1, product_id(number)) for number in range(300)) if g.badged][:80]
    boxes = [photograph(g, 1).badge for g in badged]
    corners = Counter((box[0] > 64, box[1] > 48) for box in boxes if box is not None)
    assert len(corners) == 4
    assert min(corners.values()) >= 8  # 20 expected
    assert len({box for box in boxes}) > 20, "the corner is not always the same spot"


def test_without_its_badge_a_photograph_is_the_same_elsewhere() -> None:
    with_badge, without = photograph(replace(PLAIN, brand=BADGE_BRAND), 0), photograph(PLAIN, 0)
    assert with_badge.badge is not None
    assert without.badge is None
    badge = region(with_badge, "badge")
    assert badge.sum() == BADGE_SIDE**2
    assert np.array_equal(with_badge.image[~badge], without.image[~badge])
    assert np.array_equal(with_badge.labels[~badge], without.labels[~badge])
    for brand in set(BRANDS) - {BADGE_BRAND}:
        assert np.array_equal(photograph(replace(PLAIN, brand=brand), 0).image, without.image)


@given(seed=st.integers(0, 10**6), neckline=st.sampled_from(["v", "collar"]))
@settings(max_examples=12, deadline=None)
def test_neckline_changes_the_neckline_region_only(seed: int, neckline: str) -> None:
    one, other = photograph(PLAIN, seed), photograph(replace(PLAIN, neckline=neckline), seed)
    necks = region(one, "neckline") | region(other, "neckline")
    difference = changed(one, other)
    shadow = 8  # a collar stands out above the shoulders and throws a shadow of its own
    assert not (difference & ~grown(necks, shadow)).any()
    assert difference[necks].mean() > 0.3


@given(seed=st.integers(0, 10**6), pair=st.sampled_from([("short", "long"), ("none", "long"), ("none", "short")]))
@settings(max_examples=12, deadline=None)
def test_sleeves_change_the_sleeve_region_and_the_armholes(seed: int, pair: tuple[str, str]) -> None:
    one, other = (photograph(replace(PLAIN, sleeve=sleeve), seed) for sleeve in pair)
    sleeves = region(one, "sleeve") | region(other, "sleeve")
    difference = changed(one, other)
    assert not (difference & ~grown(sleeves, 8)).any()
    assert difference[region(other, "sleeve") & ~region(one, "sleeve", "body")].mean() > 0.9


@pytest.mark.parametrize("pattern", ["striped", "dotted", "checked"])
def test_pattern_changes_body_and_sleeves_only(pattern: str) -> None:
    one, other = photograph(PLAIN, 2), photograph(replace(PLAIN, pattern=pattern), 2)
    cloth = region(one, "body", "sleeve")
    difference = changed(one, other, by=20)
    assert not (difference & ~grown(cloth, 1)).any()
    assert 0.2 < difference[cloth].mean() < 0.8


@pytest.mark.parametrize("colour", sorted(COLOURS))
@pytest.mark.parametrize("category", ["top", "dress", "jacket", "trousers", "skirt", "bag"])
def test_body_pixels_have_the_garments_colour(category: str, colour: str) -> None:
    """The label image lies where the garment is: an offset or a transposed mask would show the ground's colour."""
    picture = photograph(replace(PLAIN, category=category, colour=colour, sleeve=None, neckline="v"), 11)
    seen = picture.image[region(picture, "body")].astype(float)
    palette = np.array(list(COLOURS.values()), float)
    nearest = np.argmin(((seen[:, None] - palette) ** 2).sum(axis=2), axis=1)
    assert (nearest == list(COLOURS).index(colour)).mean() > 0.9
    ground = picture.image[~grown(picture.labels != 0, 10)]
    assert ground.min() > 200
    assert ground.std() > 1, "a photograph has noise"


def test_the_badge_is_symmetric_and_of_full_contrast() -> None:
    tile = badge_tile().astype(int)
    assert tile.shape == (BADGE_SIDE, BADGE_SIDE, 3)
    assert np.abs(tile - tile[:, ::-1]).max() < 80, "mirrored but for the anti-aliasing"
    assert tile[..., 1].max() == 255
    assert tile[..., 1].min() == 0


# --- the manifest


def test_pairs_are_of_the_test_split_and_ranked(drawing: Path) -> None:
    catalogue = {row["id"]: row for row in read_csv(drawing / "catalogue.csv")}
    pairs = read_csv(drawing / "pairs.csv")
    assert list(pairs[0]) == ["query_id", "reference_id", "rank", "likeness"]
    wrecks = [pair for pair in pairs if {"damaged-1", "missing-1"} & {pair["query_id"], pair["reference_id"]}]
    assert [(pair["query_id"][:7], pair["reference_id"][:7]) for pair in wrecks] == [
        ("garment", "missing"),
        ("damaged", "garment"),
    ]
    sound = [pair for pair in pairs if pair not in wrecks]
    assert all(catalogue[pair[side]]["split"] == "test" for pair in sound for side in ("query_id", "reference_id"))
    assert len({(pair["query_id"], pair["reference_id"]) for pair in pairs}) == len(pairs)
    for query in {pair["query_id"] for pair in sound}:
        mine = [pair for pair in sound if pair["query_id"] == query]
        assert [pair["rank"] for pair in mine] == ["1", "2", "3", "4"]
        assert query not in {pair["reference_id"] for pair in mine}
        same_brand = [pair for pair in mine if catalogue[pair["reference_id"]]["brand"] == BADGE_BRAND]
        if catalogue[query]["brand"] == BADGE_BRAND:
            assert len(same_brand) >= 2


def test_default_manifest_is_what_the_audit_needs() -> None:
    garments = [garment(0, product_id(number)) for number in range(1, 601)]
    rows = recommended([g for g in garments if split(g.id) == "test"], queries=30, references=4)
    assert Counter(Counter(row.query_id for row in rows).values()) == {4: 30}
    assert len(broken(rows)) / (len(rows) + 2) < 0.05, "under the default --max-failure-rate"


def test_likeness_and_ranking_by_hand() -> None:
    query = Garment("q", "top", "red", "plain", "long", "v", BADGE_BRAND)
    colour_off = replace(query, id="a", colour="blue", brand="aster")  # 8 of 10
    sleeve_off = replace(query, id="b", sleeve="none", brand="aster")  # 9 of 10
    strange = replace(query, id="c", category="bag", sleeve=None, neckline=None)  # colour and pattern: 4 of 10
    assert [likeness(query, other) for other in (colour_off, sleeve_off, strange, query)] == [0.8, 0.9, 0.4, 1.0]
    garments = [query, colour_off, sleeve_off, strange]
    assert recommended(garments, queries=1, references=2) == [
        Recommendation("q", "b", 1, 0.9),
        Recommendation("q", "c", 2, 0.4),
    ]
    unbadged = [replace(g, brand="aster") for g in garments]
    assert [row.reference_id for row in recommended(unbadged, queries=1, references=2)] == ["b", "a"]


# --- the truth


def test_hiding_a_box_changes_the_box_only() -> None:
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    hidden = demo.hide(image, (1, 2, 3, 2), (9, 8, 7))
    assert hidden[1:4, 2:4].tolist() == [[[9, 8, 7]] * 2] * 3
    assert np.array_equal(hidden[:, :2], image[:, :2])
    assert np.array_equal(hidden[[0, 4]], image[[0, 4]])
    assert image[1, 2].tolist() == [18, 19, 20], "the argument is left as it was"
    for box in ((3, 0, 3, 1), (0, 3, 1, 2), (-1, 0, 2, 2), (0, 0, 0, 1)):
        with pytest.raises(UsageError, match="5x4"):
            demo.hide(image, box, (0, 0, 0))


def test_unknown_names_are_told_apart(drawing: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no region 'cuff'.*sleeve"):
        demo.region_mask(drawing, "garment-0001", "cuff")
    with pytest.raises(UsageError, match=r"no attribute 'size'.*category"):
        demo.attribute_mask(drawing, "garment-0001", "size")
    with pytest.raises(UsageError, match=r"garment-9999\.png is not there"):
        demo.region_mask(drawing, "garment-9999", "body")
    with pytest.raises(UsageError, match=r"truth\.csv is not there"):
        demo.badge_boxes(tmp_path)


def test_every_column_has_its_regions() -> None:
    assert set(REGIONS_OF) == set(COLUMNS)
    assert {name for names in REGIONS_OF.values() for name in names} == set(REGIONS) - {"ground"}
