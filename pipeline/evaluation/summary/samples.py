"""The values of an evaluation's rows, sorted out by what has one mean."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.summary.findings import Key
from transforms.core.errors import NotScored
from transforms.core.records import Float64
from transforms.tables import Row


class MetricSample(NamedTuple):
    """One value a unit, a pair or an attribute: ``units`` int64 [P], rising, and ``values`` float64 [P]."""

    units: NDArray[np.int64]
    values: Float64


@dataclass
class CollectedRows:
    """Of each row a number in its group; of each pair its ids, once."""

    units: dict[tuple[str, str], int] = field(default_factory=dict)
    weights: array[float] = field(default_factory=lambda: array("d"))
    groups: dict[Key, tuple[array[int], array[float]]] = field(default_factory=dict)
    failed: Counter[Key] = field(default_factory=Counter)
    not_scored: defaultdict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unjudged: set[Key] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        key = Key(
            row["metric"], row["method"] or "", bool(row["control"]), *(row.get(name) for name in Key._fields[3:])
        )
        units, values = self.groups.setdefault(key, (array("q"), array("d")))
        if row.get("judged") is False:
            self.unjudged.add(key)
        value = row["value"]
        if value is None or not math.isfinite(value):
            self._fail(key, row)
            return
        unit = (explained_product(row), row.get("pair_id") or row.get("attribute") or "")
        at = self.units.setdefault(unit, len(self.units))
        if at == len(self.weights):
            self.weights.append(math.nan)
        if row.get("weight") is not None:
            self.weights[at] = float(np.fmax(self.weights[at], row["weight"]))
        units.append(at)
        values.append(value)

    def _fail(self, key: Key, row: Row) -> None:
        reason = row.get("reason") or ("no value" if row["value"] is None else "not finite")
        message = row.get("message") or ""
        self.failed[key] += 1
        self.reasons[reason] += 1
        self.examples[reason] = min(self.examples.get(reason, message), message)
        if reason == NotScored.reason:
            self.not_scored[key][message] += 1

    def sorted(self) -> tuple[dict[Key, MetricSample], NDArray[np.int64], Float64]:
        """The groups with units numbered in the order of their ids, and of each its product's number and its weight."""
        ids = sorted(self.units)
        order = np.array([self.units[one] for one in ids], np.int64)
        place = np.empty(len(ids), np.int64)
        place[order] = np.arange(len(ids))
        queries = np.cumsum([at > 0 and ids[at][0] != ids[at - 1][0] for at in range(len(ids))], dtype=np.int64)
        weights = np.array(self.weights, np.float64)[order]
        samples = {
            key: _sample(key, place[np.array(units, np.int64)], np.array(values, np.float64))
            for key, (units, values) in self.groups.items()
        }
        return samples, queries, np.where(np.isnan(weights), 1.0, weights)


def _sample(key: Key, units: NDArray[np.int64], values: Float64) -> MetricSample:
    """The values in the order of their units; ValueError where one has two."""
    order = np.argsort(units)
    rising = units[order]
    if (np.diff(rising) == 0).any():
        raise ValueError(f"two rows of {key.metric} of {key.method} measure the same: they are of two evaluations")
    return MetricSample(rising, values[order])


def shared(one: MetricSample, other: MetricSample) -> tuple[MetricSample, MetricSample]:
    """Both on the units that both have."""
    units, left, right = np.intersect1d(one.units, other.units, assume_unique=True, return_indices=True)
    return MetricSample(units, one.values[left]), MetricSample(units, other.values[right])


def explained_product(row: Row) -> str:
    """The id of the product whose image a row explains: a query, or a reference where its side is explained."""
    return row.get("reference_id" if row.get("side") == "reference" else "query_id") or ""
