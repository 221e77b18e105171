"""``--by``: which values of a column each row has; the column is of the explanations, their extras or the catalogue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.results.summary import extra
from pipeline.results.summary.survey import Survey, sides_of, texts
from transforms.core.errors import UsageError
from transforms.core.messages import listed, quoted
from transforms.core.statistics.sampling import NONE
from transforms.tables.runs import Run

COLUMNS = ("stratum", "method", "condition", "side", "served_model", "fill", "provider")
"""Columns of the table explanations that group it."""

Placed = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of a batch, int64 [k], and the number of a group that each lies in, int64 [k]. A row may lie in several."""


class Values(Protocol):
    """What says the values of rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the table explanations that it needs."""

    def of(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        """The values of every explanation, at least one; None where it has none."""

    @property
    def knows_failures(self) -> bool:
        """Whether failures have values, too."""

    def of_failures(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        """The values of every failure; none where failures have none."""


@dataclass
class Groups:
    """The values of ``column`` and their numbers, in the order in which they are met."""

    column: str
    by: Values
    numbers: dict[str, int] = field(default_factory=dict)

    def place(self, values: Sequence[Collection[str | None]]) -> Placed:
        """The groups of rows that have these values."""
        found = [
            (row, self.numbers.setdefault(NONE if value is None else value, len(self.numbers)))
            for row, some in enumerate(values)
            for value in some
        ]
        rows, groups = np.array(found, np.int64).reshape(-1, 2).T
        return rows, groups


def groups(run: Run, column: str, found: Survey) -> Groups:
    """What ``--by column`` groups by: a column of explanations, else a key of their extras, else of the catalogue.

    UsageError, with what there is, where it is none of these.
    """
    if column in COLUMNS:
        return Groups(column, _Column(column, found.methods, found.sides))
    if column in found.extra:
        return Groups(column, _Extra(column))
    queries = {query for _, query in found.units}
    named, products = _catalogue(run, column, queries)
    if column not in named:
        raise UsageError(
            f"--by {quoted(column)}: no such column. The explanations have {', '.join(COLUMNS)}; of the manifest was "
            f"kept (--keep): {listed(sorted(found.extra)) or 'nothing'}; the catalogue has: "
            f"{listed(sorted(named)) or 'nothing'}"
        )
    return Groups(column, _Catalogue(products))


@dataclass(frozen=True)
class _Column:
    name: str
    methods: tuple[str, ...]
    sides: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,)

    def of(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        return [(value,) for value in (sides_of(batch) if self.name == "side" else texts(batch, self.name))]

    @property
    def knows_failures(self) -> bool:
        return self.name in ("stratum", "method", "side")

    def of_failures(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        if not self.knows_failures:
            return [() for _ in range(batch.num_rows)]
        # a failure that names no method, or side, is of all
        every = {"stratum": (), "method": self.methods, "side": self.sides}[self.name]
        return [every if value is None else (value,) for value in texts(batch, self.name)]


@dataclass(frozen=True)
class _Extra:
    key: str
    columns: tuple[str, ...] = ("extra",)
    knows_failures: bool = False

    def of(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        return [(value,) for value in extra.values(batch.column("extra"), self.key)]

    def of_failures(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        return [() for _ in range(batch.num_rows)]


@dataclass(frozen=True)
class _Catalogue:
    """``products`` are the values of each query; a query may have several."""

    products: Mapping[str, Collection[str]]
    columns: tuple[str, ...] = ()
    knows_failures: bool = True

    def of(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        return [self.products.get(query) or (None,) for query in texts(batch, "query_id")]

    def of_failures(self, batch: pa.RecordBatch) -> Sequence[Collection[str | None]]:
        return self.of(batch)


def _catalogue(run: Run, column: str, queries: Collection[str]) -> tuple[set[str], dict[str, list[str]]]:
    """The catalogue's columns, and the values of ``column`` that each of ``queries`` has, sorted."""
    named: set[str] = set()
    values: defaultdict[str, set[str]] = defaultdict(set)
    for query, column_of, value in _attributes(run):
        named.add(column_of)
        if column_of == column and query in queries:
            values[query].add(value)
    return named, {query: sorted(some) for query, some in values.items()}


def _attributes(run: Run) -> Iterator[tuple[str, str, str]]:
    """Product, column and value of all attributes."""
    for batch in run.batches(["product_id", "attributes"], table="products"):
        for product, attributes in zip(texts(batch, "product_id"), texts(batch, "attributes"), strict=True):
            for attribute in attributes:
                column, equals, value = (attribute or "").partition("=")
                if equals:
                    yield product, column, value
