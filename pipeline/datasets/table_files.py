"""Tables as the bytes of a CSV or a Parquet file, made row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

Format = Literal["csv", "parquet"]
Cell = str | int | None

_GROUP = 2**14  # rows of a Parquet row group


class TableFile(Protocol):
    """Rows on their way into a file; ``count`` are there so far."""

    count: int

    def add(self, row: Sequence[Cell]) -> None:
        """Adds one; it has a cell for each column."""

    def done(self) -> bytes:
        """The bytes of the file; nothing is added after that."""


def new_table(kind: Format, columns: Sequence[str]) -> TableFile:
    """A table of these columns, without rows."""
    return CsvTable(columns) if kind == "csv" else ParquetTable(columns)


class CsvTable:
    """Rows as the bytes of a CSV file, which are all that is held. No cell holds a line break: readers refuse it."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.count = 0
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(columns)

    def add(self, row: Sequence[Cell]) -> None:
        self.count += 1
        self._writer.writerow(row)

    def done(self) -> bytes:
        return self._text.getvalue().encode()


class ParquetTable:
    """Rows as the bytes of a Parquet file, a row group at a time; ``label`` is an integer, all others are texts."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.count = 0
        fields: list[Any] = [pa.field(name, pa.int64() if name == "label" else pa.string()) for name in columns]
        self._schema = pa.schema(fields)
        self._sink = pa.BufferOutputStream()
        self._file = pq.ParquetWriter(self._sink, self._schema, compression="zstd", write_page_checksum=True)
        self._rows: list[Sequence[Cell]] = []

    def add(self, row: Sequence[Cell]) -> None:
        self.count += 1
        self._rows.append(tuple(row))
        if len(self._rows) == _GROUP:
            self._flush()

    def done(self) -> bytes:
        self._flush()
        self._file.close()
        return bytes(self._sink.getvalue())

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(cells, field.type)
                for cells, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._file.write_table(pa.table(columns, schema=self._schema))
            self._rows = []
