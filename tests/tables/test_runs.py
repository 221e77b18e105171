"""The reader of tables: complete runs, and rows of what may be old, foreign or damaged."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables.rows import explanation, publish, run
from transforms import storage, tables
from transforms.core.errors import UsageError
from transforms.tables import runs


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two complete runs, one that broke off, and what else may lie in such a folder."""
    for run_id, minutes in (("b", 3), ("a", 7)):
        publish(str(tmp_path), "runs", run_id, [run(explained=2, failed=0, minutes=minutes)])
        for shard in (0, 1):
            publish(str(tmp_path), "explanations", run_id, [explanation(run_id, f"r{shard}")], shard)
    publish(str(tmp_path), "explanations", "unfinished", [explanation("x", "y")])
    (tmp_path / "runs" / "stray.parquet").write_bytes(b"")
    (tmp_path / "runs" / "run_id=c").mkdir()
    (tmp_path / "runs" / "run_id=c" / "_SUCCESS").write_bytes(b"")
    (tmp_path / "explanations" / "run_id=a" / "_SUCCESS").write_bytes(b"")
    return tmp_path


def part(out: Path, table: str = "explanations") -> Path:
    return out / table / "run_id=a" / tables.part(0)


def rows(out: Path, *columns: str, **given: Any) -> list[dict[str, Any]]:
    first = runs.complete(str(out))[0]
    return [row for batch in first.batches(columns, **given) for row in batch.to_pylist()]


def change(path: Path, **columns: pa.Array | None) -> None:
    """Other columns in a file, in their own types; None takes one away."""
    table = pq.read_table(path, partitioning=None)
    for name, values in columns.items():
        at = table.schema.names.index(name)
        table = table.remove_column(at) if values is None else table.set_column(at, name, values)
    pq.write_table(table, path)


def test_complete_runs_have_a_row_and_their_tables(out: Path) -> None:
    found = runs.complete(str(out))
    assert [one.id for one in found] == ["a", "b"]
    assert [one.row["started"].minute for one in found] == [7, 3]
    assert rows(out, "query_id", "reference_id") == [
        {"query_id": "a", "reference_id": "r0"},
        {"query_id": "a", "reference_id": "r1"},
    ]
    assert {run_id for run_id, _ in runs.files(str(out), "explanations")} == {"a", "b", "unfinished"}


def test_a_folder_without_a_complete_run_is_refused(tmp_path: Path) -> None:
    publish(str(tmp_path), "explanations", "a", [explanation("x", "y")])
    with pytest.raises(UsageError, match="holds no complete run"):
        runs.complete(str(tmp_path))


def test_columns_of_later_schemas_are_null_and_types_are_the_schema_s(out: Path) -> None:
    wide = pa.array([[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]], pa.large_list(pa.float64()))
    change(part(out), side=None, map=wide, map_height=pa.array([2], pa.int64()))
    (batch, _) = runs.complete(str(out))[0].batches(["side", "map", "map_height"])
    assert batch.schema.types == [pa.string(), pa.list_(pa.float32()), pa.int32()]
    assert batch.to_pylist() == [{"side": None, "map": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "map_height": 2}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"method": None}, "part-00000.parquet has 0 columns 'method'"),
        ({"method": pa.array([None], pa.string())}, "part-00000.parquet has rows without method"),
        ({"map_height": pa.array(["two"])}, "part-00000.parquet cannot be read"),
        ({"map_height": pa.array([2**40])}, "part-00000.parquet cannot be read"),
        ({"method": pa.array([b"\xff\xfe"], pa.binary())}, "part-00000.parquet cannot be read"),
    ],
)
def test_what_the_schema_does_not_allow_is_named(out: Path, columns: dict[str, Any], message: str) -> None:
    change(part(out), **columns)
    with pytest.raises(UsageError, match=message):
        rows(out, "method", "map_height")
    assert len(rows(out, "query_id")) == 2  # only what is asked for is looked at


def test_nulls_may_be_allowed(out: Path) -> None:
    change(part(out), map=pa.array([None], pa.list_(pa.float32())))
    with pytest.raises(UsageError, match="rows without map"):
        rows(out, "map")
    assert [row["map"] is None for row in rows(out, "map", may_lack=("map",))] == [True, False]


def test_page_checksums_find_a_changed_number(out: Path) -> None:
    # neither compressed nor encoded: nothing but its checksum tells that a page was changed
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pq.read_table(part(out), partitioning=None), part(out), **plain)
    data = part(out).read_bytes()
    assert data.count(np.float64(0.75).tobytes()) > 1  # the value and the column's statistics
    assert rows(out, "similarity")[0] == {"similarity": 0.75}
    at = pq.read_metadata(part(out)).row_group(0).column(tables.SCHEMAS["explanations"].names.index("similarity"))
    last = at.data_page_offset + at.total_compressed_size - 1
    part(out).write_bytes(data[:last] + bytes([data[last] ^ 1]) + data[last + 1 :])
    with pytest.raises(UsageError, match=r"part-00000.parquet cannot be read"):
        rows(out, "similarity")


def test_an_old_run_does_not_know_its_attributes(out: Path) -> None:
    assert runs.find(str(out), "a").row["model_id"] == "m0"
    change(part(out, "runs"), vocabulary_id=None, ranking_id=pa.array(["r1"]))
    row = runs.find(str(out), "a").row
    assert {name: row[name] for name in runs.IDS} == {
        "attribute_model_id": None, "vocabulary_id": None, "ranking_id": "r1",
    }  # fmt: skip


def test_a_run_has_one_row(out: Path) -> None:
    table = pq.read_table(part(out, "runs"), partitioning=None)
    pq.write_table(pa.concat_tables([table, table]), part(out, "runs"))
    with pytest.raises(UsageError, match="holds 2 rows"):
        _ = runs.complete(str(out))[0].row
    part(out, "runs").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"run_id=a.*cannot be read"):
        _ = runs.complete(str(out))[0].row


def test_evaluations_are_those_with_a_row_and_files_tell_whose_they_are(out: Path) -> None:
    """Ids may end like a shard's number, and files of other programs may lie beside."""
    for run_id, evaluation in (("a", "first"), ("b", "first"), ("b", "x-00001"), ("gone", "first")):
        address = storage.join(tables.folder(str(out), "evaluations", run_id), tables.part(0, evaluation))
        storage.publish(address, b"")
    for table, name in (("metrics", tables.part(0, "unfinished")), ("evaluations", "part-00000.parquet")):
        storage.publish(storage.join(tables.folder(str(out), table, "a"), name), b"")
    assert runs.evaluations(str(out)) == {("a", "first"), ("b", "first"), ("b", "x-00001"), ("gone", "first")}
    assert {one.id for one in runs.complete(str(out))} == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "evaluation"),
    [
        ("part-e-00000.parquet", "e"),
        ("part-e-00012-00003.parquet", "e-00012"),
        ("part-e.2026_10-x-00003.parquet", "e.2026_10-x"),
        ("part-00003.parquet", None),
        ("part-7days-00003.parquet", None),
        ("part-e-3.parquet", None),
        ("part-e-00003.parquet.tmp", None),
        (".part-e-00003.parquet", None),
    ],
)
def test_a_file_s_name_says_whose_it_is(name: str, evaluation: str | None) -> None:
    assert runs.of(f"/out/metrics/run_id=r1/{name}") == evaluation
    if evaluation:
        assert tables.part(int(name[-13:-8]), evaluation) == name


@pytest.mark.parametrize(
    ("cells", "height", "width", "there"),
    [
        ([1.0, 2, 3, 4, 5, 6], 2, 3, True),
        ([1.0, 2, 3, 4, 5, 6], 3, 3, False),
        ([1.0, 2, 3, 4, 5, 6], -2, -3, False),
        ([1.0, 2, 3, 4, 5, 6], None, 3, False),
        ([1.0, 2, 3, 4, 5, float("nan")], 2, 3, False),
        ([1.0, 2, 3, 4, 5, float("inf")], 2, 3, False),
        ([1.0, 2, 3, 4, 5, None], 2, 3, False),
        ([], 0, 0, False),
        (None, 2, 3, False),
    ],
)
def test_a_map_has_its_size_and_finite_numbers(cells: Any, height: int | None, width: int | None, there: bool) -> None:
    found = runs.saliency_map(pa.array([cells], pa.list_(pa.float32()))[0], height, width)
    assert (found is not None) == there
    if found is not None:
        assert found.dtype == np.float32
        assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_run_is_found_by_its_id_or_is_the_one_that_was_started_last(tmp_path: Path) -> None:
    """Not the one that ended last: `show`, `summary`, `evaluate` and `calibrate` look at the same one."""
    first, long = run(explained=1, failed=0, minutes=3), run(explained=1, failed=0, minutes=1)
    long["finished"] = first["finished"] + timedelta(hours=1)
    for name, row in {"first": first, "long": long}.items():
        publish(str(tmp_path), "runs", name, [row])
    publish(str(tmp_path), "explanations", "unfinished", [explanation("q", "r")])
    assert runs.find(str(tmp_path), None).id == "first"
    assert runs.find(str(tmp_path), "long").id == "long"
    with pytest.raises(UsageError, match=r"holds no complete run 'unfinished'; it holds first, long$"):
        runs.find(str(tmp_path), "unfinished")


def test_runs_are_chosen_among_those_that_are_known() -> None:
    assert runs.choose("out", None, {"b", "a"}) == ["a", "b"]
    assert runs.choose("out", "b", {"b", "a"}) == ["b"]
    with pytest.raises(UsageError, match=r"out holds no run 'c'; it holds a, b$"):
        runs.choose("out", "c", {"b", "a"})
