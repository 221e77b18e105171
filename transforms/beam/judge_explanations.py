"""Which explanations stand out from shuffled pairs: thresholds from all of a run's, then a verdict for each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from transforms.beam.typed import PCollection, Step, first_per_key, flat_map, map_each, map_with, singleton, to_dict
from transforms.core.statistics.verdict import Statistic, Threshold, calibrate
from transforms.explaining.null_statistics import NullStatistic
from transforms.explaining.verdicts import MOST, Thresholds, by_method, judged_row, shuffled_values, threshold_rows
from transforms.tables.cells import TableRow

ThresholdKey = tuple[str, str, Statistic]
"""A method, a side and a statistic."""


class Judged(NamedTuple):
    """``rows`` with ``explained`` and ``unexplained_reason``, and ``thresholds``, one element, as the table runs holds
    them.
    """

    rows: PCollection[TableRow]
    thresholds: PCollection[list[dict[str, Any]]]


@dataclass(frozen=True)
class JudgeExplanations(Step[tuple[PCollection[TableRow], PCollection[tuple[str, NullStatistic]]], Judged]):
    """Applied to rows of the table explanations and ``(image's sha256, NullStatistic)``."""

    false_alarm_rate: float

    def expand(self, inputs: tuple[PCollection[TableRow], PCollection[tuple[str, NullStatistic]]]) -> Judged:
        """Thresholds of all null statistics first, then the rows by them."""
        rows, null_statistics = inputs
        thresholds = (
            null_statistics
            | "Values"
            >> flat_map(tuple[str, NullStatistic], tuple[tuple[str, str, Statistic], tuple[str, str, float]], _values)
            | "FirstOf" >> first_per_key(tuple[str, str, Statistic], tuple[str, str, float], MOST)
            | "Calibrate"
            >> map_each(
                tuple[tuple[str, str, Statistic], list[tuple[str, str, float]]],
                tuple[tuple[str, str, Statistic], Threshold],
                self._threshold,
            )
            | "Thresholds" >> to_dict(dict[tuple[str, str, Statistic], Threshold])
        )
        nested = thresholds | "ByMethod" >> map_each(
            dict[tuple[str, str, Statistic], Threshold], dict[tuple[str, str], dict[Statistic, Threshold]], by_method
        )
        judged = rows | "Judge" >> map_with(TableRow, TableRow, _judged, singleton(nested))
        as_rows = thresholds | "AsRows" >> map_each(
            dict[tuple[str, str, Statistic], Threshold], list[dict[str, Any]], threshold_rows
        )
        return Judged(judged, as_rows)

    def _threshold(self, group: tuple[ThresholdKey, list[tuple[str, str, float]]]) -> tuple[ThresholdKey, Threshold]:
        key, first = group
        return key, calibrate(key[2], [one[1:] for one in first], self.false_alarm_rate)


def _values(element: tuple[str, NullStatistic]) -> Iterator[tuple[ThresholdKey, tuple[str, str, float]]]:
    return shuffled_values(*element)


def _judged(row: TableRow, thresholds: Thresholds) -> TableRow:
    return replace(row, row=judged_row(row.row, thresholds))
