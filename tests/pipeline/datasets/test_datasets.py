"""Published data sets as catalogues and manifests: small ones of the same layout, row by row, and damaged ones."""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.training.data.labels import attribute_targets
from pipeline import cli
from pipeline.datasets import awa2, pair_lists, polyvore_outfits, reading
from pipeline.datasets.writing import Item, LeftOutItems, PairOf, PublishedDataset
from pipeline.options.command_line import options_of
from transforms import storage
from transforms.core.errors import BadRow, UsageError
from transforms.core.records import Failure, Pair, Product
from transforms.inputs import catalogue, manifest

Run = Callable[..., list[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and returns the lines that it prints."""

    def run(*arguments: object, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return (err if code else out).splitlines()

    return run


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((3, 5, 3), 200, np.uint8)).save(path)


def products(path: Path) -> list[Product]:
    found = list(catalogue.read(str(path)))
    assert not [item for item in found if isinstance(item, Failure)]
    return [item for item in found if isinstance(item, Product)]


def pairs(path: Path, *keep: str) -> list[Pair]:
    manifest.check_header(str(path), has_catalogue=True, keep=keep)
    found = list(manifest.read(str(path), keep=keep))
    assert not [item for item in found if isinstance(item, Failure)]
    return [item for item in found if isinstance(item, Pair)]


def commands(lines: list[str]) -> Iterator[Any]:
    """What the printed commands ask for, by the real parser."""
    for line in lines[lines.index("next") + 1 :]:
        program, *words = shlex.split(line)
        assert program == "whymatch"
        yield options_of(cli.build_parser().parse_args(words))


# Polyvore Outfits

OUTFITS: dict[str, list[tuple[str, list[str]]]] = {
    "train": [("s1", ["11", "12", "13", "14"]), ("s2", ["12", "15", "16", "12"]), ("s3", ["12", "11"])],
    "valid": [("s4", ["16", "17", "18"])],
    "test": [("s5", ["19", "20", "17"]), ("s6", ["21"])],
}
# id: category_id and type. 14 has no metadata, 18 no image, 20 no type in either file
ITEMS: dict[str, tuple[object, str | None]] = {
    "11": ("7", "tops"),
    "12": ("8", "shoes"),
    "13": (7, "tops"),
    "15": ("9", ""),
    "16": ("99", "all-body"),
    "17": ("8", "shoes"),
    "18": ("7", "tops"),
    "19": ("10", "bags"),
    "20": ("11", None),
    "21": (None, "hats"),
    "22": ("7", "tops"),
}
CATEGORIES = '7,"shirt, long",tops\n8,boots,shoes\n9,fedora,hats\n10,tote,accessories\n11,thing\n'


def outfits_json(outfits: list[tuple[str, list[str]]]) -> str:
    return json.dumps(
        [
            {"set_id": name, "items": [{"item_id": item, "index": at} for at, item in enumerate(items, 1)]}
            for name, items in outfits
        ]
    )


@pytest.fixture
def polyvore(tmp_path: Path) -> Path:
    folder = tmp_path / "polyvore outfits"
    for variant in ("disjoint", "nondisjoint"):
        (folder / variant).mkdir(parents=True)
        for split, outfits in OUTFITS.items():
            (folder / variant / f"{split}.json").write_text(outfits_json(outfits))
    metadata = {
        item: {"url_name": "", "title": "Ünder", "related": [["a"]], "category_id": number, "semantic_category": kind}
        for item, (number, kind) in ITEMS.items()
    }
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(metadata, indent=1))
    (folder / "categories.csv").write_text(CATEGORIES)
    for item in {*ITEMS, "14"} - {"18"}:
        picture(folder / "images" / f"{item}.jpg")
    (folder / "nondisjoint" / "typespaces.p").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return folder


def test_polyvore_row_by_row(polyvore: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "made"
    lines = run("catalogue", "polyvore-outfits", polyvore, "--out", out)
    at = f"{polyvore}/images/"
    assert table(out / "catalogue.csv") == [
        ["id", "image", "split", "semantic_category", "category", "outfit"],
        ["11", f"{at}11.jpg", "train", "tops", "shirt, long", "s1"],
        ["12", f"{at}12.jpg", "train", "shoes", "boots", "s1"],
        ["13", f"{at}13.jpg", "train", "tops", "shirt, long", "s1"],
        ["15", f"{at}15.jpg", "train", "hats", "fedora", "s2"],  # no type of its own: that of its category
        ["16", f"{at}16.jpg", "valid", "all-body", "99", "s4"],  # train and valid: valid; no name for the category
        ["17", f"{at}17.jpg", "test", "shoes", "boots", "s5"],  # valid and test: test
        ["19", f"{at}19.jpg", "test", "bags", "tote", "s5"],  # the metadata's type, not the category's
        ["20", f"{at}20.jpg", "test", "", "thing", "s5"],
        ["21", f"{at}21.jpg", "test", "hats", "", "s6"],
    ]
    assert table(out / "pairs-train.csv") == [
        ["query_id", "reference_id", "condition"],
        ["11", "12", "shoes+tops"],
        ["12", "13", "shoes+tops"],
        ["12", "15", "hats+shoes"],
    ]
    assert table(out / "pairs-test.csv") == [["query_id", "reference_id", "condition"], ["19", "17", "bags+shoes"]]
    assert not (out / "pairs-valid.csv").exists()  # 16 is left with 17 of test and 18 without an image
    assert table(out / "left-out.csv") == [
        ["reason", "what"],
        ["items without metadata", "14"],
        ["items without an image in images/", "18"],
    ]
    assert lines[: lines.index("next")] == [
        "products    9: 4 train, 1 valid, 4 test",
        "attributes  3 columns: semantic_category, category, outfit",
        "pairs       4: train 3 of 2 queries; test 1 of 1 queries",
        "            none of valid: no manifest is written for it",
        "note        1 items have a category_id that is not in categories.csv and stands for itself",
        "note        2 items are in outfits of several splits and are of the last of these: 16, 17",
        "note        1 products have no type, and so no pairs: 20",
        "left out    1 items of the metadata that are in no outfit of nondisjoint",
        "left out    1 items without metadata: 14",
        "left out    1 items without an image in images/: 18",
        # s1: 3 pairs with 14; s4: 2 with 18
        "left out    5 pairs of an outfit with an item that is left out",
        "left out    1 pairs of an outfit of one type",
        # s2: 2 pairs with 16; s4: 1 of 16 and 17; s5: 2 with 20
        "left out    5 pairs of an outfit with an item of another split or of no type",
        "left out    1 pairs that another outfit has too",
        f"files       {out}: catalogue.csv, pairs-train.csv, pairs-test.csv, left-out.csv",
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_polyvore_is_read_back(polyvore: Path, tmp_path: Path, run: Run, kind: str) -> None:
    out = tmp_path / "made"
    printed = run("catalogue", "polyvore-outfits", polyvore, "--out", out, "--format", kind, "--variant", "disjoint")
    known = {product.id: product for product in products(out / f"catalogue.{kind}")}
    assert len(known) == 9
    similarity, attributes, export, audit = commands(printed)
    for product in known.values():
        assert storage.read_image(product.image, storage.Access(roots=tuple(audit.image_roots)))
    assert known["20"].names() == ("category=thing", "outfit=s5")
    found = pairs(Path(audit.manifest[0]))
    assert [(pair.query_id, pair.reference_id, pair.condition) for pair in found] == [("19", "17", "bags+shoes")]
    assert similarity.catalogue == attributes.catalogue == audit.catalogue == str(out / f"catalogue.{kind}")
    assert (similarity.similar_by, similarity.conditions) == (("outfit",), "semantic_category")
    assert attributes.columns == ("semantic_category", "category")
    assert export.similarity == similarity.out / "similarity.pt"
    assert export.attributes == attributes.out / "attributes.pt"
    assert str(export.out) == audit.bundle


def test_a_bundle_without_conditions_gets_pairs_without(polyvore: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "made"
    printed = run("catalogue", "polyvore-outfits", polyvore, "--out", out, "--no-conditions")
    assert table(out / "pairs-test.csv") == [["query_id", "reference_id"], ["19", "17"]]
    assert next(commands(printed)).conditions is None


def test_a_folder_that_holds_the_data_gets_relative_images(polyvore: Path, tmp_path: Path, run: Run) -> None:
    printed = run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path)
    rows = table(tmp_path / "catalogue.csv")
    assert rows[1][1] == "polyvore outfits/images/11.jpg"
    audit = list(commands(printed))[-1]
    assert audit.image_roots == ()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    first = products(moved / "catalogue.csv")[0]
    assert storage.read_image(first.image, storage.Access(roots=(str(moved),)))


def test_images_behind_a_link_are_named_by_their_real_folder(polyvore: Path, tmp_path: Path, run: Run) -> None:
    real = tmp_path / "elsewhere"
    (polyvore / "images").rename(real)
    (polyvore / "images").symlink_to(real)
    printed = run("catalogue", "polyvore-outfits", polyvore, "--out", polyvore)
    audit = list(commands(printed))[-1]
    assert audit.image_roots == (str(real),)
    first = products(polyvore / "catalogue.csv")[0]
    assert storage.read_image(first.image, storage.Access(roots=tuple(audit.image_roots)))


def test_without_categories_the_number_stands_for_itself(polyvore: Path, tmp_path: Path, run: Run) -> None:
    (polyvore / "categories.csv").unlink()
    run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path / "made")
    rows = {row[0]: row[3:5] for row in table(tmp_path / "made" / "catalogue.csv")}
    assert rows["11"] == rows["13"] == ["tops", "7"]
    assert rows["15"] == ["", "9"]


def test_a_header_of_the_categories_is_no_category(polyvore: Path, tmp_path: Path, run: Run) -> None:
    (polyvore / "categories.csv").write_text("category_id,fine,semantic\n" + CATEGORIES)
    run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path / "made")
    assert table(tmp_path / "made" / "catalogue.csv")[1][3:5] == ["tops", "shirt, long"]


DEEP = "[" * 100_000
PLACES: list[tuple[str, str | bytes, str]] = [
    ("nondisjoint/valid.json", '{"set_id": "s", "items": []}', r"character 1: the file does not begin with '\['"),
    ("nondisjoint/valid.json", "", r"character 1: the file does not begin with '\['"),
    ("nondisjoint/valid.json", '[{"set_id": "s", "items": []}', r"character 30: the file is cut short"),
    ("nondisjoint/valid.json", '[{"set_id": "s", "it', r"no JSON"),
    ("nondisjoint/valid.json", '[{"set_id": "s", "items": []}] x', r"character 32: there is more behind the end"),
    ("nondisjoint/valid.json", '[{"set_id": "s", "items": []} 1]', r"',' or '\]' is expected"),
    ("nondisjoint/valid.json", "[" + DEEP, r"character 2: the entry is nested too deeply"),
    ("nondisjoint/valid.json", "[" + "9" * 5000 + "]", r"too many digits"),
    ("nondisjoint/valid.json", '["' + "x" * 2_000_000 + '"]', r"longer than 1,048,576 characters"),
    ("nondisjoint/valid.json", b'[{"set_id": "\xff"}]', r"about byte 13: it is not UTF-8"),
    ("nondisjoint/valid.json", "[]".encode("utf-16"), r"about byte 0: it is not UTF-8"),
    ("nondisjoint/valid.json", "[7]", r"entry 1: it is no object with a value 'set_id'"),
    ("nondisjoint/valid.json", '[{"set_id": "s", "items": {}}]', r"entry 1: it is no object with a list 'items'"),
    (
        "nondisjoint/valid.json",
        '[{"set_id": "s", "items": ["11"]}]',
        r"entry 1: it is no object with a value 'item_id'",
    ),
    ("nondisjoint/valid.json", '[{"set_id": "s", "set_id": "t", "items": []}]', r"'set_id' is there more than once"),
    ("nondisjoint/valid.json", '[{"set_id": "s"}]', r"entry 1: it is no object with a list 'items'"),
    ("nondisjoint/valid.json", '[{"items": []}]', r"entry 1: the set_id is nothing"),
    (
        "nondisjoint/valid.json",
        outfits_json([("s", ["../../etc/passwd"])]),
        r"entry 1: the item_id is '../../etc/passwd'",
    ),
    ("nondisjoint/valid.json", outfits_json([("s", ["11", "a\0b"])]), r"the item_id is 'a\\x00b', no plain name"),
    ("nondisjoint/valid.json", outfits_json([("s", [".."])]), r"the item_id is '\.\.', no plain name"),
    ("nondisjoint/valid.json", outfits_json([("s", [r"a\b"])]), r"no plain name"),
    ("nondisjoint/valid.json", outfits_json([("s", ["\ud800"])]), r"no plain name"),
    ("nondisjoint/valid.json", outfits_json([("s", ["1" * 201])]), r"no plain name"),
    ("nondisjoint/valid.json", outfits_json([("s", [str(n) for n in range(201)])]), r"has 201 items, at most 200"),
    ("nondisjoint/valid.json", '[{"set_id": 1.5, "items": []}]', r"the set_id is a number with a fraction"),
    ("nondisjoint/valid.json", '[{"set_id": true, "items": []}]', r"the set_id is a boolean"),
    ("polyvore_item_metadata.json", "[]", r"does not begin with '\{'"),
    ("polyvore_item_metadata.json", '{"11": 3}', r"item 11: an object is expected"),
    ("polyvore_item_metadata.json", '{"11": {}, "11": {}}', r"item 11: the item is there more than once"),
    ("polyvore_item_metadata.json", '{"../11": {}}', r"the key '../11': the item_id is '../11', no plain name"),
    ("polyvore_item_metadata.json", '{"11" {}}', r"a key with a colon is expected"),
    ("polyvore_item_metadata.json", "{11: {}}", r"a key with a colon is expected"),
    ("polyvore_item_metadata.json", '{"11": {"semantic_category": ["tops"]}}', r"semantic_category is a list"),
    ("polyvore_item_metadata.json", '{"11": {"semantic_category": "a\\nb"}}', r"no text on one line"),
    ("categories.csv", "7\n", r"row 1: it has 1 cells"),
    ("categories.csv", "7,a,b\n7,c,d\n", r"row 2: the category_id is there twice"),
    ("categories.csv", "7,,b\n", r"row 1: a cell is empty"),
    ("categories.csv", b"7,\xff,b\n", r"row 1: the cell is .* no text on one line"),
    ("categories.csv", '7,"a\n', r"row 1: a quotation mark is opened and not closed"),
]


@pytest.mark.parametrize(("name", "content", "message"), PLACES)
def test_damaged_polyvore_files_are_named_with_place_and_remedy(
    polyvore: Path, name: str, content: str | bytes, message: str
) -> None:
    (polyvore / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as error:
        polyvore_outfits.read(str(polyvore), "nondisjoint")
    assert name in str(error.value)
    assert len(str(error.value)) < 600
    assert any(word in str(error.value) for word in ("correct", "unpack", "remove", "save", "docs/datasets.md"))


@pytest.mark.parametrize("name", ["nondisjoint/train.json", "polyvore_item_metadata.json", "images"])
def test_missing_parts_of_polyvore(polyvore: Path, name: str) -> None:
    (polyvore / name).rename(polyvore / "away")
    with pytest.raises(UsageError, match=name):
        polyvore_outfits.read(str(polyvore), "nondisjoint")


def test_a_pipe_is_not_waited_for(polyvore: Path) -> None:
    (polyvore / "nondisjoint/train.json").unlink()
    os.mkfifo(polyvore / "nondisjoint/train.json")
    with pytest.raises(UsageError, match=r"train.json is no file"):
        polyvore_outfits.read(str(polyvore), "nondisjoint")


def test_polyvore_of_nothing(polyvore: Path, tmp_path: Path, run: Run) -> None:
    for split in OUTFITS:
        (polyvore / "nondisjoint" / f"{split}.json").write_text(" [ ] ")
    (message,) = run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path / "made", code=2)
    assert "no product that can be used. Left out: 11 items of the metadata that are in no outfit" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["catalogue.csv", "pairs-valid.csv", "left-out.csv"])
def test_nothing_is_written_over(polyvore: Path, tmp_path: Path, run: Run, name: str) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / name).write_text("mine")
    (message,) = run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path / "made", code=2)
    assert f"{name} exists already" in message
    assert [path.name for path in (tmp_path / "made").iterdir()] == [name]


@pytest.mark.parametrize(("folder", "out"), [("s3://bucket/data", "made"), ("here", "gs://bucket/made")])
def test_remote_folders_are_refused(polyvore: Path, tmp_path: Path, run: Run, folder: str, out: str) -> None:
    folder = folder.replace("here", str(polyvore))
    (message,) = run("catalogue", "polyvore-outfits", folder, "--out", out.replace("made", str(tmp_path)), code=2)
    assert "local folders only" in message


# JSON in parts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
@settings(deadline=None)
def test_json_in_parts_is_json(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "values.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    members = path.with_name("members.json")
    members.write_text(json.dumps(dict(zip("abcdef", values, strict=False)), indent=indent), encoding="utf-8-sig")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK", chunk)
        assert [value for _, value in reading.json_entries(str(path), "[")] == values
        assert list(reading.json_entries(str(members), "{")) == list(zip("abcdef", values, strict=False))


@given(st.binary(max_size=60).map(lambda tail: b'[{"a": 1}, ' + tail), st.integers(1, 9))
@settings(deadline=None)
def test_json_in_parts_refuses_what_json_refuses(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "values.json"
    path.write_bytes(content)
    try:
        expected = json.loads(content.decode("utf-8"))
    except ValueError:
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK", chunk)
        if expected is None:
            with pytest.raises(UsageError, match=r"values\.json"):
                list(reading.json_entries(str(path), "["))
        else:
            assert [value for _, value in reading.json_entries(str(path), "[")] == expected


# Animals with Attributes 2

CLASSES = ["antelope", "grizzly+bear", "seal", "rat"]
PREDICATES = ["black", "newworld", "buckteeth"]
MATRIX = [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]]
COUNTS = {"antelope": 3, "grizzly+bear": 4, "seal": 2, "rat": 1}


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    folder = tmp_path / "Animals_with_Attributes2"
    folder.mkdir()
    (folder / "classes.txt").write_text("".join(f"{at:11d}\t{name}\n" for at, name in enumerate(CLASSES, 1)))
    (folder / "predicates.txt").write_text("".join(f"{at:11d}\t{name}\n" for at, name in enumerate(PREDICATES, 1)))
    (folder / "predicate-matrix-binary.txt").write_text("\n".join(" ".join(map(str, row)) for row in MATRIX) + "\n\n")
    (folder / "trainclasses.txt").write_text("grizzly+bear\nantelope\n")
    (folder / "testclasses.txt").write_text("seal\r\nrat\r\n")
    for name, count in COUNTS.items():
        for number in range(count):
            picture(folder / "JPEGImages" / name / f"{name}_{10001 + number}.jpg")
    return folder


def test_awa2_row_by_row(animals: Path, tmp_path: Path, run: Run) -> None:
    (animals / "JPEGImages" / "seal" / "Thumbs.db").touch()
    (animals / "JPEGImages" / "seal" / "rat_10009.jpg").touch()
    (animals / "JPEGImages" / "unicorn").mkdir()
    out = tmp_path / "made"
    lines = run("catalogue", "awa2", animals, "--out", out, "--valid-share", 0, "--pairs-per-image", 2)
    at = f"{animals}/JPEGImages/"
    antelope, bear = ["antelope", "yes", "no", "no"], ["grizzly+bear", "yes", "yes", "no"]
    assert table(out / "catalogue.csv") == [
        ["id", "image", "split", "class", *PREDICATES],
        *([f"antelope_{n}", f"{at}antelope/antelope_{n}.jpg", "train", *antelope] for n in (10001, 10002, 10003)),
        *([f"grizzly+bear_{n}", f"{at}grizzly+bear/grizzly+bear_{n}.jpg", "train", *bear] for n in range(10001, 10005)),
        *([f"seal_{n}", f"{at}seal/seal_{n}.jpg", "test", "seal", "no", "no", "yes"] for n in (10001, 10002)),
        ["rat_10001", f"{at}rat/rat_10001.jpg", "test", "rat", "no", "yes", "yes"],
    ]
    header, *rows = table(out / "pairs-train.csv")
    assert header == ["query_id", "reference_id"]
    # all others of three antelopes; of four bears two each, and each is a reference twice
    assert {tuple(row) for row in rows[:6]} == {
        (f"antelope_{a}", f"antelope_{b}") for a in range(10001, 10004) for b in range(10001, 10004) if a != b
    }
    assert [row[0] for row in rows[6:]] == [f"grizzly+bear_{n}" for n in range(10001, 10005) for _ in range(2)]
    assert Counter(row[1] for row in rows[6:]) == Counter({f"grizzly+bear_{n}": 2 for n in range(10001, 10005)})
    assert len({tuple(row) for row in rows}) == 14
    assert all(query != reference for query, reference in rows)
    assert table(out / "pairs-test.csv")[1:] == [["seal_10001", "seal_10002"], ["seal_10002", "seal_10001"]]
    assert (out / "columns.txt").read_text() == "black,newworld,buckteeth\n"
    assert [line for line in lines if line.startswith("left out")] == [
        "left out    1 folders in JPEGImages/ of no class in classes.txt: 'unicorn'",
        "left out    2 files in JPEGImages/ that are not named <class>_<number>.jpg: 'seal/Thumbs.db', "
        "'seal/rat_10009.jpg'",
        "left out    1 queries that are alone in their class and split: rat_10001",
    ]


def test_awa2_is_read_back(animals: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "a b"
    printed = run("catalogue", "awa2", animals, "--out", out, "--valid-share", 0.4)
    found = products(out / "catalogue.csv")
    similarity, attributes, _, audit = commands(printed)
    assert similarity.similar_by == ("class",)
    assert attributes.columns == (f"$(cat '{out}/columns.txt')",)
    for product in found:
        assert storage.read_image(product.image, storage.Access(roots=tuple(audit.image_roots)))
    split_of = {product.id: product.split for product in found}
    assert set(split_of.values()) == {"train", "valid", "test"}
    for split in ("train", "valid", "test"):
        for pair in pairs(out / f"pairs-{split}.csv"):
            assert split_of[pair.query_id] == split_of[pair.reference_id] == split
            assert pair.query_id.rpartition("_")[0] == pair.reference_id.rpartition("_")[0]


def test_what_a_class_lacks_is_known(animals: Path, tmp_path: Path, run: Run) -> None:
    """With 'yes' alone a training would know of no image without an attribute."""
    run("catalogue", "awa2", animals, "--out", tmp_path / "made")
    found = products(tmp_path / "made" / "catalogue.csv")
    names = catalogue.vocabulary(found, columns=PREDICATES, min_count=1).names
    assert names == tuple(f"{predicate}={value}" for predicate in PREDICATES for value in ("no", "yes"))
    targets, known = attribute_targets(found, [f"{predicate}=yes" for predicate in PREDICATES])
    assert known.all()
    expected = [MATRIX[CLASSES.index(product.id.rpartition("_")[0])] for product in found]
    assert targets.astype(int).tolist() == expected


def made(count: int, name: str = "ox", split: str = "train") -> PublishedDataset:
    items = {f"{name}_{n}": Item(f"{name}_{n}", f"JPEGImages/{name}_{n}.jpg", split, (name,)) for n in range(count)}
    return PublishedDataset("/data", ("class",), items, LeftOutItems())


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 3), st.randoms(use_true_random=False))
def test_pairs_of_a_class_do_not_depend_on_the_order(count: int, each: int, seed: int, rng: random.Random) -> None:
    dataset = made(count)
    shuffled = list(dataset.items.items())
    rng.shuffle(shuffled)
    other = PublishedDataset("/data", ("class",), dict(shuffled), LeftOutItems())
    found = list(awa2.same_class_pairs(dataset, each, seed))
    assert set(found) == set(awa2.same_class_pairs(other, each, seed))
    assert len(set(found)) == len(found) == count * min(each, count - 1)
    assert all(pair.query != pair.reference for pair in found)
    assert len(set(Counter(pair.reference for pair in found).values())) <= 1


def test_the_seed_draws_other_pairs_and_other_images_to_validate(animals: Path) -> None:
    drawn = [{(pair.query, pair.reference) for pair in awa2.same_class_pairs(made(40), 3, seed)} for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    for number in range(200):
        (animals / "JPEGImages" / "antelope" / f"antelope_{20000 + number}.jpg").touch()
    valid = [
        {
            item.id
            for item in awa2.read(str(animals), valid_share=0.25, seed=seed).items.values()
            if item.split == "valid"
        }
        for seed in (0, 0, 1)
    ]
    assert valid[0] == valid[1] != valid[2]
    assert 30 < len(valid[0]) < 75  # 207 draws of 1 in 4: 52, and more than 3 standard deviations to either side


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "1\tantelope\n3\tseal\n", r"line 2: '3\\tseal'; expected 2 and a name"),
        ("classes.txt", "1\tantelope\n2\tantelope\n", r"line 2: 'antelope' is in line 1 too"),
        ("classes.txt", "1\t../seal\n", r"line 1: the name is '../seal', no plain name"),
        ("classes.txt", "1\tse\0al\n", r"no plain name"),
        ("classes.txt", "1\tbrown seal x\n", r"expected 1 and a name"),
        ("classes.txt", "\n", r"names nothing"),
        ("classes.txt", b"1\t\xff\n", r"line 1: it is not UTF-8"),
        ("predicates.txt", "1\tblack,white\n2\ta\n3\tb\n", r"line 1: the name is 'black,white', no plain name"),
        ("predicates.txt", "1\tblack\n2\timage\n3\tb\n", r"'image' is the name of a column"),
        ("predicates.txt", "1\tblack\n2\tnewworld\n", r"binary.txt, line 1: 3 numbers; expected 2 of 0 or 1"),
        ("predicate-matrix-binary.txt", "1 0 0\n1 1 0\n0 0 1\n", r"has 3 lines; expected 4"),
        ("predicate-matrix-binary.txt", "1 0 0\n" * 5, r"has more than 4 lines; expected 4"),
        ("predicate-matrix-binary.txt", "1 0 -1\n" * 4, r"line 1: the number '-1'; expected 3 of 0 or 1"),
        ("predicate-matrix-binary.txt", "1 0 " + "9" * 9999 + "\n", r"line 1: the number a text of 9999 characters"),
        ("predicate-matrix-binary.txt", "1 " * 600_000, r"line 1: it is too long"),
        ("trainclasses.txt", "antelope\nunicorn\n", r"line 2: 'unicorn' is no class of classes.txt"),
        ("trainclasses.txt", "antelope\nantelope\n", r"line 2: 'antelope' is listed twice"),
        ("testclasses.txt", "seal\nantelope\n", r"testclasses.txt, line 2: 'antelope' is listed twice, or to train"),
    ],
)
def test_damaged_awa2_files_are_named_with_place(animals: Path, name: str, content: str | bytes, message: str) -> None:
    (animals / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as error:
        awa2.read(str(animals))
    assert len(str(error.value)) < 600


def test_classes_without_images_or_split_are_told(animals: Path) -> None:
    (animals / "trainclasses.txt").write_text("antelope\n")
    (animals / "JPEGImages" / "seal").rename(animals / "JPEGImages" / ".seal")
    dataset = awa2.read(str(animals))
    assert {item.values[0] for item in dataset.items.values()} == {"antelope", "rat"}
    assert dataset.left_out.rows == [
        ("folders in JPEGImages/ of no class in classes.txt", "'.seal'"),
        ("classes in neither trainclasses.txt nor testclasses.txt", "grizzly+bear"),
        ("classes without an image", "seal"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--valid-share", "1"], "--valid-share"),
        (["--valid-share", "nan"], "--valid-share"),
        (["--pairs-per-image", "0"], "--pairs-per-image"),
        (["--all-pairs"], "belongs to --pairs"),
        (["--pairs", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_wrong_options(animals: Path, tmp_path: Path, run: Run, options: list[str], message: str) -> None:
    (line,) = run("catalogue", "awa2", animals, "--out", tmp_path / "made", *options, code=2)
    assert message in line
    assert not (tmp_path / "made").exists()


# Lists of pairs

LIST = (
    "antelope_10001 antelope_10002 1\n"
    "\n"
    "JPEGImages/grizzly+bear/grizzly+bear_10001.jpg\tseal_10002.JPG   1\r\n"
    "antelope_10003 seal_10001 0\n"
    "antelope_10001 antelope_10001 1\n"
    "antelope_10001 unicorn_10001 1\n"
    "antelope_10001 antelope_10002 2\n"
    "antelope_10001 1\n"
    "antelope_10001 antelope_10002 0\n"
    "seal_10001 seal_10002 1"
)
WRONG = [
    "line 5: both images are 'antelope_10001'",
    "line 6: the catalogue has no image 'unicorn_10001'",
    "line 7: the label is '2', 0 or 1 is expected",
    "line 8: the line has 2 fields, 'image image label' is expected",
]


@pytest.mark.parametrize("all_pairs", [False, True])
def test_a_list_of_pairs_row_by_row(animals: Path, tmp_path: Path, run: Run, all_pairs: bool) -> None:
    released = tmp_path / "awa_pairs.txt"
    released.write_bytes(LIST.encode())
    out = tmp_path / "made"
    options = ["--valid-share", 0, *(["--all-pairs"] * all_pairs)]
    lines = run("catalogue", "awa2", animals, "--out", out, *options, "--pairs", released)
    matches = [["antelope_10001", "antelope_10002"], ["grizzly+bear_10001", "seal_10002"]]
    expected = [[*pair, *(["1"] * all_pairs)] for pair in matches]
    expected += [["antelope_10003", "seal_10001", "0"]] * all_pairs
    head = ["query_id", "reference_id", *(["label"] * all_pairs)]
    assert table(out / "pairs-train.csv") == [head, *expected]
    assert table(out / "pairs-test.csv") == [head, ["seal_10001", "seal_10002", *(["1"] * all_pairs)]]
    again = "line 9: the pair of line 1, which has the label 1"
    assert table(out / "left-out.csv")[1:] == [
        *(["lines of pair lists that cannot be used", f"{released} {why}"] for why in WRONG),
        ["lines of pair lists that repeat a pair", f"{released} {again}"],
    ]
    assert ("left out    1 lines of pair lists with label 0, no match" in lines) == (not all_pairs)
    assert f"            {1 + all_pairs} of them join two splits; they are of their query's" in lines
    audit = list(commands(lines))[-1]
    assert audit.keep == (("label",) if all_pairs else ())
    kept = [json.loads(pair.extra or "{}") for pair in pairs(out / "pairs-train.csv", *audit.keep)]
    assert kept == ([{"label": "1"}, {"label": "1"}, {"label": "0"}] if all_pairs else [{}, {}])


def test_pairs_of_polyvore_have_the_condition_of_their_types(polyvore: Path, tmp_path: Path, run: Run) -> None:
    released = tmp_path / "pairs.txt"
    released.write_text("19 17 1\n11 13 1\n20 17 1\n11.jpg 15 0\n")
    run("catalogue", "polyvore-outfits", polyvore, "--out", tmp_path / "made", "--format", "parquet", "--all-pairs",
        "--pairs", released)  # fmt: skip
    found = [
        (pair.query_id, pair.reference_id, pair.condition, pair.extra)
        for split in ("train", "test")
        for pair in pairs(tmp_path / "made" / f"pairs-{split}.parquet", "label")
    ]
    assert found == [
        ("11", "13", "tops+tops", '{"label": "1"}'),
        ("11", "15", "hats+tops", '{"label": "0"}'),
        ("19", "17", "bags+shoes", '{"label": "1"}'),
    ]
    assert table(tmp_path / "made" / "left-out.csv")[-1][1].endswith(
        "line 3: '20' has no type, so the pair has no condition"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "of 0 lines 0 have label 0, 0 repeat a pair, 0 are wrong. A line is"),
        (b"ox_1 ox_2 0\n", "of 1 lines 1 have label 0, 0 repeat a pair, 0 are wrong. A line is .*--all-pairs keeps"),
        (b"ox_1 ox_99 1\n\xff\n", "2 are wrong, the first: line 1: the catalogue has no image 'ox_99'"),
        (b"x" * 2_000_000, "the first: line 1: the line is too long"),
        ("ox_1 ox_2 1".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_list_without_a_usable_line_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "good.txt").write_text("ox_1 ox_0 1")
    (tmp_path / "pairs.txt").write_bytes(content)
    files = [str(tmp_path / "good.txt"), str(tmp_path / "pairs.txt")]
    with pytest.raises(UsageError, match=message) as error:
        list(pair_lists.read(files, made(3).items, LeftOutItems(), all_pairs=False, conditions=False))
    assert "pairs.txt" in str(error.value)


SPACES = st.text(" \t", min_size=1, max_size=3)
NUMBERS = st.integers(0, 5)


@st.composite
def lines_of_pairs(draw: st.DrawFn) -> tuple[str, PairOf]:
    """A line, in one of the ways that an image can be named, and its pair."""

    def image(number: int) -> str:
        folder = draw(st.sampled_from(["", "ox/", "JPEGImages/ox/", "../../ox/", "C:\\ox\\"]))
        return f"{folder}ox_{number}{draw(st.sampled_from(['', '.jpg', '.JPG', '.jpeg', '.png']))}"

    query, reference = draw(st.permutations(range(6)).map(lambda order: order[:2]))
    label = draw(st.integers(0, 1))
    parts = [image(query), draw(SPACES), image(reference), draw(SPACES), str(label)]
    text = draw(st.sampled_from(["", " "])) + "".join(parts) + draw(st.sampled_from(["", " ", "\r"]))
    return text, PairOf(f"ox_{query}", f"ox_{reference}", label)


@given(st.lists(lines_of_pairs() | st.binary(max_size=12), max_size=15), st.booleans())
@settings(deadline=None)
def test_every_line_is_a_pair_or_is_counted(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, PairOf] | bytes], all_pairs: bool
) -> None:
    path = tmp_path_factory.mktemp("lists") / "pairs.txt"
    # noise is no second line, no mark of UTF-16, and no pair
    noise = [b"#" + line.replace(b"\n", b"") for line in lines if isinstance(line, bytes)]
    first: dict[tuple[str, str], PairOf] = {}
    for line in lines:
        if not isinstance(line, bytes):
            first.setdefault((line[1].query, line[1].reference), line[1])
    wanted = [pair for pair in first.values() if all_pairs or pair.label == 1]
    rest = iter(noise)
    path.write_bytes(b"\n".join(next(rest) if isinstance(line, bytes) else line[0].encode() for line in lines))
    left_out = LeftOutItems()
    found = pair_lists.read([str(path)], made(6).items, left_out, all_pairs=all_pairs, conditions=False)
    if not wanted:
        with pytest.raises(UsageError, match="no line that can be used"):
            list(found)
        return
    assert list(found) == [pair if all_pairs else PairOf(pair.query, pair.reference) for pair in wanted]
    assert left_out.counts[pair_lists.UNUSABLE] == len(noise)
    assert left_out.counts.total() == len(lines) - len(wanted)


def test_an_id_that_looks_like_a_file_is_taken_as_it_is() -> None:
    known = {"a.jpg", "b.c", "d"}
    assert [pair_lists.product_id(name, known) for name in ("x/a.jpg", "a.jpg.jpg", "b.c", "b.c.png", "d.jpeg")] == [
        "a.jpg", "a.jpg", "b.c", "b.c", "d",
    ]  # fmt: skip
    for wrong in ("d.gif", "a", "d.jpg.txt", "", "/", "d/"):
        with pytest.raises(BadRow, match="has no image"):
            pair_lists.product_id(wrong, known)
