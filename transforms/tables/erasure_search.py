"""Where the tables of runs name the products that are to be erased.

Ids are looked for where tables have ids, and addresses of the products' images where tables have addresses; a message
that names one is masked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms import storage, tables
from transforms.core.errors import UsageError
from transforms.tables import runs
from transforms.tables.erased_ids import Ids
from transforms.tables.rewriting import batches

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
        return by_table((file.table, file.rows) for file in self.files)

    @property
    def masked(self) -> int:
        """Texts that are masked."""
        return sum(file.masked for file in self.files)


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
    search = ErasureSearch(ids, addresses)
    found = []
    for table, searched in TABLES.items():
        for address in files[table]:
            rows = masked = 0
            for batch in batches(address, (*searched.columns, *searched.texts)):
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
    search = ErasureSearch(ids, frozenset())
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
                for batch in batches(address, searched.columns):
                    yield table, batch


class ErasureSearch:
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


def by_table(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums that are not 0, by table, in the order of their names."""
    total: Counter[str] = Counter()
    for table, count in counts:
        total[table] += count
    return {table: count for table, count in sorted(total.items()) if count}
