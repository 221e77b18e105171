"""Estimates with a percentile-bootstrap interval. What is resampled are queries, never pairs.

B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval).

The explanations of one query's references are nearly one observation: they share its masked passes. So a query is drawn
with all of its pairs, and an interval over pairs, as if each were an observation, would be too narrow. Of a weighted
mean and of a ratio both parts are drawn together::

    estimate = sum_q a_q / sum_q b_q          a_q, b_q: sums over the pairs of query q
    resample = sum_q n_q a_q / sum_q n_q b_q  n ~ Multinomial(Q; 1/Q, …, 1/Q)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transforms.core.records import Float64

Index = NDArray[np.int64]
"""Places of the units that a resample drew, int64 [n]."""

Queries: TypeAlias = Sequence[str] | NDArray[Any]
"""The query of each pair, [P]."""

_COUNTS = 1 << 20
"""Counts of drawn queries that are held at once, 8 MB; their number changes no draw."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; ``low`` and ``high`` are NaN where too few queries, having no spread, give none."""

    estimate: float
    low: float
    high: float

    def text(self, digits: int = 3, factor: float = 1.0) -> str:
        """Such as ``1.012 (1.003 to 1.020)``; every number is multiplied by ``factor`` first."""
        estimate, low, high = (f"{factor * value:.{digits}f}" for value in (self.estimate, self.low, self.high))
        if math.isnan(self.low):
            return f"{estimate} (too few queries: no interval)"
        return f"{estimate} ({low} to {high})"


def bootstrap(
    statistic: Callable[[Index], float], units: int, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The statistic of all ``units`` and its percentile interval over ``resamples`` draws of as many with replacement.

    Args:
      statistic: from the places [n] of the units that were drawn, each in 0 to ``units - 1``, to a finite number.
      units: n, how many independent observations there are: rounds, or queries. Never pairs: pairs of one query are
        nearly one observation.
      seed: of the draws; equal arguments give equal intervals.
    """
    _check(units, resamples, confidence)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, units, units)) for _ in range(resamples)]
    estimate = statistic(np.arange(units))
    if not np.isfinite([estimate, *drawn]).all():
        raise ValueError(f"the statistic is not finite: {estimate} over all units, {drawn[0]} in the first resample")
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def mean(values: ArrayLike, *, seed: int = 0) -> Interval:
    """The mean of ``values`` [n], one for each unit."""
    array = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(array[drawn].mean()), len(array), seed=seed)


def mean_by_query(
    values: Float64,
    queries: Queries,
    *,
    weights: Float64 | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of ``values`` [P] over pairs, weighted by ``weights`` [P], and its interval over ``queries`` [P].

    Equal to the bit in whatever order the pairs come. Queries whose weights are all 0 count for nothing.

    Raises:
      ValueError: for lengths that differ, no pairs, a value or weight that is not finite, a weight below 0, or weights
        that are all 0.
    """
    totals, weights = _weighted(values, weights)
    return ratio_by_query(totals, weights, queries, resamples=resamples, confidence=confidence, seed=seed)


def ratio_by_query(
    numerators: Float64,
    denominators: Float64,
    queries: Queries,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The sum of ``numerators`` [P] over that of ``denominators`` [P], none below 0; else as :func:`mean_by_query`.

    ValueError also where the denominators of a resample are all 0 and its numerators are not.
    """
    numerators = np.asarray(numerators, np.float64)[:, None]
    estimate, low, high = _ratios(numerators, denominators, queries, resamples, confidence, seed)
    return Interval(float(estimate[0]), float(low[0]), float(high[0]))


def means_by_query(
    values: Float64,
    queries: Queries,
    *,
    weights: Float64 | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Float64, Float64, Float64]:
    """The mean curve float64 [T] of the pairs' curves ``values`` [P, T], and the low and the high end at each point.

    The interval is pointwise: each point lies in its own with ``confidence``, the whole curve does not. All points are
    of the same resamples; else as :func:`mean_by_query`.
    """
    totals, weights = _weighted(values, weights)
    return _ratios(totals, weights, queries, resamples, confidence, seed)


def _weighted(values: Float64, weights: Float64 | None) -> tuple[Float64, Float64]:
    """The values times their weights, and the weights [P]."""
    values = _finite(values, "values")
    weights = np.ones(len(values)) if weights is None else _finite(weights, "weights")
    if weights.shape != values.shape[:1]:
        raise ValueError(f"expected one weight for each pair, got values {values.shape} and weights {weights.shape}")
    return values * weights.reshape(-1, *[1] * (values.ndim - 1)), weights


def _ratios(
    numerators: Float64, denominators: Float64, queries: Queries, resamples: int, confidence: float, seed: int
) -> tuple[Float64, Float64, Float64]:
    """Estimate, low and high, each [T], of ``numerators`` [P, T] over ``denominators`` [P]."""
    numerators, denominators = _finite(numerators, "numerators"), _finite(denominators, "denominators")
    pairs = len(numerators)
    if numerators.ndim != 2 or denominators.shape != (pairs,) or len(queries) != pairs:
        raise ValueError(
            f"expected as many values, weights or denominators, and queries as there are pairs; got "
            f"{numerators.shape}, {denominators.shape} and {len(queries)}"
        )
    if not denominators.any() or denominators.min() < 0:
        raise ValueError("weights, or denominators, are 0 or more, and one of them at least is more")
    sums = _sums(np.column_stack([numerators, denominators]), queries)
    # of queries without weight alone there would be no ratio; to its variance they add nothing
    sums = sums[sums.any(axis=1)]
    _check(len(sums), resamples, confidence)
    total = sums.sum(axis=0)
    estimate = total[:-1] / total[-1]
    if len(sums) == 1:
        nothing = np.full_like(estimate, math.nan)
        return estimate, nothing, nothing
    drawn = _resampled(sums, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[:, :-1] / drawn[:, -1:]
    if not np.isfinite(ratios).all():
        raise ValueError("the denominators of a resample are all 0: too few queries have any for an interval")
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], axis=0)
    return estimate, low, high


def _sums(columns: Float64, queries: Queries) -> Float64:
    """``columns`` [P, C] added up for each query in the order of ids: [Q, C], whatever the order of pairs."""
    ids = queries.tolist() if isinstance(queries, np.ndarray) else queries
    places = {query: place for place, query in enumerate(sorted(set(ids)))}
    at = np.array([places[query] for query in ids])
    order = np.argsort(at, kind="stable")
    bounds = [*np.flatnonzero(np.diff(at[order], prepend=-1)), len(order)]
    # fsum rounds once, so the order of a query's pairs leaves no trace
    sums = [[math.fsum(column[low:high]) for low, high in pairwise(bounds)] for column in columns[order].T.tolist()]
    return np.array(sums).T


def _resampled(sums: Float64, resamples: int, seed: int) -> Float64:
    """The sums over ``resamples`` draws of as many queries as there are: [resamples, C] from ``sums`` [Q, C]."""
    rng, count = np.random.default_rng(seed), len(sums)
    columns = np.ascontiguousarray(sums)
    out = np.empty((resamples, sums.shape[1]))
    rows = max(1, _COUNTS // count)
    for start in range(0, resamples, rows):
        part = out[start : start + rows]
        # a multinomial draw, three times as fast as numpy's own
        drawn = rng.integers(0, count, (len(part), count))
        drawn += count * np.arange(len(part))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=len(part) * count).reshape(len(part), count)
        # not BLAS, whose last bits depend on its threads
        np.einsum("rq,qc->rc", counts.astype(np.float64), columns, out=part)
    return out


def _finite(values: Float64, name: str) -> Float64:
    array = np.asarray(values, np.float64)
    if not array.ndim or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"an interval over queries needs {name} of at least one pair, all finite; got {values!r}")
    return array


def _check(units: int, resamples: int, confidence: float) -> None:
    if units < 1 or resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"a bootstrap needs at least one unit and one resample and 0 < confidence < 1; "
            f"got {units}, {resamples} and {confidence}"
        )
