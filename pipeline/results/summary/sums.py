"""The second look at a run's rows: sums of every quantity over each sampled query, and the estimates from them.

Memory holds the sampled queries, and a number for each of them and each quantity; with ``--by`` for each value that a
query has. With pairs it grows only by those that failed in a method or a side alone, which are remembered: each counts
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.results.summary.groups import Groups, Placed
from pipeline.results.summary.quantities import FAILED, FAILED_IN_PART, Quantity, columns, measure
from pipeline.results.summary.sample import QuerySample
from pipeline.results.summary.survey import Unit, failed_units, sides_of, texts
from transforms.core.errors import UsageError
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval
from transforms.core.statistics.collapsed_strata import CollapsedStrata, collapse_strata
from transforms.core.statistics.estimates import estimate
from transforms.core.statistics.sampling import UNREADABLE
from transforms.tables.runs import Run

Population: TypeAlias = Literal["catalogue", "process"]
"""What is estimated: this catalogue, or what made its queries, of which it is a sample itself."""

_NUMBERS = 1 << 22
"""Sums of queries that are resampled at once, 32 MB."""


@dataclass(frozen=True)
class Selection:
    """Which explanations are looked at; None: of all methods, or sides."""

    method: str | None
    side: str | None

    def explanations(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Those of ``batch``."""
        return batch.filter(
            pa.array(
                [
                    self.method in (None, method) and self.side in (None, side)
                    for method, side in zip(texts(batch, "method"), sides_of(batch), strict=True)
                ],
                pa.bool_(),
            )
        )

    def failures(self, batch: pa.RecordBatch) -> list[bool]:
        """Whether each failure of ``batch`` says that one of these is missing; what names no method is of all."""
        return [
            (self.method is None or method in (None, self.method)) and (self.side is None or side in (None, self.side))
            for method, side in zip(texts(batch, "method"), texts(batch, "side"), strict=True)
        ]


@dataclass
class Sums:
    """Sums over the rows of each unit in each group, of T quantities: ``places`` says which row of both arrays it has.

    ``unreadable`` are failures without a query, which lie in no group.
    """

    asked: tuple[Quantity, ...]
    places: dict[tuple[int, int], int] = field(default_factory=dict)
    unreadable: int = 0
    numerators: Float64 = field(init=False)
    denominators: Float64 = field(init=False)

    def __post_init__(self) -> None:
        self.numerators, self.denominators = np.zeros((2, 64, len(self.asked)))

    def add(self, units: NDArray[np.int64], groups: NDArray[np.int64], above: Float64, below: Float64) -> None:
        """Adds rows [n, T] of these units and groups, int64 [n] both."""
        at = np.array(
            [
                self.places.setdefault(key, len(self.places))
                for key in zip(units.tolist(), groups.tolist(), strict=True)
            ],
            np.int64,
        )
        while len(self.places) > len(self.numerators):
            self.numerators = np.vstack([self.numerators, np.zeros_like(self.numerators)])
            self.denominators = np.vstack([self.denominators, np.zeros_like(self.denominators)])
        # one row after the other, so that the sums do not depend on where a batch ends
        np.add.at(self.numerators, at, above)
        np.add.at(self.denominators, at, below)

    def of(self, group: int, units: int) -> tuple[Float64, Float64]:
        """The sums of ``group`` over each of all ``units``, [U, T] both; zeros where a unit has no row there."""
        found = np.array([(unit, place) for (unit, of), place in self.places.items() if of == group], np.int64)
        above, below = np.zeros((2, units, len(self.asked)))
        if len(found):
            above[found[:, 0]], below[found[:, 0]] = self.numerators[found[:, 1]], self.denominators[found[:, 1]]
        return above, below


@dataclass(frozen=True)
class Estimate:
    """An estimate. ``pairs`` and ``queries`` are those in the sample about which it can be said; the bounds of the
    interval are NaN where there are too few of them."""

    quantity: Quantity
    interval: Interval
    pairs: int
    queries: int


def add_up(
    run: Run,
    units: Mapping[Unit, int],
    asked: tuple[Quantity, ...],
    selection: Selection,
    *,
    tolerance: float,
    groups: Groups | None = None,
) -> Sums:
    """The sums of ``asked`` over the rows of ``run``; all in group 0 where there are no ``groups``."""
    sums = Sums(asked)
    needed = ("stratum", "query_id", "method", "side", *(groups.by.columns if groups else ()), *columns(asked))
    for batch in map(selection.explanations, run.batches(list(dict.fromkeys(needed)))):
        own = np.array(
            [units[unit] for unit in zip(texts(batch, "stratum"), texts(batch, "query_id"), strict=True)], np.int64
        )
        rows, numbers = groups.place(groups.by.of(batch)) if groups else _all(batch)
        above, below = measure(batch, asked, tolerance)
        sums.add(own[rows], numbers, above[rows], below[rows])
    _add_failures(sums, run, units, selection, groups)
    if not np.isfinite(sums.numerators).all():
        raise UsageError(f"the numbers in the tables of the run {run.id} are too large to be added up. Audit again.")
    return sums


def _add_failures(sums: Sums, run: Run, units: Mapping[Unit, int], selection: Selection, groups: Groups | None) -> None:
    part: set[tuple[int, str | None]] = set()
    needed = ["stratum", "query_id", "method", "side", "pair_id"]
    failed = np.array([one == FAILED for one in sums.asked], np.float64)
    in_part = np.array([one == FAILED_IN_PART for one in sums.asked], np.float64)
    for batch in run.batches(needed, table="failures"):
        found = failed_units(batch)
        own = np.array([-1 if unit is None else units[unit] for unit in found], np.int64)
        asked = np.array(selection.failures(batch), bool)
        new = np.array(
            [
                _is_new(part, unit, *names)
                for unit, *names in zip(
                    own.tolist(), texts(batch, "pair_id"), texts(batch, "method"), texts(batch, "side"), strict=True
                )
            ],
            bool,
        )
        above = asked[:, None] * failed + new[:, None] * in_part
        below = asked[:, None] * (failed + in_part)
        rows, numbers = groups.place(groups.by.of_failures(batch)) if groups else _all(batch)
        readable = own[rows] >= 0
        rows, numbers = rows[readable], numbers[readable]
        sums.add(own[rows], numbers, above[rows], below[rows])
        sums.unreadable += 0 if groups else int((own < 0).sum())


def _is_new(
    part: set[tuple[int, str | None]], unit: int, pair: str | None, method: str | None, side: str | None
) -> bool:
    """Whether a failure is the first of its pair; one that names no method and no side is of a pair of its own."""
    if method is None and side is None:
        return True
    is_new = (unit, pair) not in part
    part.add((unit, pair))
    return is_new


def _all(batch: pa.RecordBatch) -> Placed:
    return np.arange(batch.num_rows), np.zeros(batch.num_rows, np.int64)


def merged_strata(sample: QuerySample, population: Population) -> CollapsedStrata:
    """The group of each stratum, and which were put together:
    :func:`transforms.core.statistics.collapsed_strata.collapse_strata`.

    They are put together for the spread; the weights are :func:`weights_of`. Strata that were looked at as a whole are
    known, and in the estimate of a catalogue stand for no others as long as there are two queries elsewhere that can.
    """
    known = {
        name for name, count in sample.found.items() if population == "catalogue" and count == sample.population[name]
    }
    others = {name: count for name, count in sample.population.items() if name not in known}
    drawn = {name: count for name, count in sample.found.items() if name in others}
    if sum(drawn.values()) < 2 and others:
        return collapse_strata(sample.found, sample.population)
    found = collapse_strata(drawn, others)
    return replace(found, names={**found.names, **{name: name for name in known}})


def weights_of(sample: QuerySample, population: Population) -> dict[str, float]:
    """How many queries a sampled one of each stratum stands for: its own, and those of strata without any."""
    return merged_strata(sample, population).weights(sample.found, sample.population)


def estimates(
    sums: Sums, group: int, units: Sequence[Unit], sample: QuerySample, population: Population
) -> list[Estimate]:
    """The estimate of each quantity that the sums have something of, of one group.

    ``units`` are in the order of their numbers. Failures without a query are a census, a stratum of their own.
    """
    above, below = sums.of(group, len(units))
    pairs, queries = below.sum(axis=0), np.count_nonzero(below, axis=0)
    merged, weight = merged_strata(sample, population), weights_of(sample, population)
    strata, ids = [merged.names[stratum] for stratum, _ in units], [f"{stratum}\0{query}" for stratum, query in units]
    weights = [weight[stratum] for stratum, _ in units]
    sizes = merged.population(sample.population) if units else {}
    if sums.unreadable:
        failed = [one in (FAILED, FAILED_IN_PART) for one in sums.asked]
        pairs = pairs + np.where(failed, sums.unreadable, 0)
        # two halves, as one unit would have to be merged; all of them fail, so there is no spread to lose
        half = np.where(failed, sums.unreadable / 2, 0.0)[None]
        above, below = np.vstack([above, half, half]), np.vstack([below, half, half])
        strata, ids = [*strata, UNREADABLE, UNREADABLE], [*ids, "\0first", "\0second"]
        weights += [1.0, 1.0]
        sizes[UNREADABLE] = 2
    shown = np.flatnonzero(below.any(axis=0))
    found: list[Estimate] = []
    for some in _parts(shown, len(strata)):
        intervals = _intervals(above[:, some], below[:, some], strata, sizes, weights, ids, population, len(units))
        found += [
            Estimate(sums.asked[at], one, round(pairs[at]), int(queries[at]))
            for at, one in zip(some.tolist(), intervals, strict=True)
        ]
    return found


def _intervals(
    above: Float64,
    below: Float64,
    strata: Sequence[str],
    sizes: Mapping[str, int],
    weights: Sequence[float],
    ids: Sequence[str],
    population: Population,
    queries: int,
) -> list[Interval]:
    """Those of :func:`transforms.core.statistics.estimates.estimate`; without bounds where one query has to stand for
    others.
    """
    if queries == 1 < len(strata) and not (population == "catalogue" and sizes[strata[0]] == 1):
        own = np.array(weights)
        return [Interval(float(one), np.nan, np.nan) for one in own @ above / (own @ below)]
    return estimate(above, below, strata, sizes, weights=weights, queries=ids, finite=population == "catalogue")


def _parts(places: NDArray[np.int64], units: int) -> Iterator[NDArray[np.int64]]:
    at_once = max(1, _NUMBERS // units)
    for start in range(0, len(places), at_once):
        yield places[start : start + at_once]
