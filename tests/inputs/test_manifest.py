"""Manifest rows to pairs: every row is a pair or a failure, the same in all formats."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms.core.errors import REASONS, UsageError
from transforms.core.records import Failure, Pair, content_id
from transforms.core.statistics.sampling import NONE, UNREADABLE
from transforms.inputs import manifest
from transforms.inputs.strata import Strata

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> str:
    """The same logical rows (texts or None) in the format of the extension."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        table = {column: pa.array([row.get(column) for row in rows], pa.string()) for column in columns}
        pq.write_table(pa.table(table), path)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(text.getvalue().encode())
    return str(path)


def read_csv(tmp_path: Path, text: str, **options: Any) -> list[Pair | Failure]:
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    return list(manifest.read(str(tmp_path / "pairs.csv"), **options))


def one(tmp_path: Path, text: str, **options: Any) -> Pair:
    (found,) = read_csv(tmp_path, text, **options)
    assert isinstance(found, Pair), found
    return found


def test_addresses_alone_make_a_pair(tmp_path: Path) -> None:
    found = one(tmp_path, "query,reference\nimages/1.jpg,s3://bucket/2.jpg\n")
    assert found == Pair(
        pair_id=content_id("images/1.jpg", "s3://bucket/2.jpg", None, letter="p"),
        query_id="images/1.jpg",
        reference_id="s3://bucket/2.jpg",
        query=str(tmp_path / "images/1.jpg"),
        reference="s3://bucket/2.jpg",
        source="pairs.csv row 1",
    )


def test_all_columns_are_read_under_the_users_names(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        "anchor_sku,reference_id,pair_id,condition,position,served_score,served_model,price,note\n"
        "007,NA,x1,colour,3.0,-1.5e-3,v1.20,7.10,\n",
        columns={"query_id": "anchor_sku", "rank": "position"},
        keep=["price", "note", "absent"],
    )
    assert found == Pair(
        "x1",
        "007",
        "NA",
        condition="colour",
        rank=3,
        served_score=-0.0015,
        served_model="v1.20",
        extra='{"absent": null, "note": null, "price": "7.10"}',
        source="pairs.csv row 1",
    )


def test_ids_and_addresses_may_stand_side_by_side(tmp_path: Path) -> None:
    found = one(tmp_path, "query,query_id,reference,reference_id\nq.jpg,1,r.jpg,\n")
    assert (found.query_id, found.reference_id) == ("1", "r.jpg")
    assert (found.query, found.reference) == (str(tmp_path / "q.jpg"), str(tmp_path / "r.jpg"))


def test_a_pair_id_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    first, second, third, fourth = read_csv(tmp_path, "query_id,reference_id,condition\na,b,\na,b,\na,b,colour\nb,a,\n")
    assert first.pair_id == second.pair_id == content_id("a", "b", None, letter="p")
    assert len({first.pair_id, third.pair_id, fourth.pair_id}) == 3


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("rank", "-1", "an integer from 0"),
        ("rank", "1.5", "an integer from 0"),
        ("rank", "1e3", "an integer from 0"),
        ("rank", "first", "rank is 'first'"),
        ("rank", "2147483648", "an integer from 0 to 2147483647"),
        ("rank", "٣", "an integer from 0"),
        ("served_score", "nan", "served_score is 'nan'; a finite number"),
        ("served_score", "inf", "a finite number"),
        ("served_score", "1e999", "a finite number"),
        ("served_score", '"0,93"', "served_score is '0,93'"),
        ("served_score", "1_0", "a finite number"),
        ("pair_id", "x" * 8193, "pair_id has 8193 characters"),
    ],
)
def test_a_wrong_type_is_a_bad_row_that_names_column_and_value(
    tmp_path: Path, column: str, value: str, expected: str
) -> None:
    bad, good = read_csv(tmp_path, f"query_id,reference_id,{column}\na,b,{value}\na,b,\n")
    assert isinstance(bad, Failure)
    assert isinstance(good, Pair)
    assert expected in bad.message
    assert (bad.stage, bad.reason, bad.retryable, bad.source) == ("read", "bad_row", False, "pairs.csv row 1")
    assert (bad.query_id, bad.reference_id) == ("a", "b")


@pytest.mark.parametrize(
    ("rank", "expected"), [("0", 0), ("007", 7), ("3.0", 3), ("2147483647", 2**31 - 1), (" ", None)]
)
def test_ranks(tmp_path: Path, rank: str, expected: int | None) -> None:
    assert one(tmp_path, f"query,reference,rank\na,b,{rank}\n").rank == expected


def test_every_problem_of_a_row_is_named(tmp_path: Path) -> None:
    (bad,) = read_csv(tmp_path, "query,query_id,reference,rank,served_score\n,,r.jpg,x,y\n")
    assert isinstance(bad, Failure)
    assert bad.message.split("; ")[0] == "neither 'query' nor 'query_id' has a value"
    assert "rank is 'x'" in bad.message
    assert "served_score is 'y'" in bad.message
    assert (bad.pair_id, bad.query_id, bad.reference_id) == (None, None, "r.jpg")


def test_values_that_are_no_texts_are_no_ids(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"query_id": 7, "reference_id": "b", "rank": 2, "served_score": 0.5, "served_model": 3},
        {"query_id": 7.0, "reference_id": "b"},
        {"query_id": True, "reference_id": "b"},
        {"query_id": ["a"], "reference_id": {"b": 1}},
        {"query_id": "a", "reference_id": "b", "rank": True},
        {"query_id": "a", "reference_id": "b", "served_score": "0.5"},
    ]
    address = write(tmp_path / "pairs.jsonl", lines, [])
    good, real, boolean, nested, rank, text = manifest.read(address)
    assert isinstance(good, Pair)
    assert (good.query_id, good.rank, good.served_score) == ("7", 2, 0.5)
    assert good.served_model == "3"
    assert isinstance(real, Failure)
    assert "query_id is a number with a fraction or an exponent, '7.0'" in real.message
    assert isinstance(boolean, Failure)
    assert "query_id is a boolean, 'true'" in boolean.message
    assert isinstance(nested, Failure)
    assert "a list" in nested.message
    assert "an object" in nested.message
    assert isinstance(rank, Failure)
    assert "rank is 'true'" in rank.message
    assert isinstance(text, Pair)
    assert text.served_score == 0.5


def test_a_row_that_cannot_be_read_is_a_failure_without_ids(tmp_path: Path) -> None:
    bad, good = read_csv(tmp_path, "query,reference\na\na,b\n")
    assert bad == Failure(None, None, None, "read", "bad_row", bad.message, False, "pairs.csv row 1")  # type: ignore[union-attr]
    assert isinstance(good, Pair)


def test_no_secret_goes_from_an_address_to_an_id_a_message_or_the_extra(tmp_path: Path) -> None:
    secret = "https://user:hunter2@shop.example/1.jpg?X-Amz-Signature=hunter2"
    found = read_csv(
        tmp_path,
        f"query,reference,query_id,rank,link\n{secret},r.jpg,,1,{secret}\nq.jpg,{secret},{secret},x,\n{secret}\n"
        f"q.jpg,r.jpg,a,{secret},\n",
        keep=["link"],
    )
    assert isinstance(found[0], Pair)
    assert found[0].query == secret
    assert found[0].query_id == "https://shop.example/1.jpg"
    assert len(found) == 4
    assert "hunter2" not in repr([replace(item, query="") if isinstance(item, Pair) else item for item in found])


# The header


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("a,b", {}, "no column 'query' (an image address) or 'query_id' (a product's id)"),
        ("a,b", {}, "Its columns are 'a', 'b'"),
        ("a,b", {}, "--columns query_id=anchor_sku"),
        ("query,b", {}, "no column 'reference'"),
        ("query_id,reference", {}, "'query_id' needs a catalogue"),
        ("query,reference", {"columns": {"rank": "position"}}, "no column 'position', which --columns names for rank"),
        ("query,reference", {"columns": {"query": "q"}}, "no column 'q'"),
        ("query,reference", {"columns": {"anchor": "query"}}, "--columns maps 'anchor', which whymatch does not read"),
        ("query,reference", {"keep": ["price"]}, "no column 'price', which --keep names"),
        ("query,reference,query", {}, "several columns 'query'"),
    ],
)
def test_a_header_that_cannot_do_is_a_usage_error_before_a_run(
    tmp_path: Path, header: str, options: dict[str, Any], expected: str
) -> None:
    (tmp_path / "pairs.csv").write_text(header + "\n")
    with pytest.raises(UsageError) as caught:
        manifest.check_header(str(tmp_path / "pairs.csv"), **options)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("query,reference", {}),
        ("query_id,reference_id", {"has_catalogue": True}),
        ("query,reference_id", {"has_catalogue": True}),
        ("anchor_sku,reference_id,x", {"has_catalogue": True, "columns": {"query_id": "anchor_sku"}, "keep": ["x"]}),
    ],
)
@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_a_header_that_will_do(tmp_path: Path, header: str, options: dict[str, Any], extension: str) -> None:
    columns = header.split(",")
    row = dict.fromkeys(columns, "x")
    manifest.check_header(write(tmp_path / f"pairs.{extension}", [row], columns), **options)


def test_unknown_names_are_refused_on_reading_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'anchor'"):
        read_csv(tmp_path, "query,reference\na,b\n", columns={"anchor": "query"})


# Properties

ID = st.sampled_from(["a", "007", "NA", "7.0", "a\nb", 'x"y', "שלום", "\u202e7", "", " ", "a,b", "é"])
ADDRESS = st.sampled_from(
    ["q.jpg", "s3://b/k.jpg", "../x.jpg", "https://u:p@h/i?sku=1", "", "::", "file:///etc/passwd"]
)
ROW = st.fixed_dictionaries(
    {
        "query": ADDRESS,
        "reference": ADDRESS,
        "query_id": ID,
        "reference_id": ID | st.none(),
        "pair_id": st.sampled_from(["", "p1", "p2", None]),
        "condition": st.sampled_from(["", "colour", None]),
        "rank": st.sampled_from(["0", "3", "3.0", "-1", "x", "", "99999999999"]),
        "served_score": st.sampled_from(["0.5", "nan", "1e400", "", None, "-.5e1"]),
        "served_model": st.sampled_from(["v1", "", "1.0"]),
        "note": ID,
    }
)


@SETTINGS
@given(rows=st.lists(ROW, min_size=1, max_size=12))
def test_every_row_is_a_pair_or_a_failure_and_the_same_in_every_format(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    found = {}
    for extension in ("csv", "jsonl", "parquet"):
        address = write(tmp_path / f"pairs.{extension}", rows, list(rows[0]))
        items = list(manifest.read(address, keep=["note"]))
        assert len(items) == len(rows)
        assert len({item.source for item in items}) == len(rows)
        found[extension] = [replace(item, source="") for item in items]
    assert found["csv"] == found["jsonl"] == found["parquet"]
    for row, item in zip(rows, found["csv"], strict=True):
        assert isinstance(item, Pair) == _good(row)
        if isinstance(item, Failure):
            assert item.reason == "bad_row"
            assert item.reason in REASONS
            assert item.message
        else:
            assert item.extra is not None
            assert json.loads(item.extra) == {"note": row["note"] if row["note"].strip() else None}
            assert item.pair_id == (
                row["pair_id"] or content_id(item.query_id, item.reference_id, item.condition, letter="p")
            )


def _good(row: dict[str, Any]) -> bool:
    """What the definition says, independent of the reader."""
    named = all(any((row[name] or "").strip() for name in (side, f"{side}_id")) for side in ("query", "reference"))
    return named and row["rank"] in ("0", "3", "3.0", "") and row["served_score"] in ("0.5", "", None, "-.5e1")


@SETTINGS
@given(rows=st.lists(ROW, min_size=2, max_size=8), order=st.randoms(use_true_random=False))
def test_canonical_bytes_choose_the_same_row_whatever_the_order(
    tmp_path: Path, rows: list[dict[str, Any]], order: Any
) -> None:
    address = write(tmp_path / "pairs.jsonl", rows, list(rows[0]))
    shuffled = write(tmp_path / "shuffled.jsonl", order.sample(rows, len(rows)), list(rows[0]))
    best = []
    for name in (address, shuffled):
        pairs = [item for item in manifest.read(name, keep=["note"]) if isinstance(item, Pair)]
        best.append(replace(min(pairs, key=manifest.canonical), source="") if pairs else None)
    assert best[0] == best[1]


def test_canonical_bytes_differ_wherever_the_content_does_and_ignore_the_place() -> None:
    pair = Pair("p", "a", "b", "q.jpg", "r.jpg", "c", 1, 0.5, "m", "{}", "pairs.csv row 1")
    assert manifest.canonical(replace(pair, source="pairs.csv row 2")) == manifest.canonical(pair)
    others = [
        replace(pair, **change)
        for change in (
            {"pair_id": "x"},
            {"query_id": "x"},
            {"reference_id": "x"},
            {"query": "x"},
            {"reference": "x"},
            {"condition": None},
            {"rank": None},
            {"served_score": 0.25},
            {"served_model": None},
            {"extra": None},
            {"stratum": "x"},
        )
    ]
    assert len({manifest.canonical(other) for other in [pair, *others]}) == 12
    assert manifest.canonical(replace(pair, query_id='a","b')) != manifest.canonical(pair)


# Strata

BY_NOTE = Strata("note")


@SETTINGS
@given(rows=st.lists(ROW, min_size=1, max_size=12), strata=st.sampled_from([BY_NOTE, Strata(), Strata("query_id")]))
def test_queries_are_read_as_their_rows_are(tmp_path: Path, rows: list[dict[str, Any]], strata: Strata) -> None:
    for extension in ("csv", "jsonl", "parquet"):
        address = write(tmp_path / f"pairs.{extension}", rows, list(rows[0]))
        items = list(manifest.read(address, strata=strata))
        queries = list(manifest.read_queries(address, strata=strata))
        assert queries == [None if item.query_id is None else (item.query_id, item.stratum) for item in items]
        assert [item.stratum for item in items if item.query_id is None] == [UNREADABLE] * queries.count(None)
        if strata == BY_NOTE:
            notes = [(row["note"].strip() and row["note"]) or NONE for row in rows]
            assert all(query is None or query[1] == note for query, note in zip(queries, notes, strict=True))


def test_a_row_with_an_unreadable_cell_has_no_query_for_the_census_either(tmp_path: Path) -> None:
    """Although the query is in another cell: a row counts as the run will read it."""
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"query_id,reference_id,served_model,note\na,b,\xff,n\na,b,,\0\na,b,m\na,b,m,n\n")
    options: dict[str, Any] = {"strata": Strata()}
    assert list(manifest.read_queries(str(path), **options)) == [None, ("a", "all"), None, ("a", "all")]
    options["keep"] = ["note"]
    assert list(manifest.read_queries(str(path), **options)) == [None, None, None, ("a", "all")]
    assert [item.stratum for item in manifest.read(str(path), **options)] == [UNREADABLE] * 3 + ["all"]


def test_a_number_is_no_id_beside_a_text_that_looks_like_it(tmp_path: Path) -> None:
    lines = [{"query_id": value, "reference_id": "b", "kind": value} for value in ("7.0", 7.0, True)]
    found = list(manifest.read_queries(write(tmp_path / "pairs.jsonl", lines, []), strata=Strata("kind")))
    assert found == [("7.0", "7.0"), None, None]


def test_a_stratum_may_be_any_value(tmp_path: Path) -> None:
    lines = [{"query": "q.jpg", "reference": "r.jpg", "kind": value} for value in (7, 7.5, True, None, " ", "x")]
    items = list(manifest.read(write(tmp_path / "pairs.jsonl", lines, []), strata=Strata("kind")))
    assert [item.stratum for item in items] == ["7", "7.5", "true", "(none)", "(none)", "x"]
    assert {type(item.stratum) for item in items} == {str}


def test_bad_rows_with_a_query_have_its_stratum(tmp_path: Path) -> None:
    found = read_csv(
        tmp_path, "query_id,reference_id,rank,kind\na,b,x,coat\n,b,1,coat\na,,1,hat\n", strata=Strata("kind")
    )
    assert [(type(item), item.stratum, item.weight) for item in found] == [
        (Failure, "coat", 1.0),
        (Failure, UNREADABLE, 1.0),
        (Failure, "hat", 1.0),
    ]
