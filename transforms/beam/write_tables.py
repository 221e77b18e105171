"""Rows to Parquet files, one a shard, and the run's own row when all of them lie there.

A shard is the unit of writing and of commit: its file is built in memory, read back, and published in one conditional
put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage, tables
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


@dataclass(eq=False)
class WriteTables(beam.PTransform):  # type: ignore[misc]
    """``(table, row)`` to files under ``out``; yields ``("rows:<table>", n)`` for every file written.

    Every table that is named in ``present`` gets at least one file, so that readers always find its schema.
    ``evaluation_id`` is an evaluation's id, which goes into the files' names.
    """

    out: str
    run_id: str
    shards: int
    present: tuple[str, ...]
    evaluation_id: str | None = None

    def expand(self, rows: Any) -> Any:
        keyed = rows | "Shard" >> beam.MapTuple(lambda table, row: ((table, shard_of(table, row, self.shards)), row))
        first = rows.pipeline | "FirstShards" >> beam.Create([((table, 0), None) for table in self.present])
        return (
            (keyed, first)
            | "WithFirst" >> beam.Flatten()
            | "GroupShards" >> beam.GroupByKey()
            | "WriteShard" >> beam.MapTuple(self._write)
        )

    def _write(self, key: tuple[str, int], rows: Iterable[tables.Row | None]) -> tuple[str, int]:
        table, shard = key
        content = sorted((row for row in rows if row is not None), key=lambda row: _sort_key(table, row))
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


@dataclass(eq=False)
class FinishRun(beam.PTransform):  # type: ignore[misc]
    """Adds up all counts and, when every row that was read is accounted for, writes the one row of the table ``table``:
    a run, or the evaluation ``evaluation_id`` one, exists from then on.

    Applied to a tuple of PCollections of ``(name, n)``. ``complete`` turns the sums into that row; it raises RunError
    where they do not add up. ``found``, a side input of one mapping, is what else the run found out for its row.
    """

    out: str
    run_id: str
    complete: Callable[[dict[str, int]], tables.Row]
    table: str = "runs"
    evaluation_id: str | None = None
    found: Any = None

    def expand(self, counts: tuple[Any, ...]) -> Any:
        return (
            counts
            | "AllCounts" >> beam.Flatten()
            | "Sum" >> beam.CombinePerKey(sum)
            | "ToDict" >> beam.combiners.ToDict()
            | "WriteRun" >> beam.FlatMap(self._write, *([] if self.found is None else [self.found]))
        )

    def _write(self, counts: dict[str, int], found: Mapping[str, Any] = MappingProxyType({})) -> Iterator[tables.Row]:
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
        yield row
