"""What an evaluation says when it is done, read back from the table that it wrote."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.summary.findings import EvaluationSummary, Measure
from pipeline.evaluation.summary.record import record
from pipeline.evaluation.summary.summarise import summarise
from pipeline.evaluation.summary.wording import name_of
from pipeline.evaluation.text.write import lines, markdown
from pipeline.text.tables import printable
from transforms import storage, tables
from transforms.core.errors import MissingDependency, NotScored, RunError, UsageError
from transforms.core.messages import Echo
from transforms.core.metrics.registry import CURVES, needing, requests
from transforms.tables import runs

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
    if row["products_left_out"]:
        echo(f"products left out  {row['products_left_out']:,}")
    echo(f"tables     {storage.shown(options.tables)}/metrics/run_id={run_id}/, evaluation {options.evaluation_id}")
    if options.report is not None:
        _report(options, run_id, summary, Path(options.report), echo)
    wrong = list(faults(options, summary))
    for text in wrong:
        echo(f"FAILED: {text}")
    return not wrong


def faults(options: EvaluateOptions, summary: EvaluationSummary) -> Iterator[str]:
    """Why the evaluation fails: what was asked for and has no value, too many failures, methods that are not sane.

    Controls are no part of it: a control that fails is as it should be.
    """
    own = [one for one in summary.measures if not one.control]
    for metric in options.metrics:
        if not any(one.pairs or one.attributes for one in own if one.metric == metric):
            yield f"{metric} has no value at all: {_why(metric, own, summary)}"
    yield from _too_many_failures(own, options.max_failure_rate)
    for verdict in summary.verdicts:
        if not verdict.control and not verdict.passes:
            yield verdict.text


def _why(metric: str, own: list[Measure], summary: EvaluationSummary) -> str:
    """Why ``metric`` has no value: what its rows say, where none of them was scored, or the reasons of all rows."""
    here = [one for one in own if one.metric == metric]
    if not here:
        return "there was nothing to measure it on"
    unscored: Counter[str] = Counter()
    for one in here:
        unscored.update(dict(one.not_scored))
    said = [f"{why} ({count:,})" for why, count in sorted(unscored.items(), key=lambda item: (-item[1], item[0]))]
    if sum(one.failed for one in here) > unscored.total():
        others = sorted(set(summary.reasons) - {NotScored.reason})
        said += [f"{reason}, such as: {summary.examples[reason]}" for reason in others]
    return printable("; ".join(said))


def _too_many_failures(own: list[Measure], most: float) -> Iterator[str]:
    """Of each method the metrics too many of whose rows have no value; those that fail alike are told together.

    Rows that nothing can be said about are no failures, and no successes.
    """
    failed: Counter[tuple[str, str]] = Counter()
    rows: Counter[tuple[str, str]] = Counter()
    for one in own:
        failures = one.failed - sum(count for _, count in one.not_scored)
        failed[one.method, one.metric] += failures
        rows[one.method, one.metric] += failures + one.pairs + one.attributes
    alike: defaultdict[tuple[str, float], list[str]] = defaultdict(list)
    for (method, metric), count in failed.items():
        if count > most * rows[method, metric]:
            alike[method, count / rows[method, metric]].append(metric)
    for (method, share), metrics in alike.items():
        yield (
            f"{', '.join(metrics)} of {name_of(method, False)}: {share:.1%} of the measures could not be taken, more "
            f"than --max-failure-rate {most:.1%}"
        )


def _report(options: EvaluateOptions, run_id: str, summary: EvaluationSummary, folder: Path, echo: Echo) -> None:
    """Writes the summary as Markdown and JSON, and the pictures, into ``folder``."""
    from pipeline.evaluation.pictures.draw_curves import draw_curves
    from pipeline.evaluation.pictures.draw_sanity import draw_sanity
    from pipeline.evaluation.pictures.mean_curves import curves

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.md").write_text(markdown(summary), encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(record(summary), indent=2) + "\n", encoding="utf-8")
        try:
            if options.asks(*requests(CURVES)):
                columns = (*_COLUMNS, "curve")
                draw_curves(curves(_rows(options, "metrics", run_id, columns)), folder / "curves.png")
            if options.asks(*needing("cascade")):
                draw_sanity(summary, folder / "sanity.png")
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
