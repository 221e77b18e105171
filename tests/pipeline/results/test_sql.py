"""SQL over the tables of several runs, by whymatch and by plain DuckDB."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.results import sql
from pipeline.text.tables import columns, cut, number, printable
from tests.support.tables.rows import STARTED, explanation, failure, publish, run
from transforms import storage, tables
from transforms.core.errors import MissingDependency, UsageError
from transforms.tables.parquet import to_parquet

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Two complete runs of different manifests, the second with ids that look like numbers, and one that broke off."""
    folder = str(tmp_path / "tables")
    publish(folder, "explanations", "r1", [explanation("red shoe", "blue shoe", extra='{"slot": 3}', rank=1)])
    publish(folder, "explanations", "r1", [explanation("red shoe", "hat", top=[("colour=red", 0.75)])], shard=3)
    publish(folder, "failures", "r1", [failure("red shoe", "gone", "not_found")])
    publish(folder, "runs", "r1", [run(explained=2, failed=1)])
    publish(folder, "explanations", "r2", [explanation("007", "008", similarity=0.25, served_score=0.5)])
    publish(folder, "failures", "r2", [])
    publish(folder, "runs", "r2", [run(explained=1, failed=0)])
    publish(folder, "explanations", "r3", [explanation("never", "seen")])
    return folder


def test_views_span_complete_runs_only(out: str) -> None:
    answer = sql.query(out, "SELECT run_id, query_id, reference_id FROM explanations ORDER BY ALL")
    assert [tuple(row.values()) for row in answer.to_pylist()] == [
        ("r1", "red shoe", "blue shoe"),
        ("r1", "red shoe", "hat"),
        ("r2", "007", "008"),
    ]
    assert answer.schema.field("run_id").type == pa.string()


def test_every_table_is_a_view_with_its_columns_also_without_a_file(out: str) -> None:
    connection = sql.connect(out)
    for table, schema in tables.SCHEMAS.items():
        described = connection.execute(f"DESCRIBE {table}").fetchall()
        assert [row[0] for row in described] == [*schema.names, "run_id"]
    assert connection.execute("SELECT count(*) FROM products").fetchall() == [(0,)]
    connection.close()


def test_nested_columns_times_and_filters(out: str) -> None:
    answer = sql.query(
        out,
        """SELECT top[1].name AS name, top[1].score AS score, len(map) AS cells, rank, served_score,
                  json_extract_string(extra, '$.slot') AS slot
           FROM explanations WHERE run_id = 'r1' AND similarity > 0.5 ORDER BY reference_id""",
    )
    assert answer.to_pylist() == [
        {"name": None, "score": None, "cells": 6, "rank": 1, "served_score": None, "slot": "3"},
        {"name": "colour=red", "score": 0.75, "cells": 6, "rank": None, "served_score": None, "slot": None},
    ]
    started = sql.query(out, "SELECT started, pairs_failed FROM runs WHERE run_id = 'r2'").to_pylist()
    assert started == [{"started": datetime(2026, 10, 1, 12, tzinfo=UTC), "pairs_failed": 0}]
    assert sql.query(out, "SELECT sum(pairs_explained) AS n FROM runs").to_pylist() == [{"n": 3}]


def test_plain_duckdb_reads_the_runs_as_one_table(out: str) -> None:
    read = f"read_parquet('{out}/explanations/*/*.parquet', hive_partitioning = true, union_by_name = true)"
    runs = f"read_parquet('{out}/runs/*/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT run_id, query_id, len(map) FROM {read} WHERE run_id IN (SELECT run_id FROM {runs}) ORDER BY ALL"
        ).fetchall()
        assert found == [("r1", "red shoe", 6), ("r1", "red shoe", 6), ("r2", "007", 6)]
        kinds = dict(row[:2] for row in connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall())
    with_whymatch = sql.connect(out)
    ours = dict(row[:2] for row in with_whymatch.execute("DESCRIBE explanations").fetchall())
    with_whymatch.close()
    assert kinds == ours
    assert kinds["run_id"] == "VARCHAR"


def test_a_file_of_an_earlier_schema_lacks_columns(out: str) -> None:
    old = tables.to_arrow("failures", [failure("a", "b", "empty")]).drop_columns(["weight", "source"])
    storage.publish(storage.join(tables.folder(out, "failures", "r2"), "part-00007.parquet"), to_parquet(old))
    answer = sql.query(out, "SELECT reason, weight, source FROM failures WHERE run_id = 'r2'")
    assert answer.to_pylist() == [{"reason": "empty", "weight": None, "source": None}]


def publish_metrics(out: str, run_id: str, evaluation: str, values: list[float | None], *, complete: bool) -> None:
    """An evaluation as one writes it: its metrics, and last its own row."""
    rows: list[tables.Row] = [
        {
            "evaluation_id": evaluation,
            "metric": "insertion",
            "method": "rise",
            "control": False,
            "stratum": "all",
            "weight": 1.0,
            "value": value,
            "reason": None if value is not None else "no_map",
        }
        for value in values
    ]
    texts = {"whymatch_version": "0", "versions": "{}", "configuration": "{}", "model_id": "m0"}
    row: tables.Row = {
        **dict.fromkeys((field.name for field in tables.SCHEMAS["evaluations"] if field.type == pa.int64()), len(rows)),
        **{"evaluation_id": evaluation, "started": STARTED, "finished": STARTED, "sample_rate": 1.0, **texts},
    }
    written = [("metrics", rows), ("evaluations", [row])][: 2 if complete else 1]
    for table, content in written:
        address = storage.join(tables.folder(out, table, run_id), tables.part(0, evaluation))
        storage.publish(address, to_parquet(tables.to_arrow(table, content)))


def test_metrics_of_complete_evaluations_of_complete_runs_only(out: str) -> None:
    publish_metrics(out, "r1", "first", [0.5, None], complete=True)
    publish_metrics(out, "r1", "second", [0.25], complete=True)
    publish_metrics(out, "r1", "killed", [0.125], complete=False)
    publish_metrics(out, "r2", "killed", [0.75], complete=True)  # another run's of the same name
    publish_metrics(out, "r3", "first", [1.0], complete=True)  # the run broke off
    storage.publish(storage.join(tables.folder(out, "metrics", "r1"), "part-00000.parquet"), b"another program's")
    found = sql.query(out, "SELECT run_id, evaluation_id, value, reason FROM metrics ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("r1", "first", 0.5, None),
        ("r1", "first", None, "no_map"),
        ("r1", "second", 0.25, None),
        ("r2", "killed", 0.75, None),
    ]
    joined = sql.query(
        out,
        """SELECT run_id, evaluation_id, any_value(measurements) AS said, count(*) AS there
           FROM evaluations JOIN metrics USING (run_id, evaluation_id) GROUP BY ALL ORDER BY ALL""",
    ).to_pylist()
    assert [(row["run_id"], row["evaluation_id"], row["said"] == row["there"]) for row in joined] == [
        ("r1", "first", True),
        ("r1", "second", True),
        ("r2", "killed", True),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY runs TO '{out}/stolen.csv'",
        "ATTACH '{out}/other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM connection",
        "SELECT * FROM out",
    ],
)
def test_a_query_reaches_the_tables_and_nothing_else(out: str, statement: str) -> None:
    with pytest.raises(UsageError, match="the query failed"):
        sql.query(out, statement.format(out=out))
    assert not list(Path(out).glob("*.*"))


def test_errors_say_what_to_do(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="similarty"):
        sql.query(out, "SELECT similarty FROM explanations")
    with pytest.raises(UsageError, match="holds no complete run"):
        sql.query(str(tmp_path / "empty"), "SELECT 1")
    Path(out, "explanations/run_id=r1/part-00000.parquet").write_bytes(b"PAR1 is not enough PAR1")
    with pytest.raises(UsageError, match="the query failed"):
        sql.query(out, "SELECT query_id FROM explanations")
    assert sql.query(out, "SELECT query_id FROM explanations WHERE run_id = 'r2'").num_rows == 1
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingDependency, match="pip install duckdb"):
        sql.connect(out)


def test_a_program_that_queries_says_nothing_on_stderr(out: str) -> None:
    program = (
        "from pipeline.results import sql; "
        f"print(sql.render(sql.query({out!r}, 'SELECT count(*) AS n FROM explanations')));"
        f"c = sql.connect({out!r}); c.execute('SELECT * FROM runs').fetchall()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["n", "-", "3"]
    assert done.stderr == ""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="the S3 emulator is not installed")
    pytest.importorskip("s3fs", reason="the driver for s3:// is not installed")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/audits"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_tables_in_a_bucket(bucket: str) -> None:
    publish(bucket, "explanations", "r1", [explanation("red shoe", "hat", top=[("colour=red", 0.75)])])
    publish(bucket, "runs", "r1", [run(explained=1, failed=0)])
    publish(bucket, "explanations", "r2", [explanation("007", "008")])
    publish(bucket, "runs", "r2", [run(explained=1, failed=0)])
    publish(bucket, "explanations", "r3", [explanation("never", "seen")])
    query = "SELECT run_id, query_id, top[1].name AS name FROM explanations ORDER BY run_id"
    assert [tuple(row.values()) for row in sql.query(bucket, query).to_pylist()] == [
        ("r1", "red shoe", "colour=red"),
        ("r2", "007", None),
    ]
    connection = sql.connect(bucket)
    for _ in range(2):  # a stream serves more than one scan
        assert connection.execute("SELECT count(*), sum(len(map)) FROM explanations").fetchall() == [(2, 12)]
    connection.close()


# Answers as text


def test_a_table_for_the_terminal() -> None:
    answer = pa.table(
        {
            "name": ["pattern=striped", None, "ドレス"],
            "n": pa.array([5, 1234, None], pa.int64()),
            "mean": [0.123456, 123456.7, float("nan")],
            "top": [[{"name": "a", "score": 0.5}], [], None],
            "on": [True, False, None],
        }
    )
    assert sql.render(answer).splitlines() == [
        "name                n    mean  top                      on",
        "---------------  ----  ------  -----------------------  -----",
        "pattern=striped     5  0.1235  [{name: a, score: 0.5}]  true",
        "NULL             1234  123457  []                       false",
        "ドレス           NULL     nan  NULL                     NULL",
    ]


def test_a_table_is_cut_and_says_so() -> None:
    answer = pa.table({"id": ["a" * 50, "b", "c"]})
    assert sql.render(answer, max_width=5, max_rows=2).splitlines() == [
        "id",
        "-----",
        "aaaa…",
        "b",
        "(1 more rows; --format csv and json give all)",
    ]
    assert sql.render(answer.slice(0, 0)).splitlines() == ["id", "--", "(no rows)"]
    assert sql.render(pa.table({})) == "done"


def test_hostile_text_cannot_act_on_a_terminal() -> None:
    hostile = "\x1b[2Jred\u202etxt\nnew\tline\x07\ud83d"
    for text in (printable(hostile), sql.render(pa.table({"\x1b]0;x\x07": [[{"\x1b": "\x1b[1m\r"}]]}))):
        assert all(character == "\n" or character.isprintable() for character in text)
    assert printable(hostile) == r"\x1b[2Jred\u202etxt\nnew\tline\x07\ud83d"


@given(st.text(max_size=30), st.integers(1, 12))
def test_cut_fits_and_keeps_the_beginning(text: str, width: int) -> None:
    shown = cut(text, width)
    assert columns(shown) <= width
    assert shown == text or text.startswith(shown.removesuffix("…"))


@given(st.floats(-1e300, 1e300))
def test_numbers_have_four_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=5.1e-4, abs=5e-324)
    if 1000 <= abs(value) < 1e15:
        assert re.fullmatch(r"-?\d+", number(value))


FORMULAS = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx"]


def test_csv_has_no_formulas() -> None:
    answer = pa.table({"id": [*FORMULAS, "a=b", ""], "=n": [-1.5, *range(1, 9)], "m": [[1.5, None]] * 9})
    rows = list(csv.reader(io.StringIO(sql.render(answer, "csv"), newline="")))
    assert rows[0] == ["id", "'=n", "m"]
    assert [row[0] for row in rows[1:]] == ["'" + text for text in FORMULAS] + ["a=b", ""]
    assert rows[1][1:] == ["-1.5", "[1.5, null]"]  # a negative number is no text


def test_json_is_lossless_and_plain() -> None:
    row: dict[str, Any] = {
        "id": "\x1b\u202eü",
        "n": 2**60,
        "x": 0.1,
        "l": [{"a": None, "b": math.inf}],
        "d": Decimal("7"),
    }
    text = sql.render(pa.Table.from_pylist([row, {**row, "id": "="}]), "json")
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text) == [{**row, "d": 7, "l": [{"a": None, "b": None}], "id": name} for name in (row["id"], "=")]
    stamp = pa.table({"t": pa.array([datetime(2026, 1, 2, tzinfo=UTC)])})
    assert json.loads(sql.render(stamp, "json")) == [{"t": "2026-01-02T00:00:00+00:00"}]
    assert "2026-01-02 00:00:00" in sql.render(stamp)
    assert json.loads(sql.render(pa.table({}), "json")) == []
