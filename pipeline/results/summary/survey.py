"""The first look at a run's rows: its sampled queries, and what there is to estimate.

Queries, methods, reasons, regions and attributes are known before anything is added up, so that sums are kept for the
names that are shown and for no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.summary.extra import keys
from pipeline.results.summary.quantities import first_attributes, region_rows
from transforms.core.errors import UsageError
from transforms.core.statistics.sampling import UNREADABLE
from transforms.tables.runs import Run

Unit: TypeAlias = tuple[str, str]
"""A query in a stratum: a query whose rows lie in two strata is a unit of each."""

Named: TypeAlias = Literal["unexplained", "region", "first_attribute"]

QUERY = "query"
"""The side of rows that name none, as those of old runs."""


@dataclass
class Survey:
    """What the rows of a run hold.

    ``units`` numbers the sampled queries, ``unreadable`` counts the failures without one. ``explanations`` are the rows
    by method and side, ``failing`` the methods and sides that failures name. ``extra`` are the keys of that column,
    where they were asked for.
    """

    units: dict[Unit, int] = field(default_factory=dict)
    unreadable: int = 0
    explanations: Counter[tuple[str, str]] = field(default_factory=Counter)
    failing: set[tuple[str | None, str | None]] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)
    _named: Counter[tuple[Named, str, str, str, str]] = field(default_factory=Counter)

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that rows name."""
        return tuple(sorted({method for method, _ in self.explanations} | {one for one, _ in self.failing if one}))

    @property
    def sides(self) -> tuple[str, ...]:
        """All sides that rows name."""
        return tuple(sorted({side for _, side in self.explanations} | {one for _, one in self.failing if one}))

    def found(self) -> Counter[str]:
        """The sampled queries of each stratum."""
        return Counter(stratum for stratum, _ in self.units)

    def names(self, kind: Named, method: str | None, side: str, weights: Mapping[str, float]) -> list[str]:
        """The names of ``kind`` of that method and side, the most frequent of the whole catalogue first.

        ``weights`` are those of the strata.
        """
        shares: Counter[str] = Counter()
        for (of, its_method, its_side, stratum, name), count in sorted(self._named.items()):
            if (of, its_method, its_side) == (kind, method, side):
                shares[name] += count * weights[stratum]  # type: ignore[assignment]  # a Counter adds any number
        return sorted(shares, key=lambda name: (-shares[name], name))

    def add(self, batch: pa.RecordBatch) -> None:
        """Notes a batch of explanations."""
        strata, methods, sides = texts(batch, "stratum"), texts(batch, "method"), sides_of(batch)
        for unit in zip(strata, texts(batch, "query_id"), strict=True):
            self.units.setdefault(unit, len(self.units))
        self.explanations.update(zip(methods, sides, strict=True))
        for kind, rows, names in _names(batch):
            self._named.update(
                (kind, methods[row], sides[row], strata[row], name)
                for row, name in zip(rows, names, strict=True)
                if name is not None
            )
        if "extra" in batch.schema.names:
            self.extra |= keys(batch.column("extra"))

    def add_failures(self, batch: pa.RecordBatch) -> None:
        """Notes a batch of failures."""
        for unit in failed_units(batch):
            if unit is None:
                self.unreadable += 1
            else:
                self.units.setdefault(unit, len(self.units))
        self.failing.update(zip(texts(batch, "method"), texts(batch, "side"), strict=True))


def survey(run: Run, *, extra: bool = False) -> Survey:
    """One pass over the explanations and failures of ``run``; with ``extra``, over that column's keys too.

    UsageError where a row cannot be read or holds what the schema does not allow.
    """
    found = Survey()
    columns = ["stratum", "query_id", "method", "side", "unexplained_reason", "top", "region_shares"]
    for batch in run.batches(columns + ["extra"] * extra):
        found.add(batch)
    for batch in run.batches(["stratum", "query_id", "method", "side"], table="failures"):
        found.add_failures(batch)
    if not found.units and not found.unreadable:
        raise UsageError(f"the run {run.id} has neither explanations nor failures: there is nothing to estimate")
    return found


def texts(batch: pa.RecordBatch, name: str) -> list[Any]:
    """A column of texts, None where it is null."""
    found: list[Any] = batch.column(name).to_pylist()
    return found


def sides_of(batch: pa.RecordBatch) -> list[str]:
    """Which image each explanation is of."""
    found: list[str] = pc.fill_null(batch.column("side"), QUERY).to_pylist()
    return found


def failed_units(batch: pa.RecordBatch) -> list[Unit | None]:
    """The sampled query of each failure; None where the row of the manifest had none that could be read."""
    return [
        None if query is None or stratum == UNREADABLE else (stratum, query)
        for stratum, query in zip(texts(batch, "stratum"), texts(batch, "query_id"), strict=True)
    ]


def _names(batch: pa.RecordBatch) -> Iterator[tuple[Named, list[int], list[str | None]]]:
    """The names of each kind, and their rows."""
    yield "unexplained", list(range(batch.num_rows)), texts(batch, "unexplained_reason")
    rows, attributes = first_attributes(batch.column("top"))
    yield "first_attribute", rows.tolist(), pc.struct_field(attributes, "name").to_pylist()
    rows, regions = region_rows(batch.column("region_shares"))
    yield "region", rows.tolist(), pc.struct_field(regions, "name").to_pylist()
