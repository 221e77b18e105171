"""SQL over the tables of all complete runs under one folder, local or in a bucket.

DuckDB gets each table as an Arrow dataset, never as a path: a query reads the columns and the runs that it names, and
DuckDB itself opens nothing, so it runs without access to files, network or extensions. That guards against a query
pasted from somewhere else. Plain ``duckdb`` reads the same files as
``read_parquet('<out>/explanations/*/*.parquet', hive_partitioning = true)``, unfinished runs included.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any, cast

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from pipeline.text.tables import render
from transforms import storage, tables
from transforms.core.errors import MissingDependency, UsageError
from transforms.storage.addresses import is_local
from transforms.tables import runs

__all__ = ["connect", "query", "render"]

_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",  # a table name must not find a variable of this program
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def connect(out: str) -> Any:
    """A DuckDB connection with one view for each table in ``transforms.tables.SCHEMAS``.

    Runs that have no row in ``runs`` do not exist. Every view has the column ``run_id``, a text, last; a column that a
    file lacks is null, and a table that no run wrote is empty. Raises UsageError where ``out`` holds no complete run,
    and MissingDependency without DuckDB.
    """
    duckdb = _duckdb()
    complete = {run.id for run in runs.complete(out)}
    connection = duckdb.connect()
    for table in tables.SCHEMAS:
        connection.register(table, dataset(out, table, complete))
    for setting in _SETTINGS:
        connection.execute(setting)
    return connection


def query(out: str, sql: str) -> pa.Table:
    """The answer to ``sql``, or to the last of its statements; UsageError with DuckDB's words where it fails."""
    duckdb = _duckdb()
    connection = connect(out)
    try:
        answer = connection.sql(sql)
        return pa.table({}) if answer is None else answer.to_arrow_table()
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"the query failed: {storage.redact(str(error))}") from None
    finally:
        connection.close()


def dataset(out: str, table: str, run_ids: Collection[str]) -> ds.Dataset:
    """All files of ``table`` of the runs ``run_ids`` as one dataset in the table's schema, with ``run_id``.

    Nothing is opened until it is scanned, and then only the files of the runs that the scan's filter leaves. An
    evaluation that has no row in ``evaluations`` does not exist.
    """
    # nullable throughout: files of an earlier schema lack columns
    fields: list[Any] = [field.with_nullable(True) for field in tables.SCHEMAS[table]]
    schema = pa.schema([*fields, pa.field("run_id", pa.string())])
    files: Any = LocalFileSystem() if is_local(out) else None
    form: Any = ds.ParquetFileFormat()
    evaluated = runs.evaluations(out) if table == "metrics" else set()
    fragments = [
        form.make_fragment(address if files else _Remote(address), files, ds.field("run_id") == run_id)
        for run_id, address in runs.files(out, table)
        if run_id in run_ids and (table != "metrics" or (run_id, runs.of(address)) in evaluated)
    ]
    return ds.FileSystemDataset(fragments, schema, form, files)


class _Remote(io.RawIOBase):
    """A stored file that is opened when its first byte is read: most files of a folder are never looked at."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._held = ExitStack()
        self._stream: io.RawIOBase | None = None

    def _open(self) -> io.RawIOBase:
        if self._stream is None:
            self._stream = cast(io.RawIOBase, self._held.enter_context(storage.open_file(self._address)))
        return self._stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._open().readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._open().seek(offset, whence)

    def tell(self) -> int:
        return self._open().tell()

    def close(self) -> None:
        self._held.close()
        super().close()


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingDependency("queries need DuckDB. Run: pip install duckdb") from None
    return duckdb
