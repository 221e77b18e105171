"""Products and the vocabulary of their attributes."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.errors import BadBoxes, UsageError
from transforms.core.records import Failure, Product
from transforms.inputs import catalogue
from transforms.inputs.region_boxes import MAX_BOXES_TEXT, read_boxes

FASHION = Path(__file__).parents[3] / "shared" / "data" / "fashion-products" / "products.csv"

CSV = """id,image,colour,name,split,sleeve
007,images/7.jpg,red,Shirt of seven,train,long
NA,/abs/8.jpg,,Shirt of eight,,short
9,s3://bucket/9.jpg,"deep, blue",,test,
"""


def write(tmp_path: Path, text: str, name: str = "products.csv") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def products(address: str, columns: list[str] | None = None) -> list[Product]:
    found = list(catalogue.read(address, columns=columns))
    assert all(isinstance(item, Product) for item in found), found
    return [item for item in found if isinstance(item, Product)]


def test_products_have_resolved_images_and_every_cell_that_is_not_empty(tmp_path: Path) -> None:
    assert products(write(tmp_path, CSV)) == [
        Product(
            "007",
            str(tmp_path / "images/7.jpg"),
            (("colour", "red"), ("name", "Shirt of seven"), ("sleeve", "long")),
            "train",
            "products.csv row 1",
        ),
        Product("NA", "/abs/8.jpg", (("name", "Shirt of eight"), ("sleeve", "short")), None, "products.csv row 2"),
        Product("9", "s3://bucket/9.jpg", (("colour", "deep, blue"),), "test", "products.csv row 3"),
    ]


def test_named_columns_alone_become_attributes_in_their_order(tmp_path: Path) -> None:
    first, second, third = products(write(tmp_path, CSV), ["sleeve", "colour"])
    assert first.names() == ("sleeve=long", "colour=red")
    assert second.names() == ("sleeve=short",)
    assert third.names() == ("colour=deep, blue",)


def test_all_formats_give_the_same_products(tmp_path: Path) -> None:
    expected = products(write(tmp_path, CSV))
    rows: list[dict[str, Any]] = [
        {
            "id": "007",
            "image": "images/7.jpg",
            "colour": "red",
            "name": "Shirt of seven",
            "split": "train",
            "sleeve": "long",
        },
        {"id": "NA", "image": "/abs/8.jpg", "colour": None, "name": "Shirt of eight", "split": None, "sleeve": "short"},
        {"id": 9, "image": "s3://bucket/9.jpg", "colour": "deep, blue", "name": "", "split": "test", "sleeve": None},
    ]
    lines = write(tmp_path, "\n".join(map(json.dumps, rows)), "products.jsonl")
    rows[2]["id"] = "9"
    table = pa.table({column: pa.array([row[column] for row in rows], pa.string()) for column in rows[0]})
    # An embedding and the image's bytes often lie beside: they are no attributes, and are not read.
    table = table.append_column("vector", pa.array([[0.5]] * 3)).append_column("jpeg", pa.array([b"\xff\xd8"] * 3))
    pq.write_table(table, tmp_path / "products.parquet")
    for address in (lines, str(tmp_path / "products.parquet")):
        for found, wanted in zip(products(address), expected, strict=True):
            assert (found.id, found.image, found.attributes, found.split) == (
                wanted.id,
                wanted.image,
                wanted.attributes,
                wanted.split,
            )


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_label_images_are_addresses_and_no_attributes(tmp_path: Path, extension: str) -> None:
    cells: list[dict[str, str | None]] = [
        {"id": "1", "image": "1.jpg", "regions": "regions/1.png", "colour": "red"},
        {"id": "2", "image": "2.jpg", "regions": "s3://bucket/2.png", "colour": "red"},
        {"id": "3", "image": "3.jpg", "regions": None, "colour": None},
    ]
    if extension == "csv":
        lines = [",".join(cells[0]), *(",".join(value or "" for value in row.values()) for row in cells)]
        address = write(tmp_path, "\n".join(lines))
    elif extension == "jsonl":
        address = write(tmp_path, "\n".join(map(json.dumps, cells)), "products.jsonl")
    else:
        address = str(tmp_path / "products.parquet")
        pq.write_table(pa.Table.from_pylist(cells), address)
    for columns in (None, ["colour"]):
        found = products(address, columns)
        assert [one.regions for one in found] == [str(tmp_path / "regions/1.png"), "s3://bucket/2.png", None]
        assert [one.names() for one in found] == [("colour=red",), ("colour=red",), ()]
    assert catalogue.vocabulary(found, min_count=1).names == ("colour=red",)


def test_label_images_are_optional_and_never_asked_for_as_an_attribute(tmp_path: Path) -> None:
    assert [one.regions for one in products(write(tmp_path, CSV))] == [None] * 3
    address = write(tmp_path, "id,image,regions,colour\n1,a.jpg,a.png,red\n")
    for ask in (catalogue.check_header, lambda *a, **k: list(catalogue.read(*a, **k))):
        with pytest.raises(UsageError, match=r"'regions' of a catalogue holds the address .* give it another name"):
            ask(address, columns=["colour", "regions"])


def test_a_cell_that_is_no_address_of_a_label_image_fails_its_row(tmp_path: Path) -> None:
    lines = '{"id": "1", "image": "a.jpg", "regions": ["EU"]}\n{"id": "2", "image": "b.jpg", "regions": "b.png"}\n'
    first, second = catalogue.read(write(tmp_path, lines, "products.jsonl"))
    assert isinstance(first, Failure)
    assert first.message.startswith("regions is ")
    assert isinstance(second, Product)


BOXES = '{"logo": [[10, 20, 30, 40.5]]}'


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_boxes_are_text_and_no_attributes(tmp_path: Path, extension: str) -> None:
    cells: list[dict[str, str | None]] = [
        {"id": "1", "image": "1.jpg", "boxes": BOXES, "colour": "red"},
        {"id": "2", "image": "2.jpg", "boxes": "7 in a carton", "colour": "red"},
        {"id": "3", "image": "3.jpg", "boxes": None, "colour": None},
    ]
    address = str(tmp_path / f"products.{extension}")
    if extension == "csv":
        with open(address, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, cells[0])
            writer.writeheader()
            writer.writerows(cells)
    elif extension == "jsonl":
        write(tmp_path, "\n".join(map(json.dumps, cells)), "products.jsonl")
    else:
        pq.write_table(pa.Table.from_pylist(cells), address)
    for columns in (None, ["colour"]):
        found = products(address, columns)
        assert [one.boxes for one in found] == [BOXES, "7 in a carton", None]
        assert [one.names() for one in found] == [("colour=red",), ("colour=red",), ()]
    with pytest.raises(UsageError, match=r"'boxes' of a catalogue holds boxes around its regions .* another name"):
        catalogue.check_header(address, columns=["boxes"])


def test_boxes_that_are_an_object_fail_their_row_and_the_message_says_what_is_expected(tmp_path: Path) -> None:
    lines = ['{"id": "1", "image": "a.jpg", "boxes": ' + BOXES + "}", '{"id": "2", "image": "b.jpg", "boxes": 2.5}']
    table = pa.table({"id": ["3"], "image": ["c.jpg"], "boxes": [[[1.0, 2.0, 3.0, 4.0]]]})
    pq.write_table(table, tmp_path / "products.parquet")
    found = [
        *catalogue.read(write(tmp_path, "\n".join(lines), "products.jsonl")),
        *catalogue.read(str(tmp_path / "products.parquet")),
    ]
    for one, kind in zip(found, ["an object", "a number with a fraction", "a value of type list"], strict=True):
        assert isinstance(one, Failure)
        assert (one.stage, one.reason) == ("read", "bad_row")
        assert one.message.startswith(f"boxes is {kind}")
        assert 'expected is a text that holds JSON, in every format, like {"logo": [[10, 20, 30, 40]]}' in one.message
        assert "json.dumps" in one.message


def test_boxes_that_are_too_long_keep_their_product_and_are_refused_where_they_are_read(tmp_path: Path) -> None:
    fits = '{"a": []}'.ljust(MAX_BOXES_TEXT)
    rows = [{"id": "1", "image": "a.jpg", "boxes": text} for text in (fits, fits + " " * 50_000)]
    first, second = products(write(tmp_path, "\n".join(map(json.dumps, rows)), "products.jsonl"))
    assert first.boxes == fits
    assert read_boxes(first.boxes) == {"a": ()}
    assert second.boxes is not None
    assert len(second.boxes) == MAX_BOXES_TEXT + 1
    with pytest.raises(BadBoxes, match="more than 8,192 characters"):
        read_boxes(second.boxes)


def test_bad_rows_are_failures_and_duplicates_go_on(tmp_path: Path) -> None:
    address = write(tmp_path, "id,image,c\n1,a.jpg,x\n,b.jpg,x\n3,,x\n1,c.jpg\n1,d.jpg,y\n")
    found = list(catalogue.read(address))
    assert [item.source for item in found] == [f"products.csv row {number}" for number in range(1, 6)]
    assert [item.id if isinstance(item, Product) else item.message[:27] for item in found] == [
        "1",
        "the product has no id",
        "the product has no image",
        "the row has 2 cells, the he",
        "1",
    ]
    failures = [item for item in found if isinstance(item, Failure)]
    assert {(item.stage, item.reason, item.pair_id) for item in failures} == {("read", "bad_row", None)}


def test_an_id_that_a_tool_has_made_a_float_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [10000.0, None], "image": ["a.jpg", "b.jpg"]}), tmp_path / "c.parquet")
    first, second = catalogue.read(str(tmp_path / "c.parquet"))
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert "id is a number with a fraction or an exponent, '10000.0'" in first.message
    assert second.message == "the product has no id"


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("sku,image\n1,a.jpg\n", None, "no column 'id'.*columns are 'sku', 'image'"),
        ("sku,photo\n1,a.jpg\n", None, "no column 'id' and no column 'image'"),
        ("id,image,colour\n1,a.jpg,red\n", ["colour", "sleeve"], "no column 'sleeve'"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(
    tmp_path: Path, text: str, columns: list[str] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        list(catalogue.read(write(tmp_path, text), columns=columns))


# The vocabulary


def made(*cells: dict[str, str]) -> list[Product]:
    return [Product(str(at), "x.jpg", tuple(row.items())) for at, row in enumerate(cells)]


def test_rare_attributes_are_left_out_with_their_counts() -> None:
    found = catalogue.vocabulary(
        made(*[{"b": "x", "a": "q"}] * 3, *[{"b": "w", "a": "q"}] * 2, {"a": "r"}, {"b": "w"}), min_count=3
    )
    assert found.names == ("b=w", "b=x", "a=q")  # the catalogue's column order, then by name
    assert found.left_out == {"a=r": 1}
    assert found.columns_left_out == {}


def test_columns_of_names_are_left_out_with_the_reason() -> None:
    rows = [{"colour": "red", "name": f"n{at}", "pair": f"p{at // 2}", "sku": f"s{at // 2}"} for at in range(12)]
    found = catalogue.vocabulary(made(*rows), min_count=3, max_values=6)
    assert found.names == ("colour=red",)
    assert found.left_out == {}
    assert found.columns_left_out == {
        "name": "more than 6 values",
        "pair": "none of its 6 values has 3 products",
        "sku": "none of its 6 values has 3 products",
    }
    assert catalogue.vocabulary(made(*rows), min_count=1, max_values=None).columns_left_out == {
        "name": "12 values in 12 products: nearly every value is its own"
    }


def test_named_columns_are_taken_as_they_are() -> None:
    rows = [{"colour": "red", "name": f"n{at}"} for at in range(4)]
    found = catalogue.vocabulary(made(*rows), columns=["name", "colour", "absent"], min_count=1, max_values=2)
    assert found.names == ("name=n0", "name=n1", "name=n2", "name=n3", "colour=red")
    assert found.columns_left_out == {}


def test_an_empty_catalogue_has_no_vocabulary_and_min_count_is_checked() -> None:
    assert catalogue.vocabulary([]).names == ()
    with pytest.raises(UsageError, match="min_count is 0"):
        catalogue.vocabulary([], min_count=0)


CELLS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")).map(lambda row: dict(sorted(row.items())))


@settings(deadline=None)
@given(rows=st.lists(CELLS, max_size=30), min_count=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_value_is_in_the_vocabulary_or_left_out_whatever_the_order(
    rows: list[dict[str, str]], min_count: int, seed: int
) -> None:
    found = catalogue.vocabulary(made(*rows), min_count=min_count)
    shuffled = random.Random(seed).sample(made(*rows), len(rows))
    assert catalogue.vocabulary(shuffled, min_count=min_count) == found
    counts = Counter(name for product in made(*rows) for name in product.names())
    for name, count in counts.items():
        if name[0] in found.columns_left_out:
            assert name not in found.names
            assert name not in found.left_out
        else:
            assert (name in found.names) == (count >= min_count)
            assert found.left_out.get(name, count) == count
            assert (name in found.left_out) == (count < min_count)
    assert len(found.names) + len(found.left_out) == sum(name[0] not in found.columns_left_out for name in counts)


@pytest.mark.skipif(not FASHION.is_file(), reason="needs ../shared/data/fashion-products")
def test_a_real_catalogue() -> None:
    found = products(str(FASHION))
    assert len(found) == 3014
    assert Path(found[0].image).is_file()
    assert {product.split for product in found} == {"train", "valid", "test"}
    vocabulary = catalogue.vocabulary(found, min_count=10)
    assert set(vocabulary.columns_left_out) == {"name"}
    columns = list(dict.fromkeys(name.split("=")[0] for name in vocabulary.names))
    assert columns == ["gender", "master_category", "sub_category", "article_type", "base_colour", "season", "usage"]
    assert "base_colour=Navy Blue" in vocabulary.names
