"""A complete run under a folder of tables, read back: as Arrow, pandas or polars, and by SQL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.results import sql
from transforms import storage, tables
from transforms.core.errors import MissingDependency, UsageError
from transforms.core.saliency.explainer import Explainer
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
        if not wanted:
            raise UsageError("a table without columns has no rows: name a column, or none for all of them")
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
    def thresholds(self) -> RunThresholds:
        """Beyond which an explanation counts as one; what ``Bundle.explain`` judges by."""
        (row,) = self.table("runs", ["model_id", "explainer_ids", "thresholds"]).to_pylist()
        by_key = {
            (one["method"], one["side"], one["statistic"]): Threshold(
                one["statistic"], one["threshold"], one["false_alarm_rate"], one["shuffled_pairs"]
            )
            for one in row["thresholds"] or ()
        }
        return RunThresholds(row["model_id"], frozenset(row["explainer_ids"]), by_method(by_key))


@dataclass(frozen=True)
class RunThresholds:
    """The thresholds of a run, which hold for its model and its explainers alone."""

    model_id: str
    explainer_ids: frozenset[str]
    values: Thresholds

    def check(self, model_id: str, explainer: Explainer) -> None:
        """UsageError for another model, or an explainer with other settings than the run's."""
        if model_id != self.model_id:
            raise UsageError(f"the thresholds are of the model {self.model_id}, and this one is {model_id}")
        if explainer.id not in self.explainer_ids:
            raise UsageError(
                f"the thresholds are of other settings than {explainer.method.name} has here: explain by the run's, or "
                "audit with these"
            )


def read_run(out: str | os.PathLike[str], run_id: str | None = None, *, accepted: bool | None = None) -> Run:
    """The complete run ``run_id`` under the folder ``out`` of tables, or the one that was started last.

    Raises:
      whymatch.UsageError: there is no such complete run.
    """
    return Run(runs.find(os.fspath(out), run_id), accepted)
