"""The complete runs under a folder of tables, and the rows that they wrote, read with care.

Tables may be old, of another program, or damaged. What cannot be read, or lacks what every schema had, is a UsageError
that names the file; a column that only later schemas have is null.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage, tables
from transforms.core.errors import UsageError
from transforms.core.records import Float32

__all__ = ["IDS", "Run", "choose", "complete", "evaluations", "files", "find", "of", "read_batches", "saliency_map"]

IDS = ("attribute_model_id", "vocabulary_id", "ranking_id")
"""What a run knows of its bundle's attributes; null for a bundle without any, and in old runs."""

_RUN_ID = re.compile(r"/run_id=([^/]+)/[^/]+\.parquet$")
_EVALUATION = re.compile(r"/part-([A-Za-z][A-Za-z0-9._-]*)-\d{5}\.parquet$")
_BATCH_ROWS = 512


@dataclass(frozen=True)
class Run:
    """A complete run: ``address`` is the file of its row in the table runs, ``out`` the folder of the tables."""

    out: str
    id: str
    address: str

    @cached_property
    def row(self) -> tables.Row:
        """Its row of the table runs; UsageError where the file does not hold exactly one."""
        columns = ("started", "finished", "model_id", *IDS, "explainer_ids", "configuration")
        rows = [row for batch in read_batches(self.address, "runs", columns, ()) for row in batch.to_pylist()]
        if len(rows) != 1:
            raise UsageError(f"{storage.shown(self.address)} holds {len(rows):,} rows; a complete run has one")
        row: tables.Row = rows[0]
        return row

    def batches(
        self, columns: Sequence[str], *, table: str = "explanations", may_lack: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """``columns`` of the rows of ``table``, some hundred rows at a time, in the types of the table's schema.

        Page checksums are verified. Columns of ``may_lack`` may hold nulls although the schema forbids it.

        Raises UsageError, with the name of the file, where one cannot be read, lacks a column, or holds a null or a
        value that the schema does not allow.
        """
        for address in storage.list_files(tables.folder(self.out, table, self.id)):
            if address.endswith(".parquet"):
                yield from read_batches(address, table, columns, may_lack)


def files(out: str, table: str) -> list[tuple[str, str]]:
    """``(run_id, address)`` of every file of ``table`` under ``out``, unfinished runs included, in a fixed order."""
    found = [(_RUN_ID.search(address), address) for address in storage.list_files(storage.join(out, table))]
    return [(match[1], address) for match, address in found if match]


def complete(out: str) -> list[Run]:
    """The complete runs under ``out``, those that have a row in the table runs, by the order of their files.

    UsageError where there is none.
    """
    addresses = dict(files(out, "runs"))
    if not addresses:
        raise UsageError(
            f"{storage.shown(out)} holds no complete run: there is no {storage.shown(out)}/runs/run_id=…/*.parquet. "
            "Give the folder that `whymatch audit --out` wrote to."
        )
    return [Run(out, run_id, address) for run_id, address in addresses.items()]


def find(out: str, run_id: str | None) -> Run:
    """The complete run ``run_id`` under ``out``, or the one that was started last; UsageError where it is not there."""
    found = {run.id: run for run in complete(out)}
    chosen = choose(out, run_id, found, "complete run")
    return max((found[one] for one in chosen), key=lambda each: (each.row["started"], each.id))


def choose(out: str, run_id: str | None, known: Collection[str], kind: str = "run") -> list[str]:
    """``run_id`` alone, or all ``known`` runs of ``kind`` under ``out`` by their ids; UsageError for an unknown one."""
    there = sorted(known)
    if run_id is None:
        return there
    if run_id not in known:
        raise UsageError(f"{storage.shown(out)} holds no {kind} {run_id!r}; it holds {', '.join(there)}")
    return [run_id]


def evaluations(out: str) -> set[tuple[str, str]]:
    """``(run_id, evaluation_id)`` of the complete evaluations under ``out``: those that have a row in their table."""
    return {(run_id, evaluation) for run_id, address in files(out, "evaluations") if (evaluation := of(address))}


def of(address: str) -> str | None:
    """The id of the evaluation that wrote the file at ``address``, None for another file's."""
    found = _EVALUATION.search(address)
    return found[1] if found else None


def saliency_map(cells: pa.ListScalar, height: int | None, width: int | None) -> Float32 | None:
    """The map [height, width] that a row of explanations holds; None where it is none, or not of finite numbers."""
    if height is None or width is None or height < 1 or width < 1 or cells.values is None:
        return None
    values = cells.values.to_numpy(zero_copy_only=False).astype(np.float32)
    if len(values) != height * width or not np.isfinite(values).all():
        return None
    shaped: Float32 = values.reshape(height, width)
    return shaped


def read_batches(
    address: str, table: str, columns: Sequence[str], may_lack: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """As :meth:`Run.batches`, of one file of ``table``."""
    schema = pa.schema([tables.SCHEMAS[table].field(name).with_nullable(True) for name in columns])
    name = storage.shown(address)
    filled = {field.name for field in tables.SCHEMAS[table] if not field.nullable}
    with storage.open_file(address) as stream:
        try:
            parquet = pq.ParquetFile(stream, page_checksum_verification=True)
            there = parquet.schema_arrow.names
            for column in columns:
                if there.count(column) > 1 or (column in filled and column not in there):
                    raise UsageError(
                        f"{name} has {there.count(column)} columns {column!r}; the table {table} has one. Audit again."
                    )
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=[one for one in columns if one in there]):
                batch.validate(full=True)
                arrays = [
                    batch.column(field.name).cast(field.type)
                    if field.name in there
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                for field, array in zip(schema, arrays, strict=True):
                    if array.null_count and field.name in filled and field.name not in may_lack:
                        raise UsageError(f"{name} has rows without {field.name}; the table {table} always has it")
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{name} cannot be read: {storage.redact(str(error))}") from None
