"""Rows to a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.errors import RunError
from transforms.tables.cells import check_columns
from transforms.tables.schema import SCHEMA_VERSION, SCHEMAS, Row

ROW_GROUP = 2000


def to_parquet(table: pa.Table) -> bytes:
    """``table`` as the bytes of a Parquet file with page checksums, read back before it is returned."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
    data = sink.getvalue()
    back = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    if back.num_rows != table.num_rows or not back.schema.equals(table.schema):
        raise RunError(
            f"a Parquet file of {table.num_rows} rows read back as {back.num_rows} rows; nothing was written"
        )
    return bytes(data)


def to_arrow(table: str, rows: Sequence[Row]) -> pa.Table:
    """``rows`` as Arrow, in the table's schema; ValueError for a row with an unknown or a missing required column."""
    schema = SCHEMAS[table]
    for row in rows:
        check_columns(table, row)
        for field in schema:
            if not field.nullable and field.name != "schema_version" and row.get(field.name) is None:
                raise ValueError(f"{table}.{field.name} must not be null: {row}")
    return pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=schema)
