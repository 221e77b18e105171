"""Files of tables read with care and written again, such that what remains is what was there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.core.errors import RunError, UsageError

ROW_GROUP = 2000
"""As the tables are written."""

_BATCH_ROWS = 4096


def batches(address: str, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Those of ``columns`` that the file has, some thousand rows at a time; UsageError where it cannot be read."""
    with storage.open_file(address) as stream, readable(address):
        parquet = open_parquet(address, stream)
        there = [column for column in columns if column in parquet.schema_arrow.names]
        if there:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=there):
                yield pa.Table.from_batches([batch])


def open_parquet(address: str, stream: BinaryIO) -> pq.ParquetFile:
    """The Parquet file in ``stream``; UsageError where several of its columns have one name."""
    parquet = pq.ParquetFile(stream, page_checksum_verification=True)
    names = parquet.schema_arrow.names
    if len(set(names)) < len(names):
        raise UsageError(f"{storage.shown(address)} has several columns of one name, and cannot be searched")
    return parquet


@contextmanager
def readable(address: str) -> Iterator[None]:
    """Turns what Arrow says of the damaged file at ``address`` into a UsageError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{storage.shown(address)} cannot be searched: {storage.redact(str(error))}. Restore the file or delete "
            "it, then erase again."
        ) from None


def faithful_parquet(rows: pa.Table, address: str) -> bytes:
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
