"""Paired differences: each method less each control, then each two methods, over the pairs that both have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.summary.findings import Difference, Key, MeasurementSetting
from pipeline.evaluation.summary.measures import beside_below
from pipeline.evaluation.summary.order import key_order, metric_order, setting_of, sortable
from pipeline.evaluation.summary.resampling import PairedResampling
from pipeline.evaluation.summary.samples import MetricSample, shared
from pipeline.evaluation.summary.wording import OF_UNRELATED
from transforms.core.metrics.metric import Metric, RatioMetric
from transforms.core.metrics.registry import BY_NAME, of_kind
from transforms.core.statistics.bootstrap import Interval

_ROUNDING = 1e-9  # equal values that were added up in another order differ by less


def differences(samples: Mapping[Key, MetricSample], draws: PairedResampling) -> list[Difference]:
    """For each metric by which methods are compared, and each side, fill and map."""
    places: dict[tuple[str, MeasurementSetting], list[Key]] = defaultdict(list)
    of_ratio = {ratio.above: ratio.name for ratio in of_kind(RatioMetric)}
    for key in sorted(samples, key=key_order):
        metric = BY_NAME.get(of_ratio.get(key.metric, key.metric))
        if metric and metric.differences:
            places[metric.name, setting_of(key)].append(key)
    found: list[Difference] = []
    for name, where in sorted(places, key=lambda place: (metric_order(place[0]), sortable(place[1]))):
        keys = places[name, where]
        methods = [key for key in keys if not key.control]
        pairs = [(one, other) for one in methods for other in keys if other.control and _is_beside(other, one)]
        found += _compared(BY_NAME[name], where, pairs + list(combinations(methods, 2)), samples, draws)
    return found


def _is_beside(control: Key, method: Key) -> bool:
    """Whether ``control`` says anything of ``method``: another query's map does of its own method."""
    return not control.method.startswith(OF_UNRELATED) or control.method == OF_UNRELATED + method.method


def _compared(
    metric: Metric,
    where: MeasurementSetting,
    pairs: Sequence[tuple[Key, Key]],
    samples: Mapping[Key, MetricSample],
    draws: PairedResampling,
) -> list[Difference]:
    """The differences of ``pairs``.

    Of shares it is one ratio: which pairs are judged and what the oracle removes does not depend on the method.
    """
    gaps: dict[tuple[Key, Key], MetricSample] = {}
    for first, second in pairs:
        one, other = shared(samples[first], samples[second])
        gaps[first, second] = MetricSample(one.units, one.values - other.values)
    if isinstance(metric, RatioMetric):
        parts = {pair: beside_below(gap, pair[0], samples, metric) for pair, gap in gaps.items()}
        gaps = {pair: gap for pair, (gap, _) in parts.items() if len(gap.units)}
        intervals = {pair: draws.ratio(*parts[pair]) for pair in gaps}
    else:
        gaps = {pair: gap for pair, gap in gaps.items() if len(gap.units)}
        intervals = draws.means(gaps)
    return [_difference(metric, where, *pair, gap.units, intervals[pair], draws) for pair, gap in gaps.items()]


def _difference(
    metric: Metric,
    where: MeasurementSetting,
    first: Key,
    second: Key,
    units: NDArray[np.int64],
    interval: Interval,
    draws: PairedResampling,
) -> Difference:
    return Difference(
        metric=metric.name,
        first=first.method,
        second=second.method,
        control=second.control,
        side=where.side,
        fill=where.fill,
        map=where.map,
        queries=draws.count(units),
        pairs=len(units),
        interval=interval,
        separated=_separated(interval, metric),
    )


def _separated(interval: Interval, metric: Metric) -> Literal["better", "worse"] | None:
    if not (interval.low > _ROUNDING or interval.high < -_ROUNDING):
        return None
    return "better" if (interval.low > 0) == (metric.better == "higher") else "worse"
