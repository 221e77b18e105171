"""``whymatch summary``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pipeline.commands.common import command


def add(commands: Any) -> None:
    parser = command(
        commands,
        "summary",
        _run_summary,
        "say what an audit found of the whole catalogue, with intervals where only a sample was explained",
        "Intervals are 95 % bootstraps over queries, stratified and weighted. With csv and json, what is to be known "
        "beside the numbers goes to the standard error.",
    )
    parser.add_argument("tables", metavar="DIR", help="the --out of the audits")
    parser.add_argument("--run-id", help="which run; the one that was started last when left out")
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="a row a value of this column: stratum, method, condition, side, served_model, fill or provider, else one "
        "that the audit was told to --keep, else one of the catalogue, of the query's product",
    )
    parser.add_argument("--method", metavar="NAME", help="whose explanations; the audit's first when left out")
    parser.add_argument(
        "--side", choices=("query", "reference"), help="which image's explanations; the query's where it has any"
    )
    parser.add_argument(
        "--of",
        choices=("catalogue", "process"),
        default="catalogue",
        help="what is estimated: the audited catalogue, exact where every query was taken, or what makes such queries, "
        "as when two months are compared",
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answer")


def _run_summary(options: argparse.Namespace) -> int:
    from pipeline.results.summary.summarise import summarise_run
    from pipeline.results.summary.text import flat, lines, notes
    from pipeline.text.tables import render
    from transforms.tables import runs

    run = runs.find(options.tables, options.run_id)
    found = summarise_run(run, by=options.by, method=options.method, side=options.side, population=options.of)
    if options.format == "table":
        print("\n".join(lines(found)))
        return 0
    print(render(flat(found), options.format))
    for note in notes(found):
        print(note, file=sys.stderr)
    return 0
