"""``whymatch sql``."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.common import command


def add(commands: Any) -> None:
    parser = command(
        commands,
        "sql",
        _run_sql,
        "query the tables of all complete runs under a folder with DuckDB (needs the extra 'sql')",
        "Views: runs, strata, explanations, failures, images, products, evaluations, metrics, erasures.",
    )
    parser.add_argument("out", metavar="DIR", help="the --out of the audits")
    parser.add_argument("query", metavar="SQL", help='such as "SELECT run_id, count(*) FROM explanations GROUP BY 1"')
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answer")


def _run_sql(options: argparse.Namespace) -> int:
    from pipeline.results import sql

    print(sql.render(sql.query(options.out, options.query), options.format))
    return 0
