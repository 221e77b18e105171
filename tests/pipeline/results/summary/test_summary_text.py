"""What people and programs read of a run: words that tell what the numbers rest on, and the gate at an audit's end."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.audit.closing import summarise
from pipeline.audit.options import AuditOptions
from pipeline.results.summary.text import WIDTH, lines, notes
from pipeline.text.tables import columns
from tests.support.tables.rows import explanation, failure
from tests.support.tables.strata import shirts_and_shoes, stratum, summary, write
from transforms.tables import Row


def options(out: Path | str, **given: Any) -> AuditOptions:
    return AuditOptions(("pairs.csv",), "bundle", str(out), "r", **given)


def end(out: Path | str, **given: Any) -> tuple[bool, str]:
    """What an audit says at its end, and whether it passes."""
    said: list[str] = []
    passed = summarise(options(out, **given), 2.0, said.append)
    return passed, "\n".join(said)


def failing(name: str, queries: int, failed: int, weight: int = 1) -> tuple[list[Row], list[Row], Row]:
    """A stratum of ``queries`` sampled ones with a pair each, ``failed`` of them without an explanation."""
    of = {"stratum": name, "weight": float(weight)}
    rows = [{**explanation(f"{name}{at}", "r"), **of} for at in range(failed, queries)]
    lost = [{**failure(f"{name}{at}", "r", "not_found"), **of} for at in range(failed)]
    return rows, lost, stratum(name, queries * weight, queries)


def gate(out: Path, *strata: tuple[list[Row], list[Row], Row], most: float) -> tuple[bool, str]:
    """The audit's end with these strata and ``--max-failure-rate``."""
    rows = [row for one, _, _ in strata for row in one]
    lost = [row for _, one, _ in strata for row in one]
    write(out, rows, [counts for _, _, counts in strata], lost)
    return end(out, max_failure_rate=most)


def faults(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("FAILED")]


def test_the_sample_is_told_in_words(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    shown = lines(summary(write(tmp_path, rows, [*strata, stratum("socks", 7, 0)])))
    text = " ".join(line.strip() for line in shown)
    assert shown[0] == "run        r, started 2026-10-01 12:00, rise of the query"
    assert shown[1] == "sampled    4 of 27 queries, 6 of 31 pairs, 3 strata by 'kind', seed 0"
    assert "No query was sampled of 'socks' (7 pairs): other strata stand for them." in text
    assert "put together as one: 'shirts', 'socks'." in text
    assert "Nothing can be said of: first attribute not on the reference, " in text
    assert "reliability of the map, agreement with any reference's map. Of these, the run has no" in text
    assert "exact" not in text


@pytest.mark.parametrize(("gone", "said"), [(1, "queries is no longer"), (3, "queries are no longer")])
def test_what_is_erased_is_told(tmp_path: Path, gone: int, said: str) -> None:
    rows, strata = shirts_and_shoes()
    text = " ".join(notes(summary(write(tmp_path, rows, [strata[0], stratum("shoes", 16, 2 + gone)]))))
    assert f"{gone} of the sampled {said} in the tables; the others stand for {'it' if gone == 1 else 'them'}." in text


def test_a_full_audit_is_exact_and_says_what_else_there_is(tmp_path: Path) -> None:
    write(tmp_path, [explanation("q", "r", explained=True)], [stratum("all", 1, 1)], stratified_by=None)
    shown = lines(summary(tmp_path))
    assert shown[1] == "sampled    1 of 1 queries"
    (row,) = (line for line in shown if line.startswith("explained"))
    assert row.split() == ["explained", "100.0", "%", "exact", "1", "1"]
    assert any("--of process has intervals" in line for line in shown)
    (row,) = (line for line in lines(summary(tmp_path, population="process")) if line.startswith("explained"))
    assert "too few queries" in row


def test_hostile_names_neither_act_nor_break_the_table(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    for row in rows:
        row["top"] = [{"name": "a\x1b[2J" + "界" * 50, "score": 1.0}]
        row["condition"] = "\x07\n" + "b" * 200
        row["region_shares"] = [{"name": None, "share": 0.5, "area": 0.5, "peak": False}]
    out = write(tmp_path, rows, [*strata, {**stratum("\x1b]0;x\x07" + "y" * 300, 5, 0)}])
    for by in (None, "condition"):
        shown = lines(summary(out, by=by))
        assert all(line.isprintable() for line in shown)
        assert all(columns(line) <= WIDTH for line in shown)


def test_by_shows_a_row_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(tmp_path, *shirts_and_shoes())
    assert cli.main(["summary", out, "--by", "stratum"]) == 0
    shown = capsys.readouterr().out.splitlines()
    head, _, shoes, shirts = shown[3:7]
    assert head.split("  ")[0] == "stratum"
    assert shoes.split()[:4] == ["shoes", "2", "73", "%"]
    assert shirts.split()[:4] == ["shirts", "3", "27", "%"]


def test_programs_read_rows_and_people_the_words_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(tmp_path, *shirts_and_shoes())
    assert cli.main(["summary", out, "--run-id", "r", "--format", "json"]) == 0
    said = capsys.readouterr()
    (explained,) = (row for row in json.loads(said.out) if row["quantity"] == "explained")
    assert explained["estimate"] == pytest.approx(14 / 22)
    assert 0 <= explained["low"] < explained["estimate"] < explained["high"] <= 1
    assert (explained["pairs"], explained["queries"], explained["exact"], explained["kind"]) == (5, 4, False, "rate")
    assert "bootstraps over queries" in said.err
    assert cli.main(["summary", out, "--by", "stratum", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["by"], row["group"]) for row in table} == {("stratum", "shirts"), ("stratum", "shoes")}


@pytest.mark.parametrize("arguments", [["--by", "nothing"], ["--method", "lime"], ["--run-id", "other"]])
def test_what_is_not_there_is_a_usage_error(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["summary", write(tmp_path, *shirts_and_shoes()), *arguments]) == 2
    assert repr(arguments[1]) in capsys.readouterr().err


def test_the_end_of_an_audit(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    for row in rows:
        row["weight"] = {"shirts": 2.0, "shoes": 8.0}[row["stratum"]]
    lost = [{**failure("query-0", "r9", "not_found"), "stratum": "shirts", "weight": 2.0, "message": "gone\x1b"}]
    write(tmp_path, rows, strata, lost, rows_read=20, pairs_not_sampled=14, queries=4)
    passed, said = end(tmp_path, max_failure_rate=0.5)
    assert passed
    shown = said.splitlines()
    assert shown[1:6] == [
        "explained  5 of 6 pairs, 4 queries",
        "sampled    6 of 20 pairs; 14 were not sampled",
        "failed     1: 1 not_found",
        "           such as not_found: gone\\x1b",
        "cost       10 forward passes, 2.0 s, 2.5 pairs a second",
    ]
    (explained,) = (line for line in shown if line.startswith("explained  ") and "%" in line)
    assert explained.split()[1:3] == ["63.6", "%"]
    assert "FROM explanations WHERE run_id = 'r'" in said


def test_the_sql_question_weighs(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    rows, strata = shirts_and_shoes()
    for row in rows:
        row["weight"] = {"shirts": 2.0, "shoes": 8.0}[row["stratum"]]
        row["top"] = [{"name": row["stratum"], "score": 1.0, "on_reference": True}]
    rows[0]["top"][0]["on_reference"] = None
    write(tmp_path, rows, strata, attribute_model_id="a0")
    _, said = end(tmp_path)
    answer = [line.split() for line in said.splitlines()[-2:]]
    assert answer == [["shoes", "16", "1", "1"], ["shirts", "6", "1", "1"]]


def test_without_duckdb_the_estimates_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    write(tmp_path, *shirts_and_shoes())
    passed, said = end(tmp_path)
    assert passed
    assert "explained" in said
    assert "(no answer here: queries need DuckDB" in said


def test_nothing_read_is_no_assurance(tmp_path: Path) -> None:
    passed, said = end(write(tmp_path, [], [], rows_read=0))
    assert not passed
    assert "an audit of nothing" in said


def test_the_failure_rate_is_weighted(tmp_path: Path) -> None:
    """4 of the 60 sampled pairs failed, 6.7 %: they stand for 400 of the catalogue's 2,040."""
    small, large = failing("small", 40, 0), failing("large", 20, 4, weight=100)
    passed, said = gate(tmp_path / "a", small, large, most=0.19)
    assert not passed
    assert faults(said)[0] == "FAILED: an estimated 19.6% of the pairs failed, more than --max-failure-rate 19.0%"
    passed, said = gate(tmp_path / "b", failing("small", 20, 1), failing("large", 40, 0, weight=100), most=0.05)
    assert passed, said


def test_a_stratum_alone_can_fail(tmp_path: Path) -> None:
    """A quarter of a small stratum is 0.1 % of the catalogue."""
    passed, said = gate(tmp_path, failing("rare", 20, 5), failing("common", 40, 0, weight=100), most=0.05)
    assert not passed
    assert faults(said) == [
        "FAILED: 5 of the 20 sampled pairs of the stratum 'rare' failed (25.0%), more than --max-failure-rate 5.0%"
    ]


@pytest.mark.parametrize(("queries", "failed", "passes"), [(19, 1, True), (19, 2, False), (3, 1, True), (20, 2, False)])
def test_one_failure_of_a_few_pairs_is_no_rate(tmp_path: Path, queries: int, failed: int, passes: bool) -> None:
    passed, said = gate(tmp_path, failing("rare", queries, failed), failing("common", 40, 0, weight=100), most=0.05)
    assert passed is passes, said


def test_one_stratum_is_told_once(tmp_path: Path) -> None:
    passed, said = gate(tmp_path, failing("all", 30, 3), most=0.05)
    assert not passed
    assert faults(said) == ["FAILED: 10.0% of the pairs failed, more than --max-failure-rate 5.0%"]


def test_the_worst_strata_are_named(tmp_path: Path) -> None:
    strata = [failing(f"s{at:02}", 10 + at, 5) for at in range(15)]
    _, said = gate(tmp_path, *strata, failing("common", 40, 0, weight=100), most=0.05)
    found = faults(said)
    assert ["'s00'" in found[0], "'s09'" in found[9], len(found)] == [True, True, 11]
    assert found[-1] == "FAILED: 5 more strata are over --max-failure-rate 5.0%"
