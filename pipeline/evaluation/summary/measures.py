"""The mean of each metric, and the ratios of two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from pipeline.evaluation.summary.findings import Key, Measure
from pipeline.evaluation.summary.order import key_order
from pipeline.evaluation.summary.resampling import PairedResampling
from pipeline.evaluation.summary.samples import CollectedRows, MetricSample, shared
from transforms.core.metrics.metric import RatioMetric
from transforms.core.metrics.registry import BY_NAME, family_of, needing, of_kind
from transforms.core.statistics.bootstrap import Interval

_NOTHING = Interval(math.nan, math.nan, math.nan)


def measures(samples: Mapping[Key, MetricSample], collected: CollectedRows, draws: PairedResampling) -> list[Measure]:
    """Of each of ``samples``, and the ratios that are made of them."""
    keys = sorted(samples, key=key_order)
    resampled = {key: samples[key] for key in keys if len(samples[key].units) and not _over_attributes(key.metric)}
    intervals = draws.means(resampled)
    found = [_measure(key, samples[key], intervals.get(key, _NOTHING), collected, draws) for key in keys]
    return found + [one for ratio in of_kind(RatioMetric) for one in _ratios(ratio, samples, draws)]


def beside_below(
    sample: MetricSample, key: Key, samples: Mapping[Key, MetricSample], ratio: RatioMetric
) -> tuple[MetricSample, MetricSample]:
    """``sample`` and what ``ratio`` divides it by of ``key``'s method, on the units that both have."""
    below = samples.get(key._replace(metric=ratio.below), MetricSample(np.empty(0, np.int64), np.empty(0)))
    return shared(sample, below)


def _over_attributes(metric: str) -> bool:
    family = family_of(metric)
    return family is not None and family.over == "attributes"


def _measure(
    key: Key, sample: MetricSample, interval: Interval, collected: CollectedRows, draws: PairedResampling
) -> Measure:
    units, over_attributes = len(sample.units), _over_attributes(key.metric)
    if units and over_attributes:
        interval = replace(_NOTHING, estimate=float(sample.values.mean()))
    return Measure(
        *key,
        judged=key not in collected.unjudged if key.metric in needing("cascade") else None,
        queries=0 if over_attributes else draws.count(sample.units),
        pairs=0 if over_attributes else units,
        attributes=units if over_attributes else 0,
        failed=collected.failed[key],
        not_scored=tuple(sorted(collected.not_scored[key].items(), key=lambda item: (-item[1], item[0]))),
        interval=interval,
        better=BY_NAME[key.metric].better if key.metric in BY_NAME else None,
    )


def _ratios(ratio: RatioMetric, samples: Mapping[Key, MetricSample], draws: PairedResampling) -> Iterator[Measure]:
    """The sum of ``ratio.above`` of each method as a share of that of ``ratio.below`` on the same pairs."""
    for key in (key for key in samples if key.metric == ratio.above):
        above, below = beside_below(samples[key], key, samples, ratio)
        if not len(above.units):
            continue
        yield Measure(
            *key._replace(metric=ratio.name),
            judged=None,
            queries=draws.count(above.units),
            pairs=len(above.units),
            attributes=0,
            failed=0,
            not_scored=(),
            interval=draws.ratio(above, below),
            better=ratio.better,
        )
