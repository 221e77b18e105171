"""Rows of CSV, JSON lines and Parquet files: what is text stays text, what is bad is counted."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms.core.errors import BadRow, UsageError
from transforms.inputs import lines, rows
from transforms.inputs.cells import MAX_TEXT, NonTextCell

FORMATS = ["csv", "csv.gz", "jsonl", "ndjson", "jsonl.gz", "parquet"]
# Files are named per example, so a shared folder holds no state.
SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "007",
        "NA",
        "null",
        "NaN",
        "1e5",
        "7.0",
        "True",
        "a,b",
        'say "x"',
        "a\nb",
        "a\r\nb",
        "\r",
        "שלום",
        "\u202e1",
        "'",
        "\\",
    ]
)


def write(path: Path, content: list[dict[str, Any]], columns: list[str]) -> str:
    """The same logical rows in the format of the extension; all of them texts or None."""
    if path.name.endswith((".jsonl", ".ndjson", ".jsonl.gz")):
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    elif path.name.endswith(".parquet"):
        pq.write_table(
            pa.table({column: pa.array([row.get(column) for row in content], pa.string()) for column in columns}),
            path,
            row_group_size=3,
        )
        return str(path)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(content)
        data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


def read(address: str, *columns: str, rest: bool = False) -> list[dict[str, str | None] | str]:
    """Cells of the rows that can be read, the messages of the others."""
    found = rows.read_rows(address, columns, rest=rest)
    return [row.cells if isinstance(row, rows.Row) else row.message for row in found]


def refusal(action: Callable[[], object]) -> str | None:
    """The message of the UsageError that ``action`` raises, if it does."""
    try:
        action()
    except UsageError as error:
        return str(error)
    return None


def csv_file(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "a.csv").write_bytes(data)
    return str(tmp_path / "a.csv")


def jsonl_file(tmp_path: Path, *data: bytes) -> str:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(data))
    return str(tmp_path / "a.jsonl")


def blank(text: str | None) -> str | None:
    return None if text is None or not text.strip() else text


@pytest.mark.parametrize("extension", FORMATS)
@SETTINGS
@given(content=st.lists(st.fixed_dictionaries({"a": TEXTS | st.none(), "b c": TEXTS}), min_size=1, max_size=8))
def test_every_format_gives_the_texts_that_were_written(
    tmp_path: Path, extension: str, content: list[dict[str, Any]]
) -> None:
    address = write(tmp_path / f"f.{extension}", content, ["a", "b c"])
    assert read(address, "a", "b c") == [{key: blank(text) for key, text in row.items()} for row in content]


@pytest.mark.parametrize(
    ("extension", "sources"),
    [
        ("csv", ["f.csv row 1", "f.csv row 2"]),
        ("jsonl", ["f.jsonl line 1", "f.jsonl line 2"]),
        ("parquet", ["f.parquet row 1", "f.parquet row 2"]),
    ],
)
def test_sources_count_from_one_as_a_user_does(tmp_path: Path, extension: str, sources: list[str]) -> None:
    address = write(tmp_path / f"f.{extension}", [{"a": "x\ny", "b": "1"}, {"a": "z", "b": "2"}], ["a", "b"])
    assert [row.source for row in rows.read_rows(address, ["a"])] == sources
    assert rows.header(address) == ("a", "b")


def test_only_asked_columns_are_read_unless_the_rest_is_asked_for(tmp_path: Path) -> None:
    address = csv_file(tmp_path, b",id,x\n0,a,\n")
    assert read(address, "id", "nowhere") == [{"id": "a"}]
    assert read(address, "id", rest=True) == [{"id": "a", "x": None}]  # the unnamed index column stays out
    assert read(jsonl_file(tmp_path, b'{"id": 1, "l": [1], "x": "y"}'), "id", rest=True) == [{"id": "1", "x": "y"}]
    assert read(jsonl_file(tmp_path, b'{"id": 1, "l": [1.50, "\xc3\xa9"]}'), "l") == [{"l": '[1.5, "é"]'}]


# Hostile CSV


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"1,2\n\n\r\n  \n3,4", [("1", "2"), ("3", "4")]),  # empty lines are no rows
        (b"1,2\r\n3,4\r\n", [("1", "2"), ("3", "4")]),
        (b'"1\n\n1",2\n3,4\n', [("1\n\n1", "2"), ("3", "4")]),
        (b"1\n1,2,3\n3,4\n", ["1 cells", "3 cells", ("3", "4")]),  # ragged
        (b"\xe9,2\n3,4\n", ["not UTF-8", ("3", "4")]),  # latin-1
        (b"1\0,2\n3,4\n", ["NUL", ("3", "4")]),
        (b",\n3,4\n", [(None, None), ("3", "4")]),
        (b'1,"2\n3,4\n5,6\n', ["not closed", ("3", "4"), ("5", "6")]),  # a lost mark costs its own row only
        (b'1,"2\n3,"4"\n5,6\n', ["not closed", ("3", "4"), ("5", "6")]),
        (b'1,"2"x\n3,4\n', ["no CSV", ("3", "4")]),
        (b'1,"2\\"x"\n3,4\n', ["no CSV", ("3", "4")]),  # backslashes escape nothing
        (b"1," + b"x" * (MAX_TEXT + 1) + b"\n3,4\n", ["field larger", ("3", "4")]),
        (b"1," + b"x" * lines.MAX_ROW_BYTES + b"\n3,4\n", ["longer than", ("3", "4")]),
        (b'1,"' + b"x" * 3 * lines.MAX_ROW_BYTES + b'\n"\n3,4\n', ["longer than", "not closed", ("3", "4")]),
        (b"1\r2,3\n4,5\n", ["no CSV", ("4", "5")]),
    ],
)
def test_a_bad_csv_row_is_counted_and_the_stream_goes_on(
    tmp_path: Path, body: bytes, expected: list[str | tuple[str | None, str | None]]
) -> None:
    found = read(csv_file(tmp_path, b"\xef\xbb\xbfa, b\n" + body), "a", "b")
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, str):
            assert isinstance(row, str)
            assert wanted in row
        else:
            assert row == dict(zip("ab", wanted, strict=True))


def test_one_lost_quotation_mark_costs_one_row_of_a_large_file(tmp_path: Path) -> None:
    body = [b"%d,x" % number for number in range(150_000)]
    body[70] = b'70,"x'
    found = read(csv_file(tmp_path, b"a,b\n" + b"\n".join(body)), "a")
    assert [at for at, row in enumerate(found) if isinstance(row, str)] == [70]
    assert len(found) == 150_000
    assert found[-1] == {"a": "149999"}


@pytest.mark.timeout(120)
def test_quotation_marks_that_never_add_up_are_read_in_linear_time(tmp_path: Path) -> None:
    """In a second or two; were every mark looked for anew to the end of the file, it would take hours."""
    found = read(csv_file(tmp_path, b"a,b\n1,2\n" + b'x","\n' * 400_000), "a", "b")
    assert found[0] == {"a": "1", "b": "2"}
    assert len(found) > 1000


@SETTINGS
@given(body=st.lists(st.sampled_from(["a", "b", ",", '"', '""', "\n", "\r\n"]), max_size=30).map("".join))
def test_csv_records_are_those_of_a_strict_reader_of_the_whole_text(body: str) -> None:
    """The standard reader on the whole file is the oracle wherever it finds no fault."""
    found = list(lines.records(lines.Lines(io.BytesIO(body.encode()), "x.csv")))
    try:
        whole = list(csv.reader(io.StringIO(body, newline=""), strict=True))
    except csv.Error:
        assert any(isinstance(record, str) for record in found)
    else:
        assert found == [cells for cells in whole if cells and (len(cells) > 1 or cells[0].strip())]


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet", "csv.gz"])
@SETTINGS
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"a,b\n", b'{"a": 1}\n']))
def test_no_bytes_raise_anything_but_a_usage_error(tmp_path: Path, extension: str, data: bytes, head: bytes) -> None:
    path = tmp_path / f"x.{extension}"
    path.write_bytes(head + data)
    for action in (lambda: rows.header(str(path)), lambda: read(str(path), "a", rest=True)):
        refused = refusal(action)
        assert refused is None or path.name in refused


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "is empty"),
        (b"a,b,a\n1,2,3\n", "several columns 'a'"),
        (b"a;b\n1;2\n", "separated by commas"),
        (b"\xff\xfea\0,\0b\0\n\0", "UTF-16"),
        (b"\xe9,b\n1,2\n", "not UTF-8"),
        (b'"a,b\n1,2\n', "no header"),
    ],
)
def test_a_csv_file_without_a_usable_header_is_a_usage_error(tmp_path: Path, head: bytes, message: str) -> None:
    address = csv_file(tmp_path, head)
    for action in (lambda: rows.header(address), lambda: read(address, "a")):
        with pytest.raises(UsageError, match=message) as caught:
            action()
        assert "a.csv" in str(caught.value)


def test_unnamed_columns_may_be_several(tmp_path: Path) -> None:
    assert read(csv_file(tmp_path, b",a,\n1,2,3\n"), "a", "") == [{"a": "2"}]


# Hostile JSON lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[" * 500_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * lines.MAX_ROW_BYTES + b'"}', "longer than"),
        (b'{"a": "' + b"x" * (MAX_TEXT + 1) + b'"}', "characters"),
        (b'{"a": 1', "no JSON"),
        (b"[1, 2]", "no object"),
        (b"7", "no object"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": 1, "a": 2}', "more than once"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": 007}', "no JSON"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"\\ud800": "x"}', "no text"),
    ],
)
def test_a_bad_json_line_is_counted_and_the_stream_goes_on(tmp_path: Path, line: bytes, message: str) -> None:
    found = read(jsonl_file(tmp_path, b'\xef\xbb\xbf{"a": "1"}', line, b"", b'{"a": "3", "b": null}'), "a", rest=True)
    assert len(found) == 3
    assert message in str(found[1])
    assert (found[0], found[2]) == ({"a": "1"}, {"a": "3", "b": None})
    assert isinstance(found[1], str)
    found[1].encode()  # a table can hold the message


def test_json_lines_have_the_columns_of_their_first_rows(tmp_path: Path) -> None:
    assert rows.header(jsonl_file(tmp_path, b"{", b'{"b": 1}', b'{"a": [], "b": 2}')) == ("b", "a")
    for content in (b"", b"[\n1\n]", b"{}"):
        with pytest.raises(UsageError, match="one object a line"):
            rows.header(jsonl_file(tmp_path, content))


# Types


def test_json_values_are_their_text_and_those_that_are_no_ids_say_what_they_are(tmp_path: Path) -> None:
    line = b'{"i": 7, "big": 12345678901234567890123, "f": 7.10, "e": 1E5, "t": true, "n": null, "l": [1], "s": "007"}'
    cells = read(jsonl_file(tmp_path, line), *"ifetnls", "big")[0]
    assert cells == {
        "i": "7",
        "big": "12345678901234567890123",
        "f": "7.10",
        "e": "1E5",
        "t": "true",
        "n": None,
        "l": "[1]",
        "s": "007",
    }
    assert isinstance(cells, dict)
    kinds = {name: cell.kind for name, cell in cells.items() if isinstance(cell, NonTextCell)}
    fraction = "a number with a fraction or an exponent"
    assert kinds == {"f": fraction, "e": fraction, "t": "a boolean", "l": "a list"}


PARQUET: list[tuple[pa.Array[Any], str | None, bool]] = [  # array, its text, whether it is fit to be an id
    (pa.array(["007"]), "007", True),
    (pa.array(["NA"], pa.large_string()), "NA", True),
    (pa.array(["x"]).dictionary_encode(), "x", True),
    (pa.array([7], pa.int8()), "7", True),
    (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615", True),
    (pa.array([decimal.Decimal(12345678901234567890)], pa.decimal128(38, 0)), "12345678901234567890", True),
    (pa.array([decimal.Decimal("7.10")], pa.decimal128(5, 2)), "7.10", False),
    (pa.array([b"caf\xc3\xa9"], pa.binary()), "café", True),
    (pa.array([b"\xff\xd8\xff"], pa.binary()), "ffd8ff", False),
    (pa.array([uuid.UUID(int=7).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000007", True),
    (pa.array([7.0]), "7.0", False),
    (pa.array([0.1], pa.float32()), "0.10000000149011612", False),
    (pa.array([True]), "true", False),
    (pa.array([None]), None, True),
    (pa.array([None], pa.string()), None, True),
    (pa.array([" "], pa.string()), None, True),
    (pa.array([datetime.date(2024, 2, 29)]), "2024-02-29", False),
    (pa.array([1], pa.timestamp("ns", tz="Mars/Crater")), "1970-01-01 00:00:00.000000001", False),
    (pa.array([1], pa.duration("ns")), None, False),
    (pa.array([["a", None]]), '["a", null]', False),
    (pa.array([{"a": 1}]), '{"a": 1}', False),
]


@pytest.mark.parametrize(("array", "expected", "fit"), PARQUET, ids=lambda value: str(getattr(value, "type", value)))
def test_parquet_values_are_their_text_by_declared_type(
    tmp_path: Path, array: pa.Array[Any], expected: str | None, fit: bool
) -> None:
    pq.write_table(pa.table({"a": array}), tmp_path / "f.parquet")
    (row,) = rows.read_rows(str(tmp_path / "f.parquet"), ["a"])
    assert isinstance(row, rows.Row)
    if pa.types.is_duration(array.type):
        assert isinstance(row.cells["a"], NonTextCell)
    else:
        assert row.cells == {"a": expected}
    if fit:
        assert rows.text(row, "a") == expected
    else:
        with pytest.raises(BadRow, match=r"a is .*; a text or an integer is expected"):
            rows.text(row, "a")


def test_parquet_text_that_is_no_text_is_a_bad_row(tmp_path: Path) -> None:
    broken = pa.array([b"ok", b"\xe9", b"n\0l"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": broken}), tmp_path / "f.parquet")
    found = read(str(tmp_path / "f.parquet"), "a")
    assert found[0] == {"a": "ok"}
    assert "not UTF-8" in str(found[1])
    assert "NUL" in str(found[2])


def test_parquet_columns_with_dots_and_missing_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["1", "2"], "a.b": ["3", "4"], "s": [{"b": 1}, None]}), tmp_path / "f.parquet")
    address = str(tmp_path / "f.parquet")
    assert read(address, "a") == [{"a": "1"}, {"a": "2"}]
    assert read(address, "a.b") == [{"a.b": "3"}, {"a.b": "4"}]
    assert read(address, "s", "a", rest=True)[1] == {"a": "2", "a.b": "4", "s": None}
    assert read(address, rest=True)[0] == {"a": "1", "a.b": "3"}
    assert read(address, "nowhere") == [{}, {}]  # the rows count, also without a column


def test_a_damaged_parquet_file_is_a_usage_error(tmp_path: Path) -> None:
    address = write(tmp_path / "f.parquet", [{"a": str(number)} for number in range(50)], ["a"])
    whole = Path(address).read_bytes()
    damaged = 0
    for at in range(0, len(whole), max(1, len(whole) // 120)):
        Path(address).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        refused = refusal(lambda: read(address, "a"))
        assert refused is None or "f.parquet is no whole Parquet file" in refused
        damaged += refused is not None
    assert damaged >= 20
    for cut in (b"", whole[: len(whole) // 2]):
        Path(address).write_bytes(cut)
        with pytest.raises(UsageError, match=r"f\.parquet is no whole Parquet file"):
            read(address, "a")


def test_page_checksums_find_every_changed_byte_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    table = pa.table({"a": [f"images/{number}.jpg" for number in range(40)]})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **plain)
    whole = path.read_bytes()
    first, last = whole.index(b"images/0.jpg"), whole.index(b"images/39.jpg") + 12
    for at in range(first, last, 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refusal(lambda: read(str(path), "a")) is not None


def test_a_gzip_file_that_is_cut_is_a_usage_error_after_the_rows_before(tmp_path: Path) -> None:
    address = write(tmp_path / "f.csv.gz", [{"a": str(number), "b": "x"} for number in range(9000)], ["a", "b"])
    whole = Path(address).read_bytes()
    Path(address).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"f\.csv\.gz is no whole gzip file"):
        read(address, "a")


# Addresses and ids


def test_an_unknown_extension_names_those_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pairs\.xlsx.*\.csv.*\.jsonl.*\.ndjson.*\.parquet"):
        read(str(tmp_path / "pairs.xlsx"), "a")
    with pytest.raises(UsageError, match="nothing"):
        read(str(tmp_path / "pairs.csv"), "a")


def test_extensions_are_read_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.CSV").write_bytes(b"a,b\n1,2\n")
    assert read(str(tmp_path / "A.CSV"), "a") == [{"a": "1"}]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("images/1.jpg", "images/1.jpg"),
        ("s3://bucket/a b/1.jpg", "s3://bucket/a b/1.jpg"),
        ("https://u:hunter2@shop.example/1.jpg", "https://shop.example/1.jpg"),
        ("https://shop.example/1.jpg?X-Amz-Signature=abc&X-Amz-Date=1&Expires=2", "https://shop.example/1.jpg"),
        ("https://shop.example/1.jpg?sv=2020&se=2030&sig=abc", "https://shop.example/1.jpg"),
    ],
)
def test_an_address_as_an_id_has_no_credentials(address: str, expected: str) -> None:
    assert rows.public(address) == expected
    assert rows.public(expected) == expected


def test_addresses_that_differ_in_what_is_masked_stay_apart() -> None:
    first, again, other = (
        rows.public(f"https://shop.example/image?sku={sku}&sig={sig}") for sku, sig in [(1, "a"), (1, "b"), (2, "a")]
    )
    assert first == again != other
    assert first.startswith("https://shop.example/image~")
    assert "sku" not in first
    folder = "images/basic t-shirts"  # looks like an Authorization header to a redacting eye
    assert rows.public(f"{folder}/1.jpg") != rows.public(f"{folder}/2.jpg")


def test_messages_and_sources_hold_no_secret(tmp_path: Path) -> None:
    secret = "https://user:hunter2@host/x.jpg?sig=hunter2"
    found = list(rows.read_rows(csv_file(tmp_path, f"a,b\n{secret}\n{secret}\0,1\n".encode()), ["a", "b"]))
    assert len(found) == 2
    assert all(isinstance(row, rows.UnreadableRow) for row in found)
    assert "hunter2" not in repr(found)
    assert rows.file_name("https://user:hunter2@host/pairs.csv?sig=hunter2") == "pairs.csv"


# Streaming


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_memory_stays_flat_however_long_the_file_is(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"f.{extension}"
    count = 50_000
    if extension == "parquet":
        texts = pa.array([f"images/{number:09d}.jpg" for number in range(count)])
        pq.write_table(pa.table({"a": texts, "b": texts}), path, row_group_size=10_000)
    else:
        form = '"images/%09d.jpg","x"\n' if extension == "csv" else '{"a": "images/%09d.jpg", "b": "x"}\n'
        body = "".join(form % number for number in range(count))
        path.write_text(("a,b\n" if extension == "csv" else "") + body)
    found, outside = 0, 0
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        for row in rows.read_rows(str(path), ["a", "b"]):
            found += isinstance(row, rows.Row)
            outside = max(outside, pa.total_allocated_bytes() - before)  # Arrow's own memory is not traced
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count
    assert peak < 4 * 2**20
    assert outside < 4 * 2**20
