"""``whymatch summary``."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options


@dataclass(frozen=True, config=CONFIG)
class SummaryOptions(Options):
    """The options of ``whymatch summary``."""

    tables: shared.Tables
    run_id: shared.WhichRun = None
    by: Annotated[
        str | None,
        Option(
            "a row a value of this column: stratum, method, condition, side, served_model, fill or provider, else one "
            "that the audit was told to --keep, else one of the catalogue, of the query's product",
            metavar="COLUMN",
        ),
    ] = None
    method: Annotated[str | None, Option("whose explanations; the audit's first when left out", metavar="NAME")] = None
    side: Annotated[
        Literal["query", "reference"] | None, Option("which image's explanations; the query's where it has any")
    ] = None
    of: Annotated[
        Literal["catalogue", "process"],
        Option(
            "what is estimated: the audited catalogue, exact where every query was taken, or what makes such queries, "
            "as when two months are compared"
        ),
    ] = "catalogue"
    format: shared.Rendering = "table"


def _run(options: SummaryOptions) -> int:
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


COMMAND = Command(
    "summary",
    SummaryOptions,
    _run,
    "say what an audit found of the whole catalogue, with intervals where only a sample was explained",
    "Intervals are 95 % bootstraps over queries, stratified and weighted. With csv and json, what is to be known "
    "beside the numbers goes to the standard error.",
)
