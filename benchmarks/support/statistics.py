"""Medians of ratios with a percentile-bootstrap interval, and fair orders to measure in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from transforms.core.statistics.bootstrap import Interval, bootstrap

T = TypeVar("T")


def median_of_ratios(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Interval:
    """The median over rounds of ``numerators`` [n] / ``denominators`` [n], which are measured in the same round.

    What slows a round slows both of its parts, so the ratio is taken inside of a round, before any average.
    """
    ratios = np.asarray(numerators, np.float64) / np.asarray(denominators, np.float64)
    return bootstrap(lambda drawn: float(np.median(ratios[drawn])), len(ratios), resamples=10_000, seed=seed)


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
