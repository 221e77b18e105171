"""`whymatch erase`: rows of a product go from every table, nothing else changes; on disk and in emulated buckets."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import cli
from pipeline.results import sql
from tests.support.tables.rows import STARTED, explanation, failure, publish, run
from transforms import storage, tables
from transforms.core.errors import RunError, UsageError
from transforms.core.name_redaction import NameRedactor
from transforms.storage import drivers
from transforms.tables import erasure as erasing
from transforms.tables import parquet, runs
from transforms.tables.erased_ids import Ids
from transforms.tables.erasure import Erasure
from transforms.tables.erasure_search import TABLES, find
from transforms.tables.rewriting import ROW_GROUP

Row = dict[str, Any]


def image(address: str, **given: Any) -> Row:
    return {"address": address, "image_sha256": "0", "height": 80, "width": 60, **given}


def metric(query_id: str | None, reference_id: str | None, value: float | None = 0.5, **given: Any) -> Row:
    fixed = {"evaluation_id": "ev1", "metric": "insertion", "method": "rise", "control": False, "stratum": "all"}
    return {**fixed, "weight": 1.0, "query_id": query_id, "reference_id": reference_id, "value": value, **given}


def product(product_id: str, **given: Any) -> Row:
    return {"product_id": product_id, "image": f"/images/{product_id}.jpg", "attributes": ["colour=red"], **given}


def put(out: str, table: str, run_id: str, name: str, data: pa.Table) -> str:
    address = storage.join(tables.folder(out, table, run_id), name)
    storage.publish(address, parquet.to_parquet(data))
    return address


def write(out: str) -> None:
    """A complete run r1 with an evaluation, and an unfinished run r2; ``hat`` stands in each of their tables."""
    publish(out, "products", "r1", [product("hat"), product("red shoe")])
    publish(out, "images", "r1", [image(f"/images/{name}.jpg") for name in ("red shoe", "blue shoe", "hat")])
    publish(out, "explanations", "r1", [explanation("red shoe", "blue shoe"), explanation("red shoe", "hat")])
    publish(out, "explanations", "r1", [explanation("hat", "blue shoe")], shard=1)
    publish(out, "explanations", "r1", [explanation("blue shoe", "red shoe")], shard=2)
    quoting = {**failure("red shoe", "gone", "duplicate_pair"), "message": "another row has the pair id 'red shoe-hat'"}
    placed = {**failure("red shoe", "that", "empty"), "message": "a hatch", "source": "hat.csv row 7"}
    publish(out, "failures", "r1", [failure("gone", "hat", "not_found"), quoting, placed])
    metrics = [metric("red shoe", "blue shoe", float("nan")), metric("hat", "blue shoe"), metric(None, None)]
    put(out, "metrics", "r1", tables.part(0, "ev1"), tables.to_arrow("metrics", metrics))
    publish(out, "runs", "r1", [run(explained=4, failed=3)])
    publish(out, "explanations", "r2", [explanation("hat", "cap"), explanation("scarf", "cap")])


def rows(out: str, table: str, run_id: str, *columns: str) -> list[tuple[Any, ...]]:
    """The rows of a table of a run in the files' order, as tuples of ``columns``."""
    files = [address for other, address in runs.files(out, table) if other == run_id]
    read = [row for file in files for row in _read(file).to_pylist()]
    return [tuple(row[column] for column in columns) for row in read]


def _read(address: str) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(storage.read_file(address)), page_checksum_verification=True).read()


def contents(out: str) -> dict[str, bytes]:
    return {address: storage.read_file(address) for address in storage.list_files(out)}


def erase(out: str, *given: str, run_id: str | None = None) -> list[dict[str, int]]:
    ids, erasure = Ids(given), Erasure("1")
    return [erasing.erase(out, found, ids, erasure) for found in find(out, ids, run_id)]


@pytest.fixture
def out(tmp_path: Path) -> str:
    write(str(tmp_path / "tables"))
    return str(tmp_path / "tables")


def check_hat_is_gone(out: str) -> None:
    assert rows(out, "products", "r1", "product_id") == [("red shoe",)]
    assert rows(out, "images", "r1", "address") == [("/images/red shoe.jpg",), ("/images/blue shoe.jpg",)]
    pairs = [("red shoe", "blue shoe"), ("blue shoe", "red shoe")]
    assert rows(out, "explanations", "r1", "query_id", "reference_id") == pairs
    assert rows(out, "failures", "r1", "message", "source") == [
        ("another row has the pair id 'red shoe-***'", None),
        ("a hatch", "***.csv row 7"),
    ]
    kept = rows(out, "metrics", "r1", "query_id", "reference_id", "value")
    assert repr(kept) == "[('red shoe', 'blue shoe', nan), (None, None, 0.5)]"
    assert rows(out, "explanations", "r2", "query_id", "reference_id") == [("scarf", "cap")]
    counts = {"explanations": 2, "failures": 1, "images": 1, "metrics": 1, "products": 1}
    for run_id, expected in (("r1", counts), ("r2", {"explanations": 1})):
        ((recorded, reason),) = rows(out, "erasures", run_id, "rows", "reason")
        assert {entry["table"]: entry["rows"] for entry in recorded} == expected
        assert reason == "asked by ***@example.com"


def command(out: str, *more: str) -> int:
    return cli.main(["erase", out, *more])


def test_a_product_goes_from_every_table(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    assert command(out, "--id", "hat", "--reason", "asked by u:hunter2@example.com") == 0
    check_hat_is_gone(out)
    said = capsys.readouterr()
    assert said.err == ""
    first, second, last = said.out.splitlines()
    assert first == (
        "run r1: 6 rows erased (explanations 2, failures 1, images 1, metrics 1, products 1), 2 texts masked; "
        "6 files rewritten"
    )
    assert second == "run r2: 1 row erased (explanations 1); 1 file rewritten"
    assert last.startswith("searched again: no row holds it. Recorded as erasure-")
    assert "hat" not in said.out
    untouched = {f"{out}/runs/run_id=r1/part-00000.parquet", f"{out}/explanations/run_id=r1/part-00002.parquet"}
    after = contents(out)
    assert {address for address in before if before[address] == after[address]} == untouched


def test_what_is_left_is_counted_beside_the_record(out: str) -> None:
    """The run's counts say what was read; the record says what is gone since."""
    erase(out, "hat")
    question = """SELECT explanations, (SELECT count(*) FROM explanations e WHERE e.run_id = r.run_id) AS there,
                         (SELECT sum(u.entry.rows) FROM (SELECT unnest(rows) AS entry FROM erasures x
                          WHERE x.run_id = r.run_id) u WHERE u.entry."table" = 'explanations') AS erased
                  FROM runs r"""
    assert sql.query(out, question).to_pylist() == [{"explanations": 4, "there": 2, "erased": 2}]
    assert sql.query(out, "SELECT run_id, reason FROM erasures").to_pylist() == [{"run_id": "r1", "reason": None}]


def test_nothing_names_it(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    assert command(out, "--id", "ha", "--id", "/images/nobody.jpg") == 0
    assert capsys.readouterr().out == "no row holds any of the 2 ids; nothing was changed\n"
    assert contents(out) == before


def test_a_dry_run_changes_nothing(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    times = {address: os.stat(address).st_mtime_ns for address in before}
    assert command(out, "--id", "hat", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "run r2: 1 row would be erased (explanations 1); 1 file would be rewritten" in said
    assert "hat" not in said
    assert contents(out) == before
    assert {address: os.stat(address).st_mtime_ns for address in before} == times


def test_one_run_alone(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    assert command(out, "--id", "hat", "--run-id", "r2") == 0
    changed = {address for address, data in contents(out).items() if before.get(address) != data}
    assert all("run_id=r2" in address for address in changed)
    assert rows(out, "explanations", "r2", "query_id") == [("scarf",)]
    assert command(out, "--id", "hat", "--run-id", "r9") == 2
    assert "holds no run 'r9'; it holds r1, r2" in capsys.readouterr().err


def test_ids_of_a_file(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes("\ufeffhat\r\n\r\nscarf\n".encode())
    assert command(out, "--ids", str(ids), "--id", "nobody") == 0
    assert rows(out, "explanations", "r2", "query_id") == []
    assert "no row holds any of the 3 ids" in capsys.readouterr().out
    ids.write_bytes(b"\n")
    assert command(out, "--ids", str(ids)) == 2
    ids.write_bytes(b"\xff\xfe\n")
    assert command(out, "--ids", str(ids)) == 2
    assert command(out, "--ids", str(tmp_path / "none.txt")) == 2
    assert command(out) == 2
    assert command(out, "--id", " ") == 2
    assert command(str(tmp_path / "empty"), "--id", "hat") == 2
    said = capsys.readouterr().err.splitlines()
    for line, expected in zip(
        said, ["has no id", "not UTF-8", "nothing lies", "no id", "empty", "no tables"], strict=True
    ):
        assert expected in line


@pytest.mark.parametrize("reason", ["for hat", "Hat-7 asked", "xhatx" * 9, "HATTER", "a\nb", "x" * 501])
def test_a_reason_names_no_id_and_is_a_line(out: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    assert command(out, "--id", "hat", "--id", "hatter", "--id", "hatx", "--id", "Hat", "--reason", reason) == 2
    assert "--reason" in capsys.readouterr().err
    assert contents(out) == before


# What belongs to a product


def test_an_image_that_another_product_shows_stays(tmp_path: Path) -> None:
    out = str(tmp_path)
    shared = explanation("b", "c") | {"reference": "/images/a.jpg"}
    publish(out, "explanations", "r1", [explanation("a", "b"), shared])
    publish(out, "images", "r1", [image(f"/images/{name}.jpg") for name in "ab"])
    publish(out, "images", "r2", [image("/images/a.jpg")])
    publish(out, "products", "r2", [product("a"), product("d", image="/images/a.jpg")])
    erase(out, "a")
    assert rows(out, "explanations", "r1", "query_id", "reference_id") == [("b", "c")]
    assert rows(out, "images", "r1", "address") == [("/images/a.jpg",), ("/images/b.jpg",)]
    assert rows(out, "images", "r2", "address") == [("/images/a.jpg",)]
    erase(out, "c", "d")
    assert rows(out, "images", "r1", "address") == [("/images/b.jpg",)]
    assert rows(out, "images", "r2", "address") == []


def test_an_image_in_another_run_is_no_use_of_it(tmp_path: Path) -> None:
    out = str(tmp_path)
    publish(out, "products", "r1", [product("a")])
    publish(out, "images", "r1", [image("/images/a.jpg")])
    publish(out, "products", "r2", [product("b", image="/images/a.jpg")])
    publish(out, "images", "r2", [image("/images/a.jpg")])
    erase(out, "a")
    assert rows(out, "images", "r1", "address") == []
    assert rows(out, "images", "r2", "address") == [("/images/a.jpg",)]


SIGNED = "https://u:hunter2@shop.example/a.jpg?sku=7&X-Amz-Signature=0123456789abcdef"


@pytest.mark.parametrize("given_id", [SIGNED, storage.join("{stored}")])
def test_an_address_is_found_in_both_forms(tmp_path: Path, given_id: str) -> None:
    """An id that was an address stands in tables without password and signature."""
    from transforms.inputs.rows import public

    out, stored = str(tmp_path), public(SIGNED)
    assert stored != SIGNED
    publish(out, "explanations", "r1", [explanation(stored, "b", query=stored), explanation("c", "b")])
    publish(out, "explanations", "r1", [explanation("d", "e", reference=stored)], shard=1)
    publish(out, "images", "r1", [image(stored), image("/images/b.jpg")])
    assert command(out, "--id", given_id.format(stored=stored)) == 0
    assert rows(out, "images", "r1", "address") == [("/images/b.jpg",)]
    assert rows(out, "explanations", "r1", "query_id") == [("c",)]  # d has the image under another id


def test_messages_quote_ids_in_many_ways(tmp_path: Path) -> None:
    out, odd = str(tmp_path), "it's \\ a\tlong name " + "x" * 80
    messages = [f"the pair id {odd!r}", f"rank is {odd[:58]!r}", f"has {storage.shown(odd)}", "nothing at all"]
    from transforms.core.messages import quoted

    messages[1] = f"the cell {quoted(odd)} is no number"
    publish(out, "failures", "r1", [{**failure("a", "b", "empty"), "message": message} for message in messages])
    erase(out, odd)
    found = [message for (message,) in rows(out, "failures", "r1", "message")]
    assert found == ['the pair id "***"', 'the cell "***" is no number', "has ***", "nothing at all"]


def test_every_column_of_ids_and_addresses_is_searched() -> None:
    """A table that gains one has to be searched, too."""
    naming = {"query_id", "reference_id", "product_id", "query", "reference", "image", "address"}
    for table, schema in tables.SCHEMAS.items():
        there = naming & set(schema.names)
        searched = set(TABLES[table].columns) if table in TABLES else set()
        assert there == searched, table


# Files


def test_a_file_of_another_schema_stays_as_it_was(tmp_path: Path) -> None:
    """Old schemas, columns of other programs, metadata, types, row groups, order; NaN is no difference."""
    out = str(tmp_path)
    schema = pa.schema(
        [
            pa.field("schema_version", pa.int32(), nullable=False, metadata={b"unit": b"1"}),
            pa.field("query_id", pa.dictionary(pa.int32(), pa.string())),
            pa.field("reference_id", pa.int64()),
            pa.field("notes", pa.list_(pa.struct({"x": pa.float32(), "t": pa.timestamp("ns")}))),
        ],
        metadata={b"made by": b"somebody"},
    )
    names = [f"q{number % 7}" for number in range(4500)]
    notes = [[{"x": float("nan") if number % 2 else 1.5, "t": None}] * (number % 3) for number in range(4500)]
    old = pa.table([pa.array([1] * 4500), names, range(4500), notes], schema=schema)
    address = put(out, "explanations", "r1", "part-from-elsewhere.parquet", old)
    before = pq.ParquetFile(address).schema_arrow
    expected = old.filter(pa.array([name != "q3" and number != 8 for number, name in enumerate(names)]))
    assert erase(out, "q3", "8") == [{"explanations": 4500 - expected.num_rows}]
    made = pq.ParquetFile(address, page_checksum_verification=True)
    assert made.schema_arrow.equals(before, check_metadata=True)
    assert repr(made.read().to_pylist()) == repr(expected.to_pylist())
    assert made.num_row_groups == -(-expected.num_rows // 2000)
    assert made.metadata.row_group(0).column(0).compression == "ZSTD"
    assert ROW_GROUP == parquet.ROW_GROUP


def test_a_rewritten_file_has_page_checksums(out: str) -> None:
    erase(out, "hat")
    address = Path(out, "explanations/run_id=r1/part-00000.parquet")
    data = bytearray(address.read_bytes())
    column = pq.ParquetFile(address).metadata.row_group(0).column(tables.SCHEMAS["explanations"].names.index("pair_id"))
    data[column.dictionary_page_offset + column.total_compressed_size - 3] ^= 1
    address.write_bytes(bytes(data))
    with pytest.raises(OSError, match=r"CRC|crc|checksum"):
        pq.ParquetFile(address, page_checksum_verification=True).read()


def test_an_emptied_file_stays_with_its_schema(out: str) -> None:
    erase(out, "hat")
    address = f"{out}/explanations/run_id=r1/part-00001.parquet"
    assert _read(address).num_rows == 0
    assert _read(address).schema.equals(tables.SCHEMAS["explanations"])


def test_a_damaged_file_stops_an_erasure_that_has_done_nothing(out: str) -> None:
    Path(out, "failures/run_id=r2").mkdir()
    Path(out, "failures/run_id=r2/part-00000.parquet").write_bytes(b"PAR1 is not enough PAR1")
    before = contents(out)
    with pytest.raises(UsageError, match=r"failures/run_id=r2/part-00000.parquet cannot be searched"):
        erase(out, "hat")
    assert contents(out) == before


def test_a_file_with_a_column_twice_cannot_be_searched(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"]], names=["query_id", "query_id"])
    sink = pa.BufferOutputStream()
    pq.write_table(twice, sink)
    storage.publish(f"{tmp_path}/failures/run_id=r1/part-00000.parquet", bytes(sink.getvalue()))
    with pytest.raises(UsageError, match="several columns of one name"):
        erase(str(tmp_path), "a")


@pytest.mark.parametrize("stop", range(1, 7))
def test_an_erasure_that_broke_off_is_finished_by_the_next(
    out: str, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken before each of its files in turn: the second removes the rest, and both records together say all."""
    replace, calls = storage.replace, []

    def failing(address: str, data: bytes) -> None:
        calls.append(address)
        if len(calls) == stop:
            raise RunError("the storage failed")
        replace(address, data)

    monkeypatch.setattr(storage, "replace", failing)
    with pytest.raises(RunError, match="the storage failed"):
        erase(out, "hat")
    monkeypatch.undo()
    assert len(rows(out, "erasures", "r1", "rows")) == (stop > 1)
    erase(out, "hat")
    total: dict[str, int] = {}
    for (recorded,) in rows(out, "erasures", "r1", "rows"):
        for entry in recorded:
            total[entry["table"]] = total.get(entry["table"], 0) + entry["rows"]
    assert total == {"explanations": 2, "failures": 1, "images": 1, "metrics": 1, "products": 1}
    assert rows(out, "images", "r1", "address") == [("/images/red shoe.jpg",), ("/images/blue shoe.jpg",)]
    before = contents(out)
    assert erase(out, "hat") == []
    assert contents(out) == before


def test_rows_that_another_program_wrote_meanwhile_are_found(
    out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = erasing.erase

    def late(*given: Any) -> dict[str, int]:
        rows = done(*given)
        publish(out, "explanations", "r2", [explanation("hat", "late")], shard=len(storage.list_files(out)))
        return rows

    monkeypatch.setattr(erasing, "erase", late)
    assert command(out, "--id", "hat") == 3
    assert "rows of r2 hold what was erased" in capsys.readouterr().err


def test_a_file_that_would_not_read_back_is_not_written(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(out)
    write = pq.write_table

    def losing(rows: pa.Table, sink: Any, **options: Any) -> None:
        at = rows.schema.names.index("schema_version")
        write(rows.set_column(at, rows.schema.field(at), pa.array([9] * rows.num_rows, pa.int32())), sink, **options)

    monkeypatch.setattr(pq, "write_table", losing)
    with pytest.raises(RunError, match="would not read back"):
        erase(out, "hat")
    assert contents(out) == before


def test_tables_in_a_bucket(bucket: str) -> None:
    write(bucket)
    assert command(bucket, "--id", "hat", "--reason", "asked by u:hunter2@example.com") == 0
    check_hat_is_gone(bucket)
    assert erase(bucket, "hat") == []


# Replacing


def test_a_replaced_file_is_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    storage.replace(f"file://{path}", b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(UsageError, match="nothing lies at"):
        storage.replace(f"{tmp_path}/b", b"new")
    with pytest.raises(UsageError, match="is a folder"):
        storage.replace(str(tmp_path), b"new")
    with pytest.raises(UsageError, match="local folder, in s3:// or in gs://"):
        storage.replace("memory://a/b", b"new")


def test_a_link_is_followed_so_that_the_old_bytes_go(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    storage.replace(str(link), b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(RunError, match="No space left"):
        storage.replace(f"{tmp_path}/a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_objects_are_replaced(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{bucket}/a b%.parquet"
    storage.publish(address, b"old")
    storage.replace(address, b"new")
    assert storage.read_file(address) == b"new"
    with pytest.raises(UsageError, match="nothing lies at"):
        storage.replace(f"{bucket}/missing", b"new")

    def denied(*given: Any, **options: Any) -> None:
        raise PermissionError("topsecretkey")

    monkeypatch.setattr(drivers.filesystem(address)[0], "pipe_file", denied)
    permission = "s3:PutObject" if bucket.startswith("s3") else "storage.objects.create and storage.objects.delete"
    with pytest.raises(RunError, match=f"refuses to replace .* allow it {permission}"):
        storage.replace(address, b"newer")


# Properties

NAMES = st.sampled_from(["a", "b", "c", "7", "a-b", "https://h/x?sku=1", "ä b"])
PAIRS = st.lists(st.tuples(NAMES, NAMES, st.text("ab -'7", max_size=12)), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS, shown=PAIRS, erased=st.sets(NAMES, min_size=1, max_size=3), shards=st.integers(1, 3))
def test_no_cell_is_the_id_and_all_other_rows_are_as_they_were(
    pairs: list[tuple[str, str, str]],
    shown: list[tuple[str, str, str]],
    erased: set[str],
    shards: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = str(tmp_path_factory.mktemp("tables"))
    ids = Ids(tuple(erased))
    written: dict[str, list[Row]] = {
        "explanations": [explanation(*pair[:2], query=f"/i/{pair[0]}", reference=f"/i/{pair[1]}") for pair in pairs],
        "failures": [{**failure(*pair[:2], "empty"), "message": pair[2] or "?"} for pair in shown],
        "products": [product(name) for name in sorted({pair[0] for pair in shown})],
        "metrics": [metric(*pair[:2]) for pair in shown],
    }
    for table, content in written.items():
        for shard in range(shards):
            publish(out, table, "r1", content[shard::shards], shard)
    erase(out, *erased)
    erasing.check_erased(out, ids)
    for table, content in written.items():
        keys = [name for name in ("query_id", "reference_id", "product_id") if name in tables.SCHEMAS[table].names]
        stay = [row for shard in range(shards) for row in content[shard::shards]]
        stay = [row for row in stay if not erased & {row.get(key) for key in keys}]
        expected = tables.to_arrow(table, stay).to_pylist()
        found = [row for _, address in runs.files(out, table) for row in _read(address).to_pylist()]
        for row, there in zip(expected, found, strict=True):
            message = row.pop("message", None)
            hidden = there.pop("message", None)
            assert there == row
            assert hidden == message or "***" in hidden
        assert not erased & {cell for row in found for cell in row.values() if isinstance(cell, str)}


def naive(text: str, names: Sequence[str]) -> bool:
    """Whether a name stands in the text, by looking everywhere."""
    for start in range(len(text)):
        for name in names:
            around = text[start - 1 : start] if start else "", text[start + len(name) : start + len(name) + 1]
            if text.startswith(name, start) and not any(one.isalnum() or one == "_" for one in around):
                return True
    return False


@settings(max_examples=300)
@given(st.text("ab-. '", max_size=20), st.lists(st.text("ab-.", min_size=1, max_size=4), max_size=4))
def test_words_are_found_wherever_they_stand(text: str, names: list[str]) -> None:
    words = NameRedactor(names)
    hidden = words.hide(text)
    assert (hidden != text) == naive(text, names)
    assert not naive(hidden, names)
    assert words.hide(hidden) == hidden


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (["7"], "row 7 of 77, 7", "row *** of 77, ***"),
        (["a-b", "b-c"], "x a-b-c y", "x *** y"),
        (["/data/a"], "at /data/a.jpg, /data/ab", "at ***.jpg, /data/ab"),
        (["ä"], "ä äh", "*** äh"),
        (["#"], "# a#b", "*** a#b"),
        ([""], "nothing", "nothing"),
    ],
)
def test_words(names: list[str], text: str, expected: str) -> None:
    assert NameRedactor(names).hide(text) == expected


def test_a_record_tells_nothing_of_the_id(out: str) -> None:
    import hashlib

    erase(out, "hat")
    stored = json.dumps([repr(row) for row in _read_all(out, "erasures")])
    for digest in ("sha256", "md5", "sha1"):
        assert hashlib.new(digest, b"hat").hexdigest()[:12] not in stored
    assert "hat" not in stored


def _read_all(out: str, table: str) -> list[Mapping[str, Any]]:
    return [row for _, address in runs.files(out, table) for row in _read(address).to_pylist()]


def test_erased_is_the_time_of_it(out: str) -> None:
    erase(out, "hat")
    assert all(row["erased"] > STARTED for row in _read_all(out, "erasures"))
