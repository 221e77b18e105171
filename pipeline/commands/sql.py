"""``whymatch sql``."""

from __future__ import annotations

from typing import Annotated

from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options


@dataclass(frozen=True, config=CONFIG)
class SqlOptions(Options):
    """The options of ``whymatch sql``."""

    out: shared.Tables
    query: Annotated[
        str,
        Option('such as "SELECT run_id, count(*) FROM explanations GROUP BY 1"', metavar="SQL", positional=True),
    ]
    format: shared.Rendering = "table"


def _run(options: SqlOptions) -> int:
    from pipeline.results import sql

    print(sql.render(sql.query(options.out, options.query), options.format))
    return 0


COMMAND = Command(
    "sql",
    SqlOptions,
    _run,
    "query the tables of all complete runs under a folder with DuckDB (needs the extra 'sql')",
    "Views: runs, strata, explanations, failures, images, products, evaluations, metrics, erasures.",
)
