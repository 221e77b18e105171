"""Which explanations stand out from shuffled pairs: thresholds from all of a run's, then a verdict for each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transforms import tables
from transforms.core.records import content_id
from transforms.core.statistics.verdict import Statistic, Threshold, judge
from transforms.explaining.null_statistics import NullStatistic

MOST = 20_000
"""Shuffled pairs that a threshold is calibrated on; of more, those that come first by a hash."""


Thresholds = Mapping[tuple[str, str], Mapping[Statistic, Threshold]]
"""By method and side."""


def shuffled_values(
    sha256: str, null_statistic: NullStatistic
) -> Iterator[tuple[tuple[str, str, Statistic], tuple[str, str, float]]]:
    """Each value with a hash of where it comes from: which are taken must not depend on how they were grouped."""
    for place, value in enumerate(null_statistic.values):
        key = null_statistic.method, null_statistic.side, null_statistic.statistic
        yield key, (content_id(sha256, str(place), letter="", digits=16), sha256, value)


def by_method(
    thresholds: Mapping[tuple[str, str, Statistic], Threshold],
) -> dict[tuple[str, str], dict[Statistic, Threshold]]:
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
        elsewhere=row["unexplained_reason"] == tables.EVIDENCE_ELSEWHERE,
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
