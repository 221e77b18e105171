"""Manifests as whymatch writes them: CSV, JSON lines or Parquet, by the file's extension."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.core.errors import UsageError

Row = dict[str, Any]

_COLUMNS: list[Any] = [
    pa.field("query_id", pa.string()),
    pa.field("reference_id", pa.string()),
    pa.field("rank", pa.int64()),  # from 1
    pa.field("served_score", pa.float64()),  # the bundle's similarity of the two, in float64
    pa.field("served_model", pa.string()),  # the bundle's model_id
    pa.field("condition", pa.string()),  # what the two were compared under; null for a similarity of one kind
]
SCHEMA = pa.schema(_COLUMNS)


def writer(out: str) -> Callable[[list[Row]], bytes]:
    """How rows become the bytes of ``out``, by its extension; UsageError for another one, or where ``out`` exists."""
    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    for extension, write in writers.items():
        if out.endswith(extension):
            if storage.exists(out):
                raise UsageError(f"{storage.shown(out)} exists already; remove it, or choose another --out")
            return write
    raise UsageError(f"{storage.shown(out)} must end in {', '.join(writers)}: the extension chooses the format")


def _csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    # Ids exactly as they are, also one that begins with '=': a manifest is read by programs. All texts are quoted,
    # since Python 3.11 leaves a lone carriage return bare otherwise.
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: list[Row]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())
