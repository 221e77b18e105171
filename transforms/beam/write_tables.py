"""Rows to Parquet files, one a shard, and the run's own row when all of them lie there.

A shard is the unit of writing and of commit: its file is built in memory, read back, and published in one conditional
put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage, tables
from transforms.beam.crossing import Count, Join
from transforms.beam.typed import (
    PCollection,
    SideInput,
    Step,
    combine_per_key,
    create,
    flatten,
    map_each,
    map_with,
    to_dict,
)
from transforms.tables.cells import TableRow
from transforms.tables.parquet import to_parquet

_SHARD_BY = {
    "explanations": "query_id",
    "failures": "query_id",
    "images": "address",
    "products": "product_id",
    "strata": "stratum",
    "metrics": "query_id",
}
_SORT_BY = {
    "explanations": ("query_id", "pair_id", "method"),
    "failures": ("query_id", "pair_id", "reason", "message", "source"),
    "images": ("address", "image_sha256"),
    "products": ("product_id", "image", "attributes", "split"),
    "strata": ("stratum",),
    "metrics": ("metric", "query_id", "pair_id", "side", "method", "fill", "depth", "attribute"),
}


@dataclass(frozen=True)
class WriteTables(Step[PCollection[TableRow], PCollection[Count]]):
    """Rows to files under ``out``; yields ``("rows:<table>", n)`` for every file written.

    Every table that is named in ``present`` gets at least one file, so that readers always find its schema.
    ``evaluation_id`` is an evaluation's id, which goes into the files' names.
    """

    out: str
    run_id: str
    shards: int
    present: tuple[str, ...]
    evaluation_id: str | None = None

    def expand(self, rows: PCollection[TableRow]) -> PCollection[Count]:
        """Rows by table and shard, joined to the first shard of every table."""
        keyed = rows | "Shard" >> map_each(TableRow, tuple[tuple[str, int], TableRow], self._sharded)
        first = rows.pipeline | "FirstShards" >> create(
            tuple[tuple[str, int], str], [((table, 0), "present") for table in self.present]
        )
        return (
            (keyed, first)
            | "GroupShards" >> Join(tuple[str, int], TableRow, str)
            | "WriteShard"
            >> map_each(tuple[tuple[str, int], tuple[list[TableRow], list[str]]], tuple[str, int], self._write)
        )

    def _sharded(self, one: TableRow) -> tuple[tuple[str, int], TableRow]:
        return (one.table, shard_of(one.table, one.row, self.shards)), one

    def _write(self, group: tuple[tuple[str, int], tuple[list[TableRow], list[str]]]) -> Count:
        (table, shard), (rows, _) = group
        content = sorted((one.row for one in rows), key=lambda row: _sort_key(table, row))
        address = storage.join(tables.folder(self.out, table, self.run_id), tables.part(shard, self.evaluation_id))
        data = to_parquet(tables.to_arrow(table, content))
        try:
            storage.publish(address, data)
        except storage.AlreadyPublished:
            # a runner that retries a bundle comes here again with the same rows, and so with the same bytes
            if storage.read_file(address) != data:
                raise
        return f"rows:{table}", len(content)


def shard_of(table: str, row: tables.Row, shards: int) -> int:
    """The shard of a row: by a hash of its query, address, product or stratum, the same in every run."""
    digest = hashlib.sha256(str(row.get(_SHARD_BY[table])).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % (1 if table == "strata" else shards)


def _sort_key(table: str, row: tables.Row) -> tuple[str, ...]:
    return tuple(str(row.get(column)) for column in _SORT_BY[table])


@dataclass(frozen=True)
class FinishRun(Step[tuple[PCollection[Count], ...], PCollection[str]]):
    """Adds up all counts and, when every row that was read is accounted for, writes the one row of the table ``table``:
    a run, or the evaluation ``evaluation_id`` one, exists from then on.

    Applied to all that count. ``complete`` turns the sums into that row; it raises RunError where they do not add up.
    ``found`` is what else the run found out for its row. The address of the row's file comes out.
    """

    out: str
    run_id: str
    complete: Callable[[dict[str, int]], tables.Row]
    table: str = "runs"
    evaluation_id: str | None = None
    found: SideInput[dict[str, Any]] | None = None

    def expand(self, counts: tuple[PCollection[Count], ...]) -> PCollection[str]:
        """The sums as one mapping."""
        sums = (
            counts
            | "AllCounts" >> flatten(tuple[str, int])
            | "Sum" >> combine_per_key(tuple[str, int], sum)
            | "ToDict" >> to_dict(dict[str, int])
        )
        if self.found is None:
            return sums | "WriteRun" >> map_each(dict[str, int], str, self._write)
        return sums | "WriteRun" >> map_with(dict[str, int], str, self._write, self.found)

    def _write(self, counts: dict[str, int], found: Mapping[str, Any] = MappingProxyType({})) -> str:
        row = {**self.complete(counts), **found}
        address = storage.join(tables.folder(self.out, self.table, self.run_id), tables.part(0, self.evaluation_id))
        try:
            storage.publish(address, to_parquet(tables.to_arrow(self.table, [row])))
        except storage.AlreadyPublished:
            # likewise: all but the time at which it was finished is the same
            (found,) = pq.read_table(pa.BufferReader(storage.read_file(address)), partitioning=None).to_pylist()
            (wanted,) = tables.to_arrow(self.table, [row]).to_pylist()
            if found != {**wanted, "finished": found["finished"]}:
                raise
        return address
