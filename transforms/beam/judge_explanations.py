"""Which explanations stand out from shuffled pairs: thresholds from all of a run's, then a verdict for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.core.statistics.verdict import calibrate
from transforms.explaining.verdicts import MOST, _values, by_method, judged_row, threshold_rows


@dataclass(eq=False)
class JudgeExplanations(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of rows of the table explanations and ``(image's sha256, Chance)``.

    Outputs: ``rows`` with ``explained`` and ``unexplained_reason``, and ``thresholds``, one element, as the table runs
    holds them.
    """

    false_alarm_rate: float

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        rows, null_statistics = inputs
        rate = self.false_alarm_rate
        thresholds = (
            null_statistics
            | "Values" >> beam.FlatMapTuple(_values)
            | "FirstOf" >> beam.combiners.Top.PerKey(MOST, reverse=True)
            | "Calibrate"
            >> beam.MapTuple(lambda key, first: (key, calibrate(key[2], [one[1:] for one in first], rate)))
            | "Thresholds" >> beam.combiners.ToDict()
        )
        nested = thresholds | "ByMethod" >> beam.Map(by_method)
        judged = rows | "Judge" >> beam.Map(judged_row, pvalue.AsSingleton(nested))
        return {"rows": judged, "thresholds": thresholds | "AsRows" >> beam.Map(threshold_rows)}
