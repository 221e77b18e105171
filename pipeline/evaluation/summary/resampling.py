"""Intervals of a summary: bootstraps over queries, of all that lie on the same pairs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.summary.samples import MetricSample
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval, means_by_query, ratio_by_query

K = TypeVar("K")

_TOGETHER = 1 << 22  # values that are resampled at once, 32 MB


@dataclass(frozen=True)
class PairedResampling:
    """Means over units: ``queries`` int64 [U] and ``weights`` float64 [U] of every unit, and how to resample."""

    queries: NDArray[np.int64]
    weights: Float64
    resamples: int
    seed: int

    def means(self, samples: Mapping[K, MetricSample]) -> dict[K, Interval]:
        """Of each of ``samples``, none empty; those on the same units, most often all, are resampled together."""
        together: dict[bytes, list[K]] = defaultdict(list)
        for key, sample in samples.items():
            together[sample.units.tobytes()].append(key)
        found: dict[K, Interval] = {}
        for keys in together.values():
            units = samples[keys[0]].units
            at_once = max(1, _TOGETHER // len(units))
            for start in range(0, len(keys), at_once):
                some = keys[start : start + at_once]
                values = np.stack([samples[key].values for key in some], axis=1)
                parts = means_by_query(
                    values,
                    self.queries[units],
                    weights=self.weights[units],
                    resamples=self.resamples,
                    seed=self.seed,
                )
                found |= {key: Interval(*map(float, one)) for key, *one in zip(some, *parts, strict=True)}
        return found

    def ratio(self, above: MetricSample, below: MetricSample) -> Interval:
        """The sum of ``above`` over that of ``below``, on the same units; every value of ``below`` is above 0."""
        weights = self.weights[above.units]
        return ratio_by_query(
            weights * above.values,
            weights * below.values,
            self.queries[above.units],
            resamples=self.resamples,
            seed=self.seed,
        )

    def count(self, units: NDArray[np.int64]) -> int:
        """Distinct queries."""
        return len(np.unique(self.queries[units]))
