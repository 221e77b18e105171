"""The manifest: the pairs to explain, read as a stream from CSV, JSON lines or Parquet.

A row names its two images by address (``query``, ``reference``), by product (``query_id``, ``reference_id``, which a
catalogue resolves), or by both. An absent id is the address as the manifest writes it, without credentials and
signatures, since ids stand in tables. An absent ``pair_id`` is the hash of query id, reference id and condition: never
a row number, so the same pair has the same id in every run. A row's stratum is what a
:class:`~transforms.inputs.strata.Strata` says of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from transforms import storage
from transforms.core import messages
from transforms.core.errors import BadRow, UsageError
from transforms.core.messages import quoted
from transforms.core.records import Failure, Pair, content_id
from transforms.core.statistics.sampling import ALL, UNREADABLE
from transforms.inputs import rows
from transforms.inputs.strata import Strata

COLUMNS = (
    "query",
    "reference",
    "query_id",
    "reference_id",
    "pair_id",
    "condition",
    "rank",
    "served_score",
    "served_model",
)
"""The columns that a manifest may have, under whymatch's names."""

MAX_RANK = 2**31 - 1
_NONE: Mapping[str, str] = MappingProxyType({})
_RANK = re.compile(r"[0-9]{1,10}(\.0+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_T = TypeVar("_T")
_public = lru_cache(maxsize=256)(rows.public)  # rows of a query are neighbours


def read(
    address: str, *, columns: Mapping[str, str] = _NONE, keep: Sequence[str] = (), strata: Strata | None = None
) -> Iterator[Pair | Failure]:
    """Yields one :class:`Pair`, or one :class:`Failure`, for every row of the manifest file at ``address``.

    Args:
        address: one file; patterns are expanded by the caller.
        columns: whymatch's name → the file's name of a column, where they differ.
        keep: further columns of the file, kept as the JSON text of ``Pair.extra``: keys sorted, values texts or null.
        strata: what says the stratum of a row; that of a row without a query id is then ``UNREADABLE``. None: all rows
            are in the stratum ``ALL``.

    A row without a query or a reference, or with a value of the wrong type, fails as ``bad_row``; the failure has the
    ids that could be read. Image addresses are resolved relative to the file, and not checked yet.

    Raises:
        UsageError: a name in ``columns`` that whymatch does not have, or a file that cannot be read.
    """
    names = _names(columns)
    for row in _rows(address, names, keep, strata):
        if isinstance(row, rows.UnreadableRow):
            yield _failure(None, None, None, row.message, row.source, UNREADABLE if strata else ALL)
        else:
            yield _pair(row, address, names, keep, strata)


def read_queries(
    address: str, *, columns: Mapping[str, str] = _NONE, keep: Sequence[str] = (), strata: Strata
) -> Iterator[tuple[str, str] | None]:
    """Yields the query id and the stratum of every row as :func:`read` gives them; None for a row without a query id.

    The arguments are those of :func:`read`, and the same columns are read: a row that holds no text in one of them has
    no ids, whichever it is.
    """
    names = _names(columns)
    for row in _rows(address, names, keep, strata):
        if isinstance(row, rows.UnreadableRow) or (query_id := _side(row, names, "query", [])[0]) is None:
            yield None
        else:
            yield query_id, strata.of(row.cells, query_id)


def read_addresses(address: str, side: str, *, columns: Mapping[str, str] = _NONE) -> Iterator[str]:
    """Yields the image address of the ``side``, "query" or "reference", of every row that gives one, resolved."""
    names = _names(columns)
    for row in rows.read_rows(address, {names[side], names[f"{side}_id"]}):
        if isinstance(row, rows.Row) and (found := _side(row, names, side, [])[1]):
            yield storage.resolve(found, address)


def _names(columns: Mapping[str, str]) -> dict[str, str]:
    check_names(columns)
    return {name: columns.get(name, name) for name in COLUMNS}


def _rows(
    address: str, names: Mapping[str, str], keep: Sequence[str], strata: Strata | None
) -> Iterator[rows.Row | rows.UnreadableRow]:
    return rows.read_rows(address, {*names.values(), *keep, *(strata.columns() if strata else ())})


def check_header(
    address: str, *, columns: Mapping[str, str] = _NONE, keep: Sequence[str] = (), has_catalogue: bool = False
) -> None:
    """UsageError where the file lacks a column that is needed or named: said before a run starts, with what to do.

    ``has_catalogue``: ids are enough, a catalogue has the addresses.
    """
    check_names(columns)
    found = rows.header(address)
    problems = [
        f"there is no column {quoted(column)}, which --columns names for {name}"
        for name, column in columns.items()
        if column not in found
    ]
    for side in ("query", "reference"):
        known = [name for name in (side, f"{side}_id") if columns.get(name, name) in found]
        if not known and side not in columns and f"{side}_id" not in columns:
            problems.append(f"there is no column {side!r} (an image address) or '{side}_id' (a product's id)")
        elif known == [f"{side}_id"] and not has_catalogue:
            problems.append(f"'{side}_id' needs a catalogue that knows the products' images: give --catalogue")
    problems += [f"there is no column {quoted(column)}, which --keep names" for column in keep if column not in found]
    if problems:
        raise UsageError(
            f"the manifest {rows.file_name(address)} cannot be used: {'; '.join(problems)}. Its columns are "
            f"{messages.listed(found)}. Map your own names to whymatch's, as in --columns query_id=anchor_sku"
        )


def check_names(columns: Mapping[str, str]) -> None:
    """UsageError where ``columns`` maps a name that is none of ``COLUMNS``."""
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise UsageError(
            f"--columns maps {', '.join(map(quoted, unknown))}, which whymatch does not read; write "
            f"whymatch's name first, as in query_id=anchor_sku. It reads {', '.join(COLUMNS)}"
        )


def canonical(pair: Pair) -> bytes:
    """The bytes that order rows of one pair id: all that the manifest says of the pair, but not where it stands."""
    content = [
        pair.pair_id,
        pair.query_id,
        pair.reference_id,
        pair.query,
        pair.reference,
        pair.condition,
        pair.rank,
        pair.served_score,
        pair.served_model,
        pair.extra,
        pair.stratum,
    ]
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _pair(
    row: rows.Row, address: str, names: Mapping[str, str], keep: Sequence[str], strata: Strata | None
) -> Pair | Failure:
    problems: list[str] = []

    def attempt(read_cell: Callable[[rows.Row, str], _T | None], name: str) -> _T | None:
        return _attempt(row, names, read_cell, name, problems)

    query_id, query = _side(row, names, "query", problems)
    reference_id, reference = _side(row, names, "reference", problems)
    condition, pair_id = attempt(rows.identity, "condition"), attempt(rows.identity, "pair_id")
    rank, score, model = attempt(_rank, "rank"), attempt(_score, "served_score"), attempt(rows.identity, "served_model")
    if pair_id is None and query_id is not None and reference_id is not None:
        pair_id = content_id(query_id, reference_id, condition, letter="p")
    stratum = _stratum(row, query_id, strata)
    if problems or pair_id is None or query_id is None or reference_id is None:
        return _failure(pair_id, query_id, reference_id, "; ".join(problems), row.source, stratum)
    return Pair(
        pair_id=pair_id,
        query_id=query_id,
        reference_id=reference_id,
        query=storage.resolve(query, address) if query else "",
        reference=storage.resolve(reference, address) if reference else "",
        condition=condition,
        rank=rank,
        served_score=score,
        served_model=model,
        extra=_extra(row, keep) if keep else None,
        source=row.source,
        stratum=stratum,
    )


def _side(row: rows.Row, names: Mapping[str, str], name: str, problems: list[str]) -> tuple[str | None, str]:
    """The id and the written address of the query or the reference; "" where the catalogue has the address.

    Where the row says neither, or not as it should, that goes to ``problems``.
    """
    before = len(problems)
    written = _attempt(row, names, rows.text, name, problems)
    given = _attempt(row, names, rows.identity, f"{name}_id", problems)
    if len(problems) > before:
        return given, ""
    if written is None and given is None:
        problems.append(f"neither {quoted(names[name])} nor {quoted(names[f'{name}_id'])} has a value")
    if written is None:
        return given, ""
    return given or _public(written), written


def _stratum(row: rows.Row, query_id: str | None, strata: Strata | None) -> str:
    if strata is None:
        return ALL
    return UNREADABLE if query_id is None else strata.of(row.cells, query_id)


def _attempt(
    row: rows.Row,
    names: Mapping[str, str],
    read_cell: Callable[[rows.Row, str], _T | None],
    name: str,
    problems: list[str],
) -> _T | None:
    try:
        return read_cell(row, names[name])
    except BadRow as error:
        problems.append(str(error))
        return None


def _failure(
    pair: str | None, query: str | None, reference: str | None, message: str, source: str, stratum: str
) -> Failure:
    reason = (BadRow.stage, BadRow.reason, message, BadRow.retryable)
    return Failure(pair, query, reference, *reason, source, stratum)


def _rank(row: rows.Row, column: str) -> int | None:
    """An integer from 0; ``3.0`` is 3, which is what tools make of a column of integers with gaps."""
    cell = row.cells.get(column)
    if cell is None:
        return None
    if not _RANK.fullmatch(cell) or (rank := int(cell.split(".")[0])) > MAX_RANK:
        raise BadRow(f"{column} is {quoted(cell)}; an integer from 0 to {MAX_RANK} is expected")
    return rank


def _score(row: rows.Row, column: str) -> float | None:
    cell = row.cells.get(column)
    if cell is None:
        return None
    if not _NUMBER.fullmatch(cell) or not math.isfinite(score := float(cell)):
        raise BadRow(f"{column} is {quoted(cell)}; a finite number with a decimal point is expected")
    return score


def _extra(row: rows.Row, keep: Sequence[str]) -> str:
    kept = {column: _kept(row.cells.get(column)) for column in keep}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True)


def _kept(cell: str | None) -> str | None:
    return None if cell is None else storage.redact(cell)
