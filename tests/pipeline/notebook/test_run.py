"""``whymatch.read_run`` and ``whymatch.audit``: a run's tables, and options as a config file names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whymatch
from pipeline.audit.options import AuditOptions
from pipeline.options.keywords import options_from
from tests.support.audits import audit, table
from transforms import tables


@pytest.fixture(scope="module")
def run(bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> whymatch.Run:
    out = tmp_path_factory.mktemp("run") / "tables"
    catalogue = ("--catalogue", str(drawn / "catalogue.csv"), "--max-failure-rate", "1")
    assert audit(drawn / "pairs.csv", bundle, out, "r1", *catalogue) == 0
    return whymatch.read_run(out)


@pytest.mark.engine
def test_tables_are_those_on_disk(run: whymatch.Run) -> None:
    assert (run.id, run.accepted) == ("r1", None)
    for name in ("runs", "strata", "explanations", "failures", "images", "products"):
        found = run.table(name)
        assert found.schema.names == tables.SCHEMAS[name].names
        assert sorted(found.to_pylist(), key=repr) == table(Path(run.out), name, "r1")
    some = run.table("explanations", ["similarity", "pair_id"])
    assert some.schema.names == ["similarity", "pair_id"]
    assert run.table("metrics").num_rows == 0
    assert run.sql("SELECT count(*) AS n FROM explanations").to_pylist() == [{"n": some.num_rows}]


@pytest.mark.engine
def test_wrong_tables(run: whymatch.Run) -> None:
    with pytest.raises(whymatch.UsageError, match="there is no table 'pairs'; there are runs, strata, "):
        run.table("pairs")
    with pytest.raises(whymatch.UsageError, match="the table failures has no column 'why'; it has schema_version, "):
        run.table("failures", ["why"])
    with pytest.raises(whymatch.UsageError, match="a table without columns has no rows"):
        run.table("failures", [])
    with pytest.raises(whymatch.UsageError, match="holds no complete run 'r2'; it holds r1"):
        whymatch.read_run(run.out, "r2")


@pytest.mark.engine
def test_thresholds_are_the_runs(run: whymatch.Run) -> None:
    (row,) = table(Path(run.out), "runs", "r1")
    found = {
        (method, side, name): one.value
        for (method, side), some in run.thresholds.values.items()
        for name, one in some.items()
    }
    assert found == {(one["method"], one["side"], one["statistic"]): one["threshold"] for one in row["thresholds"]}
    assert run.thresholds.model_id == row["model_id"]


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_frames(run: whymatch.Run, kind: str) -> None:
    pytest.importorskip(kind, reason=f"needs {kind}")
    frame: Any = getattr(run, kind)("images", ["address", "image_sha256"])
    assert list(frame.columns) == ["address", "image_sha256"]
    assert len(frame) == run.table("images").num_rows


@pytest.mark.engine
def test_an_audit_is_that_of_the_command(bundle: Path, drawn: Path, tmp_path: Path, run: whymatch.Run) -> None:
    said: list[str] = []
    made = whymatch.audit(
        manifest=[drawn / "pairs.csv"],
        catalogue=drawn / "catalogue.csv",
        bundle=bundle,
        out=tmp_path / "tables",
        run_id="r1",
        masks=np.int64(40),
        shards=3,
        device="cpu",
        max_failure_rate=1.0,
        echo=said.append,
    )
    assert made.accepted is True
    assert said[0].startswith("run r1: ")
    assert made.table("explanations").equals(run.table("explanations"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "manifest, bundle, out are missing"),
        ({"manifest": ["m"], "bundle": "b"}, "out is missing"),
        ({"manifests": ["m"]}, "there is no option 'manifests'; did you mean 'manifest'"),
        ({"manifest": ["m"], "bundle": "b", "out": "o", "top": "5"}, "top must be a whole number.*, not '5'"),
        ({"image_root": ["a"], "image-root": ["b"]}, "'image-root' is given twice"),
    ],
)
def test_wrong_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(whymatch.UsageError, match=message):
        options_from(AuditOptions, given)
