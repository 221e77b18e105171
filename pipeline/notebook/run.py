"""A complete run under a folder of tables, read back: as Arrow, pandas or polars, and by SQL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.results import sql
from transforms import storage, tables
from transforms.core.errors import MissingDependency, UsageError
from transforms.core.statistics.verdict import Threshold
from transforms.explaining.verdicts import Thresholds, by_method
from transforms.tables import runs

if TYPE_CHECKING:
    import pandas
    import polars


class Run:
    """A complete run; its tables are those of ``transforms.tables.schema``. Made by :func:`read_run`.

    ``accepted``, of a run that was just made: whether no more pairs failed than ``max_failure_rate`` allows.
    """

    def __init__(self, run: runs.Run, accepted: bool | None = None) -> None:
        self._run, self.accepted = run, accepted

    @property
    def id(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def out(self) -> str:
        """The folder of the tables."""
        return self._run.out

    def __repr__(self) -> str:
        return f"<Run {self.id} in {storage.shown(self.out)}>"

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the table ``name`` as Arrow, in the types of its schema; ``columns``, or all of them.

        Raises:
          whymatch.UsageError: there is no such table or column, or a file is damaged.
        """
        schema = tables.SCHEMAS.get(name)
        if schema is None:
            raise UsageError(f"there is no table {name!r}; there are {', '.join(tables.SCHEMAS)}")
        wanted = schema.names if columns is None else list(columns)
        if unknown := [column for column in wanted if column not in schema.names]:
            raise UsageError(f"the table {name} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
        chosen = pa.schema([schema.field(column).with_nullable(True) for column in wanted])
        return pa.Table.from_batches(self._run.batches(wanted, table=name), schema=chosen)

    def pandas(self, name: str, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """:meth:`table` as a pandas data frame; MissingDependency without pandas."""
        try:
            import pandas as _  # noqa: F401
        except ImportError:
            raise MissingDependency("run.pandas needs pandas: pip install pandas") from None
        return self.table(name, columns).to_pandas()

    def polars(self, name: str, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """:meth:`table` as a polars data frame; MissingDependency without polars."""
        try:
            import polars as frames
        except ImportError:
            raise MissingDependency("run.polars needs polars: pip install polars") from None
        made: Any = frames.from_arrow(self.table(name, columns))
        return made

    def sql(self, query: str) -> pa.Table:
        """The answer to ``query`` over all complete runs of the folder, as ``whymatch sql`` gives it; needs duckdb."""
        return sql.query(self.out, query)

    @property
    def thresholds(self) -> Thresholds:
        """Beyond which an explanation counts as one, by method and side; what ``Bundle.explain`` judges by."""
        (row,) = self.table("runs", ["thresholds"]).to_pylist()
        return by_method(
            {
                (one["method"], one["side"], one["statistic"]): Threshold(
                    one["statistic"], one["threshold"], one["false_alarm_rate"], one["shuffled_pairs"]
                )
                for one in row["thresholds"] or ()
            }
        )


def read_run(out: str | os.PathLike[str], run_id: str | None = None, *, accepted: bool | None = None) -> Run:
    """The complete run ``run_id`` under the folder ``out`` of tables, or the one that was started last.

    Raises:
      whymatch.UsageError: there is no such complete run.
    """
    return Run(runs.find(os.fspath(out), run_id), accepted)
