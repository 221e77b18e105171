"""The sampled queries of an estimate, stratum after stratum, and what their strata say of them.

``transforms.core.statistics.estimates`` has the formulas and their sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float64

_EMPTY = 0.05
"""The share of resamples that may draw no query of a group; with three queries of many, e**-3 of them do."""


@dataclass(frozen=True)
class StratifiedSample:
    """The sampled queries, stratum after stratum, S of them."""

    a: Float64  # [Q, T], of a query of merged strata times its own weight over that of the group
    b: Float64  # [Q, T], likewise
    starts: NDArray[np.int64]  # [S], where each stratum begins
    sizes: NDArray[np.int64]  # [S], q_h
    weights: Float64  # [S], Q_h / q_h
    shares: Float64  # [Q], 1 / w_i, or 0 where the population is itself a sample

    @classmethod
    def of(
        cls,
        a: Float64,
        b: Float64,
        strata: Sequence[str],
        each: Float64,
        population: Mapping[str, int],
        finite: bool,
    ) -> StratifiedSample:
        """Of rows that lie in the order of ``strata`` and have the weights ``each`` [Q]."""
        drawn: dict[str, int] = {}
        for name in strata:
            drawn[name] = drawn.get(name, 0) + 1
        for name in sorted({*drawn, *population}):
            own, whole = drawn.get(name, 0), population.get(name, 0)
            if own > whole or own == 0 < whole:
                raise ValueError(
                    f"stratum {name!r} has {own} sampled queries and {whole} in all; merge strata of which nothing was "
                    "sampled"
                )
            if own == 1 < len(drawn) and not (finite and whole == 1):
                raise ValueError(f"stratum {name!r} has one sampled query, which has no spread: merge it with another")
        sizes = np.array(list(drawn.values()))
        weights, starts = np.array([population[name] for name in drawn]) / sizes, np.cumsum(sizes) - sizes
        if not np.allclose(np.add.reduceat(each, starts), weights * sizes) or (each < 1).any():
            raise ValueError("expected weights of 1 or more that add up to the population of each stratum")
        relative = (each / np.repeat(weights, sizes))[:, None]  # exactly 1 where nothing was merged
        return cls(a * relative, b * relative, starts, sizes, weights, 1 / each if finite else np.zeros(len(each)))

    @property
    def partial(self) -> NDArray[np.bool_]:
        """Whether something of the stratum is unknown, [S]."""
        unknown: NDArray[np.bool_] = np.logical_or.reduceat(self.shares < 1, self.starts)
        return unknown

    @property
    def certain(self) -> Float64:
        """1 for each query that stands for none but itself, else 0: [Q, 1]."""
        return (self.shares >= 1).astype(np.float64)[:, None]

    def sums(self, columns: Float64) -> Float64:
        """Of ``columns`` [Q, C] within each stratum: [S, C]."""
        return np.add.reduceat(columns, self.starts, axis=0)

    def total(self, columns: Float64) -> Float64:
        """The estimated total of ``columns`` [Q, C] in the population: [C]."""
        total: Float64 = (self.weights[:, None] * self.sums(columns)).sum(axis=0)
        return total

    def each(self, values: Float64) -> Float64:
        """``values`` [S] of the strata as a column of their queries: [Q, 1]."""
        return np.repeat(values, self.sizes)[:, None]

    def too_few(self) -> NDArray[np.bool_]:
        """Whether more than ``_EMPTY`` of resamples would hold no query with a denominator: bool [T]."""
        having = self.sums((self.b > 0).astype(np.float64))
        empty = (1 - having / self.sizes[:, None]) ** (self.sizes[:, None] - 1)
        # a resample holds all of a stratum that was taken whole
        empty[self.sums((self.b > 0) * self.certain) > 0] = 0
        fewer: NDArray[np.bool_] = empty.prod(axis=0) > _EMPTY
        return fewer


def sample_of(
    numerators: Float64,
    denominators: Float64,
    strata: Sequence[str],
    population: Mapping[str, int],
    *,
    weights: Sequence[float] | None,
    queries: Sequence[str] | None,
    finite: bool,
) -> StratifiedSample:
    """The sample of what :func:`transforms.core.statistics.estimates.estimate` is given, and its ValueErrors."""
    a, b = _checked(numerators, denominators, strata, queries)
    each = _weights(strata, population, weights)
    order = _order(a, b, each, strata, queries)
    return StratifiedSample.of(a[order], b[order], [strata[at] for at in order], each[order], population, finite)


def _checked(
    numerators: Float64, denominators: Float64, strata: Sequence[str], queries: Sequence[str] | None
) -> tuple[Float64, Float64]:
    """Numerators and denominators, float64 [Q, T]."""
    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if a.ndim != 2 or a.shape != b.shape or not len(a) or len(strata) != len(a):
        raise ValueError(
            f"expected numerators and denominators [Q, T], Q at least 1, and Q strata; got {a.shape}, {b.shape} and "
            f"{len(strata)}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or (b < 0).any():
        raise ValueError("expected finite numerators, and finite denominators of 0 or more")
    if a[b == 0].any():
        raise ValueError("a query without a denominator has a numerator: what does not count is 0 in both")
    if queries is not None and (len(queries) != len(a) or len(set(zip(strata, queries, strict=True))) < len(a)):
        raise ValueError(f"expected one row for each query of a stratum; got {len(a)} rows and {len(queries)} queries")
    return a, b


def _weights(strata: Sequence[str], population: Mapping[str, int], weights: Sequence[float] | None) -> Float64:
    """The weight of each row, float64 [Q]."""
    if weights is None:
        sizes = Counter(strata)
        return np.array([population.get(name, 0) / sizes[name] for name in strata])
    each = np.asarray(weights, np.float64)
    if each.shape != (len(strata),) or not np.isfinite(each).all():
        raise ValueError(f"expected a finite weight for each of {len(strata)} rows; got {each.shape}")
    return each


def _order(
    a: Float64, b: Float64, each: Float64, strata: Sequence[str], queries: Sequence[str] | None
) -> NDArray[np.int64]:
    """The rows by stratum, then by id, or by content: rows of equal content may change places unseen."""
    if queries is not None:
        return np.array(sorted(range(len(a)), key=lambda at: (strata[at], queries[at])))
    places = {name: place for place, name in enumerate(sorted(set(strata)))}
    return np.lexsort([each, *np.column_stack([a, b]).T, np.array([places[name] for name in strata])])
