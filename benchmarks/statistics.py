"""Medians, means and ratios with a percentile-bootstrap interval, and fair orders to measure in.

B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Index = NDArray[np.int64]
"""Places of the units that a resample drew, int64 [n]."""

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval."""

    estimate: float
    low: float
    high: float

    def text(self, digits: int = 3, factor: float = 1.0) -> str:
        """Such as ``1.012 (1.003 to 1.020)``; every number is multiplied by ``factor`` first."""
        estimate, low, high = (f"{factor * value:.{digits}f}" for value in (self.estimate, self.low, self.high))
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
    if units < 1 or resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"a bootstrap needs at least one unit and one resample and 0 < confidence < 1; "
            f"got {units}, {resamples} and {confidence}"
        )
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, units, units)) for _ in range(resamples)]
    estimate = statistic(np.arange(units))
    if not np.isfinite([estimate, *drawn]).all():
        raise ValueError(f"the statistic is not finite: {estimate} over all units, {drawn[0]} in the first resample")
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def median_of_ratios(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Interval:
    """The median over rounds of ``numerators`` [n] / ``denominators`` [n], which are measured in the same round.

    What slows a round slows both of its parts, so the ratio is taken inside of a round, before any average.
    """
    ratios = np.asarray(numerators, np.float64) / np.asarray(denominators, np.float64)
    return bootstrap(lambda drawn: float(np.median(ratios[drawn])), len(ratios), resamples=10_000, seed=seed)


def mean(values: ArrayLike, *, seed: int = 0) -> Interval:
    """The mean of ``values`` [n], one for each unit."""
    array = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(array[drawn].mean()), len(array), seed=seed)


def balanced_orders(items: Sequence[T], rounds: int, *, seed: int = 0) -> list[list[T]]:
    """A shuffled order of the n ``items`` for each round; over n rounds each item stands once in each place.

    Every n rounds are a Latin square with rows, places and items shuffled; a last one may be cut short.
    """
    rng, n = np.random.default_rng(seed), len(items)
    orders: list[list[T]] = []
    while len(orders) < rounds:
        rows, places, names = (rng.permutation(n) for _ in range(3))
        orders += [[items[names[(row + place) % n]] for place in places] for row in rows]
    return orders[:rounds]
