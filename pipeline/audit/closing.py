"""What an audit says when it is done, read back from the tables that it wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.audit.options import AuditOptions
from pipeline.results.summary.quantities import FAILED, FAILED_IN_PART
from pipeline.results.summary.summarise import RunSummary, summarise_run
from pipeline.results.summary.sums import Estimate
from pipeline.results.summary.text import notes, table, wrapped
from pipeline.text.tables import printable
from transforms import storage, tables
from transforms.core.errors import MissingDependency, RunError, UsageError
from transforms.core.messages import Echo, quoted
from transforms.tables import runs

FEW_PAIRS = 20
"""Of fewer sampled pairs of a stratum one failure is no rate: see :func:`faults`."""

ATTRIBUTES_QUESTION = """
-- Which attributes explain the matches, and does the catalogue say that the reference has them?
SELECT top[1].name AS attribute, round(sum(weight))::BIGINT AS pairs,
       sum(weight * top[1].score) / sum(weight) AS mean_score,
       sum(weight * top[1].on_reference::INT) / sum(weight) FILTER (top[1].on_reference IS NOT NULL) AS reference_has_it
FROM explanations WHERE {which} GROUP BY ALL ORDER BY pairs DESC, attribute LIMIT 5
"""
MAPS_QUESTION = """
-- How much of the evidence lies at the images' border, and on their background?
SELECT round(sum(weight))::BIGINT AS pairs,
       sum(weight * border_share) / sum(weight) AS border_share,
       sum(weight * border_area) / sum(weight) AS border_area,
       sum(weight * background_share) / sum(weight) AS background_share,
       sum(weight * background_area) / sum(weight) AS background_area
FROM explanations WHERE {which}
"""

_STRATA = 10  # that failed and are named, the worst
_MAIN = (
    "failed",
    "failed_in_part",
    "explained",
    "unexplained",
    "first_attribute",
    "contradicted_on_reference",
    "peak_in_border",
    "border_over_area",
    "background_over_area",
    "off_served_score",
    "similarity",
    "map_reliability",
)
_COUNTS = (
    "rows_read",
    "pairs_explained",
    "pairs_failed",
    "pairs_not_sampled",
    "explanations",
    "queries",
    "forward_passes",
    "attribute_model_id",
)


def summarise(options: AuditOptions, seconds: float, echo: Echo = print) -> bool:
    """Prints a finished run's summary; False where too many pairs failed: see :func:`faults`."""
    run = _run(options)
    (row,) = (row for batch in run.batches(_COUNTS, table="runs") for row in batch.to_pylist())
    echo("")
    for line in _counts(options, row, run, seconds):
        echo(line)
    if not row["rows_read"]:
        echo("FAILED: the manifest has no rows; an audit of nothing is no assurance")
        return False
    summary = summarise_run(run)
    echo("")
    for line in _estimates(summary, options):
        echo(line)
    if row["pairs_explained"]:
        _ask(options, summary, ATTRIBUTES_QUESTION if row["attribute_model_id"] else MAPS_QUESTION, echo)
    wrong = list(faults(summary, options.max_failure_rate))
    for text in wrong:
        echo(f"FAILED: {text}")
    return not wrong


def faults(summary: RunSummary, most: float) -> Iterator[str]:
    """Why the audit fails: too many pairs of the catalogue, or of a stratum, of which an explanation is missing.

    The share of the catalogue is the estimated one, weighted; that of a stratum the one of its sampled pairs, which
    weigh alike. Of a stratum with fewer than ``FEW_PAIRS`` sampled pairs two must have failed: one of a handful is over
    any small limit, and says little. Rows of the manifest without a readable query count in the whole alone.
    """
    rate = _failed(summary).interval.estimate
    if rate > most:
        told = f"{rate:.1%}" if summary.is_exact else f"an estimated {rate:.1%}"
        yield f"{told} of the pairs failed, more than --max-failure-rate {most:.1%}"
    over = [
        (failed / pairs, stratum)
        for stratum, (failed, pairs) in summary.failures.items()
        if failed > most * pairs and (pairs >= FEW_PAIRS or failed >= 2)
    ]
    if rate > most and len(summary.failures) == 1:
        return  # the one stratum says nothing more
    over.sort(key=lambda one: (-one[0], one[1]))
    for share, stratum in over[:_STRATA]:
        failed, pairs = summary.failures[stratum]
        sampled = "" if summary.is_exact else " sampled"
        yield (
            f"{failed:,} of the {pairs:,}{sampled} pairs of the stratum {quoted(stratum)} failed ({share:.1%}), more "
            f"than --max-failure-rate {most:.1%}"
        )
    if len(over) > _STRATA:
        yield f"{len(over) - _STRATA:,} more strata are over --max-failure-rate {most:.1%}"


def _failed(summary: RunSummary) -> Estimate:
    """The estimate of the pairs of which any explanation is missing."""
    found = {line.quantity: line for line in summary.estimates}
    return found.get(FAILED_IN_PART, found[FAILED])


def _counts(options: AuditOptions, row: tables.Row, run: runs.Run, seconds: float) -> Iterator[str]:
    explained, failed, left = (row[f"pairs_{name}"] for name in ("explained", "failed", "not_sampled"))
    images = "queries" if options.explain == "query" else "images"
    yield f"explained  {explained:,} of {explained + failed:,} pairs, {row['queries']:,} {images}"
    if row["explanations"] != explained:
        yield f"           {row['explanations']:,} explanations: {_each(options)} a pair"
    if left:
        yield f"sampled    {explained + failed:,} of {row['rows_read']:,} pairs; {left:,} were not sampled"
    reasons, examples = _reasons(run)
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    named = ", ".join(f"{reasons[reason]:,} {reason}" for reason in order)
    yield printable(f"failed     {failed:,}{f': {named}' if named else ''}")
    if order:
        yield printable(f"           such as {order[0]}: {examples[order[0]]}")
    speed = f"{explained / seconds:.1f} pairs a second"
    yield f"cost       {row['forward_passes']:,} forward passes, {seconds:.1f} s, {speed}"
    yield f"tables     {storage.redact(options.out)}/<table>/run_id={options.run_id}/"


def _reasons(run: runs.Run) -> tuple[Counter[str], dict[str, str]]:
    """How many failures have each reason, and the first message of each."""
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for batch in run.batches(["reason", "message"], table="failures"):
        for failure in batch.to_pylist():
            reason, message = failure["reason"], failure["message"]
            reasons[reason] += 1
            examples[reason] = min(examples.get(reason, message), message)
    return reasons, examples


def _each(options: AuditOptions) -> str:
    """What a pair's explanations are."""
    methods = f"{len(options.methods)} method{'s' * (len(options.methods) > 1)}"
    return f"{methods} × {len(options.sides())} sides" if len(options.sides()) > 1 else methods


def _estimates(summary: RunSummary, options: AuditOptions) -> Iterator[str]:
    yield from table(summary, [line for line in summary.estimates if line.quantity.name in _MAIN])
    yield ""
    for note in notes(summary):
        yield from wrapped(note)
    out = storage.redact(options.out)
    yield from wrapped(f"More, and by any column: whymatch summary {out} --run-id {options.run_id} --by COLUMN")


def _ask(options: AuditOptions, summary: RunSummary, question: str, echo: Echo) -> None:
    which = f"run_id = '{options.run_id}'"
    if len(options.methods) > 1:
        which += f" AND method = '{summary.selection.method}'"
    if len(options.sides()) > 1:
        which += f" AND side = '{summary.selection.side}'"
    query = question.format(which=which).strip()
    echo(f'\nwhymatch sql {storage.redact(options.out)} "{query}"\n')
    try:
        from pipeline.results import sql

        echo(sql.render(sql.query(options.out, query)))
    except MissingDependency as error:
        echo(f"(no answer here: {error})")


def _run(options: AuditOptions) -> runs.Run:
    try:
        return runs.find(options.out, options.run_id)
    except UsageError:
        raise RunError(
            f"the pipeline ended, but {storage.redact(options.out)} holds no row of run {options.run_id}"
        ) from None
