"""Which explanations stand out from shuffled pairs: thresholds from all of a run's, then a verdict for each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms import tables
from transforms.core.nulls import Statistic, Threshold, calibrate, judge
from transforms.core.types import content_id
from transforms.explain_image import Chance

MOST = 20_000
"""Shuffled pairs that a threshold is calibrated on; of more, those that come first by a hash."""

Thresholds = Mapping[tuple[str, str], Mapping[Statistic, Threshold]]
"""By method and side."""


@dataclass(eq=False)
class JudgeExplanations(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of rows of the table explanations and ``(image's sha256, Chance)``.

    Outputs: ``rows`` with ``explained`` and ``unexplained_reason``, and ``thresholds``, one element, as the table runs
    holds them.
    """

    false_alarm_rate: float

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        rows, chances = inputs
        rate = self.false_alarm_rate
        thresholds = (
            chances
            | "Values" >> beam.FlatMapTuple(_values)
            | "FirstOf" >> beam.combiners.Top.PerKey(MOST, reverse=True)
            | "Calibrate"
            >> beam.MapTuple(lambda key, first: (key, calibrate(key[2], [one[1:] for one in first], rate)))
            | "Thresholds" >> beam.combiners.ToDict()
        )
        nested = thresholds | "ByMethod" >> beam.Map(by_method)
        judged = rows | "Judge" >> beam.Map(judged_row, pvalue.AsSingleton(nested))
        return {"rows": judged, "thresholds": thresholds | "AsRows" >> beam.Map(threshold_rows)}


def _values(sha256: str, chance: Chance) -> Iterator[tuple[tuple[str, str, Statistic], tuple[str, str, float]]]:
    """Each value with a hash of where it comes from: which are taken must not depend on how they were grouped."""
    for place, value in enumerate(chance.values):
        key = chance.method, chance.side, chance.statistic
        yield key, (content_id(sha256, str(place), letter="", digits=16), sha256, value)


def by_method(thresholds: Mapping[tuple[str, str, Statistic], Threshold]) -> Thresholds:
    """``(method, side, statistic)`` to threshold, statistics within method and side."""
    nested: dict[tuple[str, str], dict[Statistic, Threshold]] = {}
    for (method, side, statistic), threshold in thresholds.items():
        nested.setdefault((method, side), {})[statistic] = threshold
    return nested


def judged_row(row: tables.Row, thresholds: Thresholds) -> tables.Row:
    """``row`` with the verdict on its explanation."""
    top = row["top"]
    explained, reason = judge(
        reliability=row["map_reliability"],
        null_share=row["null_share"],
        score=top[0]["score"] if top else None,
        elsewhere=row["unexplained_reason"] == tables.ELSEWHERE,
        thresholds=thresholds.get((row["method"], row["side"]), {}),
    )
    return {**row, "explained": explained, "unexplained_reason": reason}


def threshold_rows(thresholds: Mapping[tuple[str, str, Statistic], Threshold]) -> list[dict[str, Any]]:
    """The thresholds as the table runs holds them, in a fixed order."""
    rows: Iterable[tuple[tuple[str, str, Statistic], Threshold]] = sorted(thresholds.items(), key=lambda item: item[0])
    return [
        {
            "method": method,
            "side": side,
            "statistic": statistic,
            "threshold": threshold.value,
            "false_alarm_rate": threshold.false_alarm_rate,
            "shuffled_pairs": threshold.shuffled,
        }
        for (method, side, statistic), threshold in rows
    ]
