"""Whole audits on disk, for end-to-end tests: a drawn catalogue, a small bundle, the command line, the tables."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import cli

Row = dict[str, Any]


def audit(manifest: Path | str, bundle: Path, out: Path, run_id: str, *more: str) -> int:
    """Runs ``whymatch audit`` in this process with few masks and returns its exit code."""
    named = ["--manifest", str(manifest), "--bundle", str(bundle), "--out", str(out), "--run-id", run_id]
    methods = more[more.index("--method") + 1] if "--method" in more else "rise"
    few = ["--masks", "40"] if "rise" in methods.split(",") else []
    return cli.main(["audit", *named, *few, "--shards", "3", "--device", "cpu", *more])


def table(out: Path, name: str, run_id: str) -> list[Row]:
    """The rows of one table of one run, in one fixed order."""
    files = sorted((out / name / f"run_id={run_id}").glob("*.parquet"))
    rows: list[Row] = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    return sorted(rows, key=repr)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A CSV file of ``rows`` with the columns of the first."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def nothing_in_the_cloud(patch: pytest.MonkeyPatch) -> None:
    """Google's storage refuses every connection at once: no test asks a real one, nor waits for the network there is.

    gcsfs tries a bucket that cannot be reached six times in a row and waits half a minute in between; not here.
    """

    async def sleep(_: float) -> None:
        return None

    patch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    patch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=sleep))
