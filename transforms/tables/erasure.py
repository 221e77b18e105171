"""Takes all rows of some products out of the tables of finished and unfinished runs.

Ids are looked for where tables have ids, and addresses of the products' images where tables have addresses; a message
that names one is masked. Nothing is changed before every file was read, so a file that cannot be read stops an erasure
that has done nothing. A file in which nothing is found is not touched, any other is replaced at once: a reader sees the
old rows or the rows that remain.

Files of a run are replaced in the order of ``TABLES``: the rows from which the addresses of ``images`` are known go
last, so that an erasure that breaks off can be repeated, and the repetition finds what is left.
"""

from __future__ import annotations

import io
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transforms import storage, tables
from transforms.core.errors import RunError, UsageError
from transforms.core.messages import quoted
from transforms.core.name_redaction import NameRedactor
from transforms.inputs.rows import public
from transforms.tables import runs

ROW_GROUP = 2000
"""As the tables are written."""
MAX_REASON = 500
"""Characters."""

_SHORTEST_PART = 4
"""Characters of an id that a reason may not hold even within a word."""
_BATCH_ROWS = 4096
_PLACE = re.compile(r"(.*)( (?:row|line) \d+)", re.DOTALL)


@dataclass(frozen=True)
class Searched:
    """Where a table names a product: columns of ids, each with the column of its image's address or None.

    ``addresses`` are columns of addresses alone, ``texts`` those in which an id is masked.
    """

    ids: Mapping[str, str | None]
    addresses: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that can make a row go."""
        return (*self.ids, *(address for address in self.ids.values() if address), *self.addresses)


TABLES: dict[str, Searched] = {
    "images": Searched({}, addresses=("address",)),
    "failures": Searched({"query_id": None, "reference_id": None}, texts=("message", "source")),
    "metrics": Searched({"query_id": None, "reference_id": None}, texts=("message",)),
    "products": Searched({"product_id": "image"}),
    "explanations": Searched({"query_id": "query", "reference_id": "reference"}),
}
"""The tables that name products, in the order in which they are rewritten."""


@dataclass(frozen=True)
class Ids:
    """The ids to erase: as they were given and, where one is an address, as it stands in tables."""

    given: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.given:
            raise UsageError("no id is given; name one with --id, or a file of ids with --ids")
        for text in self.given:
            if not text or text.isspace():
                raise UsageError("an id is empty; give it as it stands in the tables")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError("an id is not UTF-8 text; give it as it stands in the tables") from None

    @cached_property
    def forms(self) -> frozenset[str]:
        """Texts of cells that name one of them."""
        return frozenset(form for text in self.given for form in (text, public(text)))

    @cached_property
    def words(self) -> NameRedactor:
        """What names one of them in a message, where ids are quoted, escaped, redacted and cut."""
        made = {form for text in self.forms for form in (text, repr(text)[1:-1], storage.shown(text))}
        made |= {storage.redact(text) for text in self.forms}
        made |= {mention[1:-1] for text in self.forms if (mention := quoted(text)).startswith(("'", '"'))}
        return NameRedactor(name for name in made if name in self.forms or name.strip("*. "))

    def check_reason(self, reason: str) -> str:
        """``reason`` as it may stand in a table; UsageError where it names an id, or is no short line of text."""
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise UsageError(f"--reason is one line of at most {MAX_REASON} characters")
        folded = reason.casefold()
        parts = (form.casefold() for form in self.forms if len(form) >= _SHORTEST_PART)
        if self.words.hide(reason) != reason or any(part in folded for part in parts):
            raise UsageError("--reason names an id that is to be erased, and it would stay; say why without it")
        return storage.redact(reason)


@dataclass(frozen=True)
class FileFound:
    """A file to rewrite: ``rows`` of it go, and of those that remain ``masked`` texts name an id."""

    table: str
    address: str
    rows: int
    masked: int


@dataclass(frozen=True)
class RunFound:
    """What of a run names the ids; ``addresses`` are of images that no remaining row of it uses."""

    run_id: str
    addresses: frozenset[str]
    files: tuple[FileFound, ...]

    @property
    def rows(self) -> dict[str, int]:
        """Rows that go, by table."""
        return _by_table((file.table, file.rows) for file in self.files)

    @property
    def masked(self) -> int:
        """Texts that are masked."""
        return sum(file.masked for file in self.files)


@dataclass(frozen=True)
class Erasure:
    """The record that an erasure leaves in each run: never what was erased, nor a hash of it.

    ``reason`` has passed :meth:`Ids.check_reason`.
    """

    version: str
    reason: str | None = None
    id: str = field(default_factory=lambda: f"erasure-{secrets.token_hex(8)}")

    def row(self, rows: Mapping[str, int]) -> tables.Row:
        """The row of the table erasures, for ``rows`` gone by table."""
        return {
            "erasure_id": self.id,
            "erased": datetime.now(UTC),
            "whymatch_version": self.version,
            "rows": [{"table": table, "rows": count} for table, count in sorted(rows.items())],
            "reason": self.reason,
        }


def find(out: str, ids: Ids, run_id: str | None = None) -> list[RunFound]:
    """What names ``ids`` in the tables under ``out``: of all runs, unfinished ones too, or of one; runs in order.

    UsageError where there are no tables, no such run, or a file that cannot be searched.
    """
    listed = {table: runs.files(out, table) for table in tables.SCHEMAS}
    there = {run for files in listed.values() for run, _ in files}
    if not there:
        raise UsageError(f"{storage.shown(out)} holds no tables; give the folder that `whymatch audit --out` wrote to")
    found = []
    for run in runs.choose(out, run_id, there):
        files = {table: [address for other, address in listed[table] if other == run] for table in TABLES}
        found.append(_find_in_run(run, files, ids))
    return [run for run in found if run.files]


def _find_in_run(run_id: str, files: Mapping[str, list[str]], ids: Ids) -> RunFound:
    addresses = _addresses(files, ids)
    search = _Search(ids, addresses)
    found = []
    for table, searched in TABLES.items():
        for address in files[table]:
            rows = masked = 0
            for batch in _batches(address, (*searched.columns, *searched.texts)):
                goes = search.goes(batch, table)
                rows += int(goes.sum())
                masked += search.mask(batch.filter(pa.array(~goes)), table)[1]
            if rows or masked:
                found.append(FileFound(table, address, rows, masked))
    return RunFound(run_id, addresses, tuple(found))


def _addresses(files: Mapping[str, list[str]], ids: Ids) -> frozenset[str]:
    """Addresses of the images of ``ids`` that no row of another product uses.

    Two readings: only what the first finds is looked for in the second, so that the memory is that of the ids' images.
    """
    search = _Search(ids, frozenset())
    owned: set[str] = set()
    for table, batch in _with_addresses(files):
        for column, address in TABLES[table].ids.items():
            if address and {column, address} <= set(batch.column_names):
                owned.update(_texts(batch, address).filter(search.holds(batch, column)).drop_null().to_pylist())
    if owned:
        wanted = pa.array(sorted(owned), pa.string())
        for table, batch in _with_addresses(files):
            stays = batch.filter(pa.array(~search.goes(batch, table)))
            for address in TABLES[table].ids.values():
                if address and address in stays.column_names:
                    texts = _texts(stays, address)
                    owned.difference_update(texts.filter(pc.is_in(texts, value_set=wanted)).to_pylist())
    return frozenset(owned)


def _with_addresses(files: Mapping[str, list[str]]) -> Iterator[tuple[str, pa.Table]]:
    for table, searched in TABLES.items():
        if any(searched.ids.values()):
            for address in files[table]:
                for batch in _batches(address, searched.columns):
                    yield table, batch


class _Search:
    """Which rows name ids, or images whose addresses are ``addresses``, and what their texts are without them."""

    def __init__(self, ids: Ids, addresses: frozenset[str]) -> None:
        self._words = ids.words
        self._ids = pa.array(sorted(ids.forms), pa.string())
        self._addresses = pa.array(sorted(ids.forms | addresses), pa.string())

    def holds(self, rows: pa.Table, column: str) -> pa.ChunkedArray:
        """Whether ``column`` is one of the ids: bool [rows], never null."""
        return pc.is_in(_texts(rows, column), value_set=self._ids)

    def goes(self, rows: pa.Table, table: str) -> NDArray[np.bool_]:
        """The rows of ``table`` that go: bool [rows]."""
        searched = TABLES[table]
        gone = np.zeros(rows.num_rows, bool)
        for column in searched.columns:
            if column in rows.column_names:
                values = self._addresses if column in searched.addresses else self._ids
                gone |= pc.is_in(_texts(rows, column), value_set=values).to_numpy()
        return gone

    def mask(self, rows: pa.Table, table: str) -> tuple[pa.Table, int]:
        """``rows`` with their texts masked, and how many texts that changed."""
        changed = 0
        for column in TABLES[table].texts:
            if column in rows.column_names:
                texts = _texts(rows, column).to_pylist()
                hide = self._hide_in_place if column == "source" else self._words.hide
                hidden = [None if text is None else hide(text) for text in texts]
                count = sum(a != b for a, b in zip(texts, hidden, strict=True))
                if count:
                    at = rows.schema.get_field_index(column)
                    named = rows.schema.field(at)
                    rows = rows.set_column(at, named, pa.array(hidden, pa.string()).cast(named.type))
                changed += count
        return rows, changed

    def _hide_in_place(self, source: str) -> str:
        """A source without the ids; the number in ``pairs.csv row 17`` is no id."""
        place = _PLACE.fullmatch(source)
        return self._words.hide(place[1]) + place[2] if place else self._words.hide(source)


def _texts(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """A column as texts: another program may have written a dictionary, or an id as a number."""
    return rows.column(column).cast(pa.string())


def _batches(address: str, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Those of ``columns`` that the file has, some thousand rows at a time; UsageError where it cannot be read."""
    with storage.open_file(address) as stream, _readable(address):
        parquet = _open(address, stream)
        there = [column for column in columns if column in parquet.schema_arrow.names]
        if there:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=there):
                yield pa.Table.from_batches([batch])


def _open(address: str, stream: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(stream, page_checksum_verification=True)
    names = parquet.schema_arrow.names
    if len(set(names)) < len(names):
        raise UsageError(f"{storage.shown(address)} has several columns of one name, and cannot be searched")
    return parquet


@contextmanager
def _readable(address: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{storage.shown(address)} cannot be searched: {storage.redact(str(error))}. Restore the file or delete "
            "it, then erase again."
        ) from None


def erase(out: str, found: RunFound, ids: Ids, erasure: Erasure) -> dict[str, int]:
    """Rewrites the files of ``found`` and records it in the run's table erasures; returns the rows gone by table.

    What was done before an error is recorded, too.
    """
    search = _Search(ids, found.addresses)
    gone: Counter[str] = Counter()
    done = 0

    def record() -> None:
        address = storage.join(tables.folder(out, "erasures", found.run_id), tables.part(0, erasure.id))
        row = erasure.row(_by_table(gone.items()))
        storage.publish(address, _to_parquet(tables.to_arrow("erasures", [row]), address))

    try:
        for file in found.files:
            gone[file.table] += _rewrite(file, search)
            done += 1
    except BaseException:
        if done:
            with suppress(RunError, UsageError):  # the storage may be what fails
                record()
        raise
    record()
    return _by_table(gone.items())


def check_erased(out: str, ids: Ids, run_id: str | None = None) -> None:
    """RunError where rows hold the ids still: another program has written them since."""
    if left := find(out, ids, run_id):
        raise RunError(
            f"rows of {', '.join(run.run_id for run in left)} hold what was erased: an audit, an evaluation or another "
            "erasure wrote them at the same time. Wait for it to end, then erase again."
        )


def _rewrite(file: FileFound, search: _Search) -> int:
    data = storage.read_file(file.address)
    with _readable(file.address):
        rows = _open(file.address, io.BytesIO(data)).read()
        goes = search.goes(rows, file.table)
        kept, masked = search.mask(rows.filter(pa.array(~goes)), file.table)
        made = _to_parquet(kept, file.address) if masked or goes.any() else None
    if made is not None:
        storage.replace(file.address, made)
    return int(goes.sum())


def _to_parquet(rows: pa.Table, address: str) -> bytes:
    """``rows`` as the bytes of a Parquet file, read back and compared; RunError where it would hold anything else."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
    data = sink.getvalue()
    back = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    same = back.num_rows == rows.num_rows and _described(back.schema) == _described(rows.schema)
    if not (same and back.schema.equals(rows.schema) and all(map(_equal, back.columns, rows.columns))):
        raise RunError(f"{storage.shown(address)} would not read back as it was written; it was not touched")
    return bytes(data)


def _described(schema: pa.Schema) -> list[Any]:
    """The metadata of a schema and of its columns; Schema.equals would compare the names of lists' items with it."""
    return [schema.metadata, *(schema.field(at).metadata for at in range(len(schema.names)))]


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Whether two columns are the same, NaN as NaN, which Arrow holds for different."""
    if left.equals(right):
        return True
    some = (slice(start, start + _BATCH_ROWS) for start in range(0, len(left), _BATCH_ROWS))
    return all(repr(left[rows].to_pylist()) == repr(right[rows].to_pylist()) for rows in some)


def _by_table(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums that are not 0, by table, in the order of their names."""
    total: Counter[str] = Counter()
    for table, count in counts:
        total[table] += count
    return {table: count for table, count in sorted(total.items()) if count}
