"""The audit, end to end on disk."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.support.audits import audit, read_csv, table, write_csv
from transforms import tables
from transforms.beam.write_tables import WriteTables
from transforms.core.statistics.nulls import REFERENCES, SPARE
from transforms.storage import AlreadyPublished
from transforms.tables.cells import TableRow

TIMES = ("started", "finished", "configuration", "versions")


@pytest.fixture(scope="module")
def audited(drawn: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of one audit, run id "one", of the drawn catalogue with one damaged and one missing image."""
    out = tmp_path_factory.mktemp("audited")
    catalogue = str(drawn / "catalogue.csv")
    options = ["--catalogue", catalogue, "--max-failure-rate", "0.1", "--period", "2026-10", "--keep", "likeness"]
    assert audit(drawn / "pairs.csv", bundle, out, "one", *options) == 0
    return out


@pytest.mark.engine
def test_every_row_is_accounted_for(audited: Path, drawn: Path) -> None:
    rows = read_csv(drawn / "pairs.csv")
    explained, failed = table(audited, "explanations", "one"), table(audited, "failures", "one")
    (run,) = table(audited, "runs", "one")
    assert {row["reason"] for row in failed} == {"damaged_image", "not_found"}
    assert len(explained) + len(failed) == len(rows) == run["rows_read"]
    assert {(row["query_id"], row["reference_id"]) for row in explained + failed} == {
        (row["query_id"], row["reference_id"]) for row in rows
    }
    assert (run["pairs_explained"], run["pairs_failed"], run["pairs_not_sampled"]) == (len(explained), len(failed), 0)
    assert run["period"] == "2026-10"


@pytest.mark.engine
def test_passes_are_run_once_a_query(audited: Path, drawn: Path) -> None:
    (run,) = table(audited, "runs", "one")
    explained = table(audited, "explanations", "one")
    queries = {row["query_id"] for row in explained}
    assert run["queries"] == len(queries)
    assert {row["passes"] for row in explained} == {41}
    unusable = {row["reference_id"] for row in table(audited, "failures", "one")}
    random_references = {row["id"] for row in read_csv(drawn / "catalogue.csv")} - unusable
    assert len(random_references) < REFERENCES + SPARE, "all are drawn"
    assert run["forward_passes"] == 41 * len(queries) + run["images"] + len(random_references)


@pytest.mark.engine
def test_rows_hold_what_they_promise(audited: Path, drawn: Path) -> None:
    catalogue = {row["id"]: row for row in read_csv(drawn / "catalogue.csv")}
    served = {(row["query_id"], row["reference_id"]): row["likeness"] for row in read_csv(drawn / "pairs.csv")}
    for row in table(audited, "explanations", "one"):
        assert len(row["map"]) == row["map_height"] * row["map_width"] == 28 * 28
        assert (row["input_height"], row["input_width"]) == (12, 16)
        assert (row["original_height"], row["original_width"]) == (128, 96)
        assert (row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"]) == (0, 0, 128, 96)
        assert 0 <= row["peak_row"] < 12
        assert 0 <= row["peak_column"] < 16
        assert -1 <= row["similarity"] <= 1
        assert json.loads(row["extra"]) == {"likeness": served[row["query_id"], row["reference_id"]]}
        assert [attribute["score"] for attribute in row["top"]] == sorted(
            (attribute["score"] for attribute in row["top"]), reverse=True
        )
        for attribute in row["top"]:
            column, _, value = attribute["name"].partition("=")
            for side, has in (("query", attribute["on_query"]), ("reference", attribute["on_reference"])):
                cell = catalogue[row[f"{side}_id"]][column]
                assert has == (cell == value if cell else None)
            assert attribute["score"] == pytest.approx(0.5 * attribute["confidence"] + 0.5 * attribute["match"])


@pytest.mark.engine
def test_images_and_products(audited: Path, drawn: Path) -> None:
    explained = table(audited, "explanations", "one")
    addresses = {row["address"] for row in table(audited, "images", "one")}
    assert {row["query"] for row in explained} | {row["reference"] for row in explained} <= addresses
    assert len(table(audited, "products", "one")) == len(read_csv(drawn / "catalogue.csv"))
    assert all(row["embedding"] is None for row in table(audited, "images", "one"))


@pytest.mark.engine
def test_stratum_counts_queries_and_pairs(audited: Path, drawn: Path) -> None:
    rows = read_csv(drawn / "pairs.csv")
    (stratum,) = table(audited, "strata", "one")
    assert stratum["pairs"] == len(rows)
    assert stratum["queries"] == stratum["sampled_queries"] == len({row["query_id"] for row in rows})


@pytest.mark.engine
@pytest.mark.parametrize("workers", ["1", "2"])
def test_same_rows_with_more_workers_and_a_shuffled_manifest(
    audited: Path, drawn: Path, bundle: Path, tmp_path: Path, workers: str
) -> None:
    rows = read_csv(drawn / "pairs.csv")
    random.Random(5).shuffle(rows)
    manifest = write_csv(tmp_path / "shuffled.csv", rows)
    catalogue = ["--catalogue", str(drawn / "catalogue.csv"), "--max-failure-rate", "0.1", "--workers", workers]
    options = [*catalogue, "--period", "2026-10", "--keep", "likeness", "--batch", "7", "--shards", "2"]
    assert audit(manifest, bundle, tmp_path / "out", "two", *options) == 0
    for name in tables.SCHEMAS:
        before, after = (
            [{key: value for key, value in row.items() if key not in TIMES} for row in table(*of)]
            for of in ((audited, name, "one"), (tmp_path / "out", name, "two"))
        )
        assert before == after, name


@pytest.mark.engine
def test_chunks_of_references_change_nothing(
    audited: Path, drawn: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.explaining.explain_image.CHUNK", 2)
    options = ["--catalogue", str(drawn / "catalogue.csv"), "--max-failure-rate", "0.1", "--keep", "likeness"]
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "one", *options) == 0
    assert table(tmp_path, "explanations", "one") == table(audited, "explanations", "one")


@pytest.mark.engine
def test_plain_duckdb_reads_two_runs_of_different_manifests_as_one_table(
    audited: Path, drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    first = read_csv(drawn / "catalogue.csv")[:6]
    pairs = [
        {"anchor": a["image"], "item": b["image"], "shop": "S-1"} for a, b in zip(first[:3], first[3:], strict=True)
    ]
    manifest = write_csv(drawn / "other.csv", pairs)
    columns = [
        "--columns",
        "query=anchor,reference=item",
        "--keep",
        "shop",
        "--method",
        "sliding_window",
        "--set",
        "sliding_window.window=4",
    ]
    assert audit(manifest, bundle, audited, "other", *columns) == 0
    files = str(audited / "explanations" / "*" / "*.parquet")
    found = duckdb.sql(
        f"SELECT run_id, count(*), count(DISTINCT method) FROM '{files}' GROUP BY ALL ORDER BY 1"
    ).fetchall()
    assert found == [("one", len(table(audited, "explanations", "one")), 1), ("other", 3, 1)]


@pytest.mark.engine
def test_a_used_run_id_is_refused(audited: Path, drawn: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(drawn / "pairs.csv", bundle, audited, "one", "--catalogue", str(drawn / "catalogue.csv")) == 2
    assert "already holds a run one" in capsys.readouterr().err


@pytest.mark.engine
def test_too_many_failures_end_with_1(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    options = ["--catalogue", str(drawn / "catalogue.csv"), "--max-failure-rate", "0.01"]
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "strict", *options) == 1
    assert table(tmp_path, "runs", "strict"), "the run itself is complete"


@pytest.mark.engine
def test_a_run_that_breaks_ends_with_3_and_does_not_exist(
    drawn: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no room on s3://key:s3cr3t@bucket/a?X-Amz-Signature=s3cr3t")

    monkeypatch.setattr("transforms.beam.write_tables.storage.publish", full)
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "broken", "--catalogue", str(drawn / "catalogue.csv")) == 3
    said = capsys.readouterr()
    assert "no room" in said.err
    assert "s3cr3t" not in said.out + said.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.engine
def test_tables_have_page_checksums_and_their_schema(audited: Path) -> None:
    for name in tables.SCHEMAS:
        for file in (audited / name / "run_id=one").glob("*.parquet"):
            read = pq.read_table(file, page_checksum_verification=True, partitioning=None)
            assert read.schema.equals(tables.SCHEMAS[name]), file


@pytest.mark.engine
def test_a_flipped_byte_is_found(audited: Path, tmp_path: Path) -> None:
    source = next(iter((audited / "explanations" / "run_id=one").glob("*.parquet")))
    data = bytearray(source.read_bytes())
    data[len(data) // 3] ^= 0x10
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(data)
    with pytest.raises(OSError, match=r"CRC|checksum"):
        pq.read_table(damaged, page_checksum_verification=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--manifest", "nothing-*.csv"], "nothing-"),
        (["--run-id", "7days"], "--run-id"),
        (["--fill", "purple"], "purple"),
        (["--masks", "0"], "masks=0"),
        (["--columns", "anchor=query_id"], "anchor"),
        (["--memory-limit", "1M"], "--memory-limit"),
        (["--bundle", "no-such-bundle"], "no-such-bundle"),
        (["--keep", "colour_of_sky"], "colour_of_sky"),
        (["--set", "rise.cells=300"], "300"),
        (["--set", "rise.cells=three"], "rise.cells is a whole number"),
        (["--set", "rise.colour=red"], "has no parameter 'colour'"),
        (["--set", "lime.samples=10"], "lime.samples is set"),
        (["--method", "rise,rise"], "twice"),
        (["--method", "divination"], "there is no method 'divination'; there are rise"),
        (["--method", ","], "--method must be among"),
        (["--converge", "1.5"], "converge"),
        (["--method", "mask"], "needs the bundle's gradient"),
        (["--reference-masks", "0"], "--reference-masks"),
        (["--converge", "0.9", "--explain", "both"], "--explain query and --explain reference apart"),
        (["--set", "rise.masks=50"], "--masks and --set rise.masks"),
        (["--set", "rise.cells=3", "--set", "rise.cells=4"], "rise.cells is set twice"),
        (["--method", "lime", "--set", "lime.samples=0"], "samples=0"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    drawn: Path, bundle: Path, tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--catalogue", str(drawn / "catalogue.csv"), *options]
    assert audit(drawn / "pairs.csv", bundle, tmp_path / "out", "wrong", *named) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.engine
def test_images_lie_beside_each_file_of_a_pattern(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    image = (drawn / "images" / "garment-0001.jpg").read_bytes()
    for month in ("a", "b"):
        (tmp_path / "in" / month).mkdir(parents=True)
        (tmp_path / "in" / month / f"{month}.jpg").write_bytes(image)
        write_csv(tmp_path / "in" / month / "pairs.csv", [{"query": f"{month}.jpg", "reference": f"{month}.jpg"}])
    assert audit(f"{tmp_path}/in/*/pairs.csv", bundle, tmp_path / "out", "folders") == 0
    assert len(table(tmp_path / "out", "explanations", "folders")) == 2


def shard(row: tables.Row) -> tuple[tuple[str, int], tuple[list[TableRow], list[str]]]:
    return ("strata", 0), ([TableRow("strata", row)], [])


def test_a_retried_shard_and_a_retried_end_are_no_conflict(tmp_path: Path) -> None:
    step = WriteTables(str(tmp_path), "r", 1, ())
    row: tables.Row = {"stratum": "all", "queries": 1, "sampled_queries": 1, "pairs": 2, "rate": 1.0}
    assert step._write(shard(row)) == step._write(shard(row)) == ("rows:strata", 1)
    with pytest.raises(AlreadyPublished):
        step._write(shard({**row, "pairs": 3}))


@pytest.mark.engine
def test_nobody_listening_changes_no_exit_code(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "audit", "--manifest", str(drawn / "pairs.csv"), "--bundle"]
    command += [str(bundle), "--out", str(tmp_path), "--catalogue", str(drawn / "catalogue.csv"), "--masks", "5"]
    with subprocess.Popen([*command, "--max-failure-rate", "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 1


def test_a_defect_is_a_broken_run_and_its_traceback_is_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn: Path, bundle: Path, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("s3://key:s3cr3t@bucket/a")

    monkeypatch.setattr("pipeline.audit.launch.plan", fail)
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "defect") == 3
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "s3cr3t" not in said


def test_local_paths_cannot_go_to_dataflow(
    drawn: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "far", "--runner", "dataflow") == 2
    assert "cannot reach" in capsys.readouterr().err


def test_a_manifest_without_rows_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.csv").write_text("query,reference\n")
    assert audit(tmp_path / "empty.csv", bundle, tmp_path / "out", "empty") == 2
    assert "the manifest has no rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ids_need_a_catalogue(drawn: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(drawn / "pairs.csv", bundle, tmp_path, "none") == 2
    assert "--catalogue" in capsys.readouterr().err
