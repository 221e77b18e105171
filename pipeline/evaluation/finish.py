"""What an evaluation says when it is done, read back from the table that it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.summary import Summary, record, summarise
from pipeline.evaluation.text import lines, markdown
from transforms import runs, storage, tables
from transforms.core.errors import MissingDependency, NotScored, RunError, UsageError
from transforms.measuring import CURVES

Echo = Callable[[str], None]

_COLUMNS = tuple(name for name in tables.SCHEMAS["metrics"].names if name not in ("schema_version", "curve"))


def finish(options: EvaluateOptions, run_id: str, seconds: float, echo: Echo = print) -> bool:
    """Prints a finished evaluation's summary and writes its report; False where the evaluation fails."""
    (row,) = _rows(options, "evaluations", run_id, tuple(tables.SCHEMAS["evaluations"].names))
    summary = summarise(_rows(options, "metrics", run_id, _COLUMNS), sanity_limit=options.max_agreement)
    echo("")
    for line in lines(summary):
        echo(line)
    measured = row["measurements"]
    # what cannot be judged is no fault of anything: few products differ in one attribute alone
    failed = row["measurements_failed"] - summary.reasons[NotScored.reason]
    echo("")
    echo(f"measured   {row['explanations_measured']:,} explanations, {measured:,} measures, {failed:,} failed")
    echo(f"cost       {row['forward_passes']:,} forward passes, {seconds:.1f} s")
    echo(f"tables     {storage.shown(options.tables)}/metrics/run_id={run_id}/, evaluation {options.evaluation_id}")
    if options.report is not None:
        _report(options, run_id, summary, Path(options.report), echo)
    return _holds(options, summary, measured, failed, echo)


def _holds(options: EvaluateOptions, summary: Summary, measured: int, failed: int, echo: Echo) -> bool:
    holds = True
    if not measured:
        echo("FAILED: nothing was measured")
        holds = False
    elif failed / measured > options.max_failure_rate:
        echo(
            f"FAILED: {failed / measured:.1%} of the measures could not be taken, more than --max-failure-rate "
            f"{options.max_failure_rate:.1%}"
        )
        holds = False
    for verdict in summary.verdicts:
        if not verdict.control and verdict.passes is False:
            echo(f"FAILED: {verdict.text}")
            holds = False
    return holds


def _report(options: EvaluateOptions, run_id: str, summary: Summary, folder: Path, echo: Echo) -> None:
    """Writes the summary as Markdown and JSON, and the pictures, into ``folder``."""
    from pipeline.evaluation import pictures

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.md").write_text(markdown(summary), encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(record(summary), indent=2) + "\n", encoding="utf-8")
        try:
            if options.asks(*CURVES):
                columns = (*_COLUMNS, "curve")
                pictures.draw_curves(pictures.curves(_rows(options, "metrics", run_id, columns)), folder / "curves.png")
            if options.asks("sanity"):
                pictures.draw_sanity(summary, folder / "sanity.png")
        except MissingDependency as error:
            echo(f"(no pictures: {error})")
    except OSError as error:
        raise UsageError(f"--report: cannot write to {folder}: {error.strerror}") from None
    echo(f"report     {folder}")


def _rows(options: EvaluateOptions, table: str, run_id: str, columns: tuple[str, ...]) -> Iterator[tables.Row]:
    """The rows of ``table`` that this evaluation wrote."""
    found = [
        address
        for address in storage.list_files(tables.folder(options.tables, table, run_id))
        if runs.of(address) == options.evaluation_id
    ]
    if not found:
        raise RunError(
            f"the pipeline ended, but {storage.shown(options.tables)} holds no rows of evaluation "
            f"{options.evaluation_id} in {table}"
        )
    for address in found:
        for batch in runs.read_batches(address, table, columns):
            yield from batch.to_pylist()
