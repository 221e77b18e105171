"""What an audit says when it is done, read back from the tables that it wrote."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.options import AuditOptions
from transforms import storage, tables
from transforms.core.errors import MissingDependency, RunError

ATTRIBUTES_QUESTION = """
-- Which attributes explain the matches, and does the catalogue say that the reference has them?
SELECT top[1].name AS attribute, count(*) AS pairs, avg(top[1].score) AS mean_score,
       avg(top[1].on_reference::INT) AS reference_has_it
FROM explanations WHERE {which} GROUP BY ALL ORDER BY pairs DESC, attribute LIMIT 5
"""
MAPS_QUESTION = """
-- How much of the evidence lies at the images' border, and on their background?
SELECT count(*) AS pairs, avg(border_share) AS border_share, avg(border_area) AS border_area,
       avg(background_share) AS background_share, avg(background_area) AS background_area
FROM explanations WHERE {which}
"""


def summarise(options: AuditOptions, seconds: float, echo: Callable[[str], None] = print) -> bool:
    """Prints a finished run's summary; False where its failure rate is over ``--max-failure-rate``."""
    runs = _read(options, "runs").to_pylist()
    if not runs:
        raise RunError(f"the pipeline ended, but {storage.redact(options.out)} holds no row of run {options.run_id}")
    (run,) = runs
    failures = _read(options, "failures", ["reason", "message"]).to_pylist()
    reasons = Counter(failure["reason"] for failure in failures)
    read, explained, failed = run["rows_read"], run["pairs_explained"], run["pairs_failed"]
    named = ", ".join(
        f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item))
    )
    echo("")
    images = "queries" if options.explain == "query" else "images"
    echo(f"explained  {explained:,} of {read:,} pairs, {run['queries']:,} {images}")
    if run["explanations"] != explained:
        echo(f"           {run['explanations']:,} explanations: {_each(options)} a pair")
    echo(f"failed     {failed:,}{f': {named}' if named else ''}")
    if reasons:
        often = max(sorted(reasons), key=lambda reason: reasons[reason])
        example = min(failure["message"] for failure in failures if failure["reason"] == often)
        echo(f"           such as {often}: {example}")
    echo(
        f"cost       {run['forward_passes']:,} forward passes, {seconds:.1f} s, "
        f"{explained / seconds:.1f} pairs a second"
    )
    echo(f"tables     {storage.redact(options.out)}/<table>/run_id={options.run_id}/")
    if explained:
        _ask(options, ATTRIBUTES_QUESTION if run["attribute_model_id"] else MAPS_QUESTION, echo)
    if not read:
        echo("FAILED: the manifest has no rows; an audit of nothing is no assurance")
        return False
    rate = failed / read
    if rate > options.max_failure_rate:
        echo(f"FAILED: {rate:.1%} of the pairs failed, more than --max-failure-rate {options.max_failure_rate:.1%}")
        return False
    return True


def _each(options: AuditOptions) -> str:
    """What a pair's explanations are."""
    methods = f"{len(options.methods)} method{'s' * (len(options.methods) > 1)}"
    return f"{methods} × {len(options.sides())} sides" if len(options.sides()) > 1 else methods


def _ask(options: AuditOptions, question: str, echo: Callable[[str], None]) -> None:
    which = f"run_id = '{options.run_id}'"
    if len(options.methods) > 1:
        which += f" AND method = '{options.methods[0]}'"
    if len(options.sides()) > 1:
        which += f" AND side = '{options.sides()[0]}'"
    query = question.format(which=which).strip()
    echo(f'\nwhymatch sql {storage.redact(options.out)} "{query}"\n')
    try:
        from pipeline import sql

        echo(sql.render(sql.query(options.out, query)))
    except MissingDependency as error:
        echo(f"(no answer here: {error})")


def _read(options: AuditOptions, table: str, columns: list[str] | None = None) -> pa.Table:
    """One table of the finished run."""
    files = storage.list_files(tables.folder(options.out, table, options.run_id))
    if not files:
        return tables.SCHEMAS[table].empty_table()
    return pa.concat_tables(pq.read_table(io.BytesIO(storage.read_file(file)), columns=columns) for file in files)
