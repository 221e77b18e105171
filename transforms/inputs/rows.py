"""Rows of a CSV, JSON lines or Parquet file as a stream of texts; ``cells`` has the rules for their values.

A row that cannot be read is yielded as a :class:`UnreadableRow` and the stream goes on: rows in = rows out. Lines with
nothing in them are no rows. Where a CSV file's quotation marks do not add up, the lines concerned are read one by one,
so a lost mark costs a row or two and not the rest of the file. Only a file that cannot be read on at all (a damaged
Parquet or gzip file, no header) is an error. Memory is bounded by ``lines.MAX_ROW_BYTES``, or by the pages of one
Parquet row group.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.core.errors import BadRow, RunError, UsageError
from transforms.core.messages import quoted
from transforms.core.records import content_id
from transforms.inputs.cells import NonTextCell, checked, is_bulky, json_text, parquet_texts
from transforms.inputs.lines import Lines, objects, records

MAX_ID = 2**13
"""Characters of an id or an address."""
SAMPLE_ROWS = 1000
"""A JSON lines file has no header: its columns are those of its first rows, this many."""

_PARQUET_BATCH = 1024
_SIGNING = re.compile(  # query fields of signed addresses (S3, Google, CloudFront, Azure) and of credentials
    r"(x-amz-[^=]*|x-goog-[^=]*|signature|sig|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|"
    r"s[eprtv]|spr|sk(oid|tid|[tesv])|[^=]*(token|passw|pwd|secret|key|credential|auth)[^=]*)(=|$)",
    re.IGNORECASE,
)
_FORMATS: dict[str, Literal["csv", "jsonl", "parquet"]] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row that could be read. ``cells`` has the asked columns that the file has, in the file's order."""

    source: str
    cells: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that could not be read; ``message`` is redacted and says why."""

    source: str
    message: str


def read_rows(address: str, columns: Collection[str], *, rest: bool = False) -> Iterator[Row | UnreadableRow]:
    """Yields every row of the file at ``address``, in the file's order.

    Args:
        address: one file, by its extension CSV, JSON lines or Parquet, the first two also gzipped.
        columns: columns to read; one that the file lacks is missing from the rows' cells.
        rest: read the other columns too, save unnamed ones, lists, objects and binary data.

    A row's source is the file's name and the number of the data row, or of the JSON line, from 1.

    Raises:
        UsageError: an unknown extension, no usable header, or a file that is damaged as a whole.
        RunError: the storage failed on the way.
    """
    kind, name = _format(address), file_name(address)
    with _reading(address, name) as file:
        if kind == "parquet":
            yield from _parquet_rows(file, name, columns, rest)
        elif kind == "csv":
            yield from _csv_rows(Lines(file, name), columns, rest)
        else:
            yield from _jsonl_rows(Lines(file, name), columns, rest)


def header(address: str) -> tuple[str, ...]:
    """The columns of the file at ``address`` in order; of a JSON lines file those of its first ``SAMPLE_ROWS`` rows.

    Raises UsageError where there is none: an empty file, a header with a column twice, lines that are no objects.
    """
    kind, name = _format(address), file_name(address)
    with _reading(address, name) as file:
        if kind == "parquet":
            return tuple(_open_parquet(file, name).schema_arrow.names)
        if kind == "csv":
            return tuple(column for column in _csv_header(records(Lines(file, name)), name) if column)
        first = list(islice(objects(Lines(file, name)), SAMPLE_ROWS))
    found = tuple(dict.fromkeys(key for _, row in first if isinstance(row, dict) for key in row))
    if not found:
        why = next((row for _, row in first if isinstance(row, str)), "it is empty")
        raise UsageError(f"{name} has no line with a JSON object, one object a line is expected: {why}")
    return found


def text(row: Row, column: str) -> str | None:
    """The text or integer in ``column``; BadRow for any other value, or one longer than ``MAX_ID``."""
    cell = row.cells.get(column)
    if isinstance(cell, NonTextCell):
        raise BadRow(f"{column} is {cell.kind}, {quoted(cell)}; a text or an integer is expected")
    if cell is not None and len(cell) > MAX_ID:
        raise BadRow(f"{column} has {len(cell)} characters, at most {MAX_ID} are taken")
    return cell


def identity(row: Row, column: str) -> str | None:
    """:func:`text` as an id in a table: :func:`public`, as an id may be an address, or hold what only one should."""
    cell = text(row, column)
    return None if cell is None else public(cell)


def public(address: str) -> str:
    """An address as an id, which stands in tables: without user, password and signature.

    A signature differs from day to day; the id does not. Where more had to be masked, a digest of it keeps the ids of
    two addresses apart, as of ``https://shop.example/image?sku=1`` and ``?sku=2``.
    """
    scheme, separator, rest = address.partition("://")
    bare = address
    if separator:
        place, _, query = rest.partition("?")
        authority, slash, path = place.partition("/")
        kept = "&".join(field for field in query.split("&") if field and not _SIGNING.match(field))
        bare = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}{'?' if kept else ''}{kept}"
    masked = storage.redact(bare)
    return bare if masked == bare else masked.removesuffix("?***") + content_id(bare, letter="~", digits=12)


def file_name(address: str) -> str:
    """The name of the file at ``address``, fit for messages: no folder, no credentials, no signature."""
    return storage.redact(_plain(address)).rstrip("/").rsplit("/", 1)[-1]


def _plain(address: str) -> str:
    """``address`` without the query string of an http(s) address; elsewhere ``?`` is part of a name."""
    return address.split("?", 1)[0].split("#", 1)[0] if address.startswith(("http://", "https://")) else address


def _format(address: str) -> Literal["csv", "jsonl", "parquet"]:
    name = _plain(address).lower()
    for extension, kind in _FORMATS.items():
        if name.endswith(extension):
            return kind
    raise UsageError(f"{file_name(address)}: the extension says the format and must be one of {', '.join(_FORMATS)}")


@contextmanager
def _reading(address: str, name: str) -> Iterator[BinaryIO]:
    """The file's bytes, unzipped; what goes wrong while they are read is named and redacted."""
    with storage.open_file(address) as file:
        try:
            if _plain(address).lower().endswith(".gz"):
                with gzip.GzipFile(fileobj=file) as unzipped:
                    yield cast(BinaryIO, unzipped)
            else:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UsageError(f"{name} is no whole gzip file ({error}); copy or compress it again") from None
        except OSError as error:
            raise RunError(f"reading {name} failed: {storage.redact(str(error))}") from None


# CSV


def _csv_header(rows: Iterator[list[str] | str], name: str) -> list[str]:
    found = next(rows, None)
    if found is None:
        raise UsageError(f"{name} is empty; its first line must name the columns")
    if isinstance(found, str):
        raise UsageError(f"{name} has no header that can be read: {found}")
    try:
        columns = [checked(column.strip(), "the header") or "" for column in found]
    except BadRow as error:
        raise UsageError(f"{name}: {error}") from None
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        raise UsageError(f"{name}: columns are separated by commas, the header is {quoted(columns[0])}")
    _refuse_twice([column for column in columns if column], name)
    return columns


def _csv_rows(lines: Lines, columns: Collection[str], rest: bool) -> Iterator[Row | UnreadableRow]:
    found = records(lines)
    head = _csv_header(found, lines.name)
    wanted = [(at, column) for at, column in enumerate(head) if column and (rest or column in columns)]
    for number, cells in enumerate(found, 1):
        source = f"{lines.name} row {number}"
        if isinstance(cells, str):
            yield UnreadableRow(source, cells)
        elif len(cells) != len(head):
            yield UnreadableRow(
                source, f"the row has {len(cells)} cells, the header has {len(head)}: {quoted(cells[0])} …"
            )
        else:
            yield _row(source, [(column, cells[at]) for at, column in wanted])


def _row(source: str, cells: Sequence[tuple[str, str | None]]) -> Row | UnreadableRow:
    try:
        return Row(source, {column: None if text is None else checked(text, column) for column, text in cells})
    except BadRow as error:
        return UnreadableRow(source, str(error))


def _refuse_twice(columns: Sequence[str], name: str) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UsageError(f"{name} has several columns {', '.join(map(quoted, twice))}; each needs a name of its own")


# JSON lines


def _jsonl_rows(lines: Lines, columns: Collection[str], rest: bool) -> Iterator[Row | UnreadableRow]:
    for number, found in objects(lines):
        source = f"{lines.name} line {number}"
        if isinstance(found, str):
            yield UnreadableRow(source, found)
            continue
        wanted = [key for key in found if key in columns or (rest and key and not isinstance(found[key], list | dict))]
        try:
            yield _row(source, [(key, json_text(found[key])) for key in wanted])
        except RecursionError:
            yield UnreadableRow(source, "the line is nested too deeply")


# Parquet


def _open_parquet(file: BinaryIO, name: str) -> pq.ParquetFile:
    try:
        found = pq.ParquetFile(file, page_checksum_verification=True)
        names = found.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(name, error) from None
    _refuse_twice(names, name)
    return found


def _damaged(name: str, error: Exception) -> UsageError:
    return UsageError(f"{name} is no whole Parquet file ({storage.redact(str(error))}); copy or write it again")


def _parquet_rows(file: BinaryIO, name: str, columns: Collection[str], rest: bool) -> Iterator[Row | UnreadableRow]:
    parquet = _open_parquet(file, name)
    fields = [
        field
        for field in parquet.schema_arrow
        if field.name in columns or (rest and field.name and not is_bulky(field.type))
    ]
    wanted = [field.name for field in fields]
    number = 0
    batches = parquet.iter_batches(batch_size=_PARQUET_BATCH, columns=wanted)
    while True:
        try:
            if (batch := next(batches, None)) is None:
                return
            texts = [parquet_texts(batch.column(column)) for column in wanted]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(name, error) from None
        for at in range(batch.num_rows):
            number += 1
            yield _row(f"{name} row {number}", [(column, text[at]) for column, text in zip(wanted, texts, strict=True)])
