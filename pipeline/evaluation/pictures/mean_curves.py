"""The mean insertion and deletion curves of an evaluation, from the rows of its table."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.summary.samples import explained_product
from transforms.core.metrics.curves import curve
from transforms.core.metrics.metric import CurveMetric
from transforms.core.metrics.registry import of_kind
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval, means_by_query
from transforms.tables import Row

DRAWN = {metric.name: metric for metric in of_kind(CurveMetric) if metric.keeps_curve}
"""The metrics whose rows have curves, by name."""


class CurveKey(NamedTuple):
    """What has one curve. ``metric`` is one whose rows have curves."""

    metric: str
    method: str
    control: bool
    side: str | None
    fill: str | None


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """The mean of the pairs' normalised curves, with the pointwise 95 % interval over queries.

    ``mean``, ``low`` and ``high`` are float64 [T] in [0, 1], at T equally spaced shares of the pixels; bounds are NaN
    with one query. ``area`` is that under the mean, so the mean of the pairs' areas. ``map``: which was measured.
    """

    mean: Float64 = field(repr=False)
    low: Float64 = field(repr=False)
    high: Float64 = field(repr=False)
    area: Interval
    map: str | None
    pairs: int
    queries: int


class _Kept(NamedTuple):
    """The pairs of one line and map: ids, weights, and curves one after the other, T float32 each.

    The first id is that of the explained product, over which is resampled.
    """

    ids: list[tuple[str, str]]
    weights: array[float]
    values: array[float]


def curves(rows: Iterable[Row], *, resamples: int = 10_000, seed: int = 0) -> dict[CurveKey, MeanCurve]:
    """The mean curves of ``rows``, in whose order nothing depends; rows without a curve are passed over.

    Each pair's curve is normalised by itself (:func:`transforms.core.metrics.curves.curve`). Where both the stored and
    the full map of a method were measured, its line is that of the stored: the map that readers of the table have.
    ValueError where curves of one line differ in their number of points.
    """
    kept: dict[tuple[CurveKey, str | None], _Kept] = {}
    for row in rows:
        scores = row.get("curve")
        if row["metric"] not in DRAWN or scores is None or row["value"] is None:
            continue
        line = CurveKey(row["metric"], row["method"] or "", bool(row["control"]), row.get("side"), row.get("fill"))
        one = kept.setdefault((line, row.get("map")), _Kept([], array("d"), array("f")))
        if len(scores) * len(one.ids) != len(one.values):
            points = len(one.values) // len(one.ids)
            raise ValueError(f"curves of one line have one number of points, got {points} and then {len(scores)}")
        one.ids.append((explained_product(row), row.get("pair_id") or ""))
        one.weights.append(1.0 if row.get("weight") is None else row["weight"])
        one.values.extend(curve(np.asarray(scores, np.float64)).normalised)
    chosen: dict[CurveKey, str | None] = {}
    for line, map_ in sorted(kept, key=lambda key: (key[1] == "stored", key[1] or "")):
        chosen[line] = map_
    order = sorted(chosen, key=lambda line: (line[:3], line.side or "", line.fill or ""))
    return {line: _curve(kept[line, chosen[line]], chosen[line], resamples, seed) for line in order}


def _curve(kept: _Kept, map_: str | None, resamples: int, seed: int) -> MeanCurve:
    pairs = len(kept.ids)
    values, weights = np.array(kept.values, np.float64).reshape(pairs, -1), np.array(kept.weights)
    order = sorted(range(pairs), key=kept.ids.__getitem__)
    queries = [kept.ids[at][0] for at in order]
    areas = np.trapezoid(values, dx=1 / (values.shape[1] - 1), axis=1)
    # the area beside the points, so that it comes of the same resamples
    together = np.column_stack([values, areas])[order]
    found = means_by_query(together, queries, weights=weights[order], resamples=resamples, seed=seed)
    area = Interval(*(float(one[-1]) for one in found))
    mean, low, high = (one[:-1] for one in found)
    return MeanCurve(mean, low, high, area, map_, pairs, len(set(queries)))
