"""``whymatch erase``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic.dataclasses import dataclass

from pipeline.commands.common import say
from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Repeated
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from transforms.tables.erased_ids import Ids
    from transforms.tables.erasure_search import RunFound

_MAX_IDS_BYTES = 2**28


@dataclass(frozen=True, config=CONFIG)
class EraseOptions(Options):
    """The options of ``whymatch erase``."""

    out: shared.Tables
    ids: Annotated[
        Repeated,
        Option("query, reference or product id, or address of an image; may be given again", flag="--id", metavar="ID"),
    ] = ()
    file: Annotated[str | None, Option("text file of ids, one a line, in UTF-8", flag="--ids", metavar="FILE")] = None
    run_id: Annotated[str | None, Option("in this run alone; in all when left out")] = None
    reason: Annotated[str | None, Option("why, for the record; must not name an id", metavar="TEXT")] = None
    dry_run: Annotated[bool, Option("say what would go, and change nothing")] = False


def _run(options: EraseOptions) -> int:
    from importlib import metadata

    from transforms.tables import erasure as erasing
    from transforms.tables.erased_ids import Ids
    from transforms.tables.erasure_search import find

    ids = Ids((*options.ids, *(_read_ids(options.file) if options.file else ())))
    erasure = erasing.Erasure(
        metadata.version("whymatch"), None if options.reason is None else ids.check_reason(options.reason)
    )
    found = find(options.out, ids, options.run_id)
    for run in found:
        rows = run.rows if options.dry_run else erasing.erase(options.out, run, ids, erasure)
        say(f"run {run.run_id}: {_described(run, rows, 'would be ' if options.dry_run else '')}")
    if not found:
        say(f"no row holds {_named(ids)}; nothing was changed")
    elif not options.dry_run:
        erasing.check_erased(options.out, ids, options.run_id)
        say(f"searched again: no row holds {_named(ids)}. Recorded as {erasure.id} in the table erasures")
    return 0


def _read_ids(address: str) -> tuple[str, ...]:
    from transforms import storage

    data = storage.read_file(address, max_bytes=_MAX_IDS_BYTES)
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{storage.shown(address)} is not UTF-8; save it as UTF-8, one id a line") from None
    ids = tuple(line for line in (line.removesuffix("\r") for line in lines) if line and not line.isspace())
    if not ids:
        raise UsageError(f"{storage.shown(address)} has no id; one a line is expected")
    return ids


def _named(ids: Ids) -> str:
    count = len(set(ids.given))
    return "it" if count == 1 else f"any of the {count:,} ids"


def _described(run: RunFound, rows: Mapping[str, int], would: str) -> str:
    tables = ", ".join(f"{table} {count:,}" for table, count in rows.items())
    parts = [f"{_count(sum(rows.values()), 'row')} {would}erased ({tables})"] if rows else []
    if run.masked:
        parts.append(f"{_count(run.masked, 'text')} {would}masked")
    return f"{', '.join(parts)}; {_count(len(run.files), 'file')} {would}rewritten"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


COMMAND = Command(
    "erase",
    EraseOptions,
    _run,
    "take all rows of some products out of the tables of all runs under a folder, unfinished runs too",
    "Files that name none of them are not touched. Each run keeps a record of how many rows went, in the table "
    "erasures, and none of what they were. Exit code 0 also where no row holds an id. docs/privacy.md says what is "
    "not searched.",
)
