"""The measures of one image's explanations: how well its maps say what the network looks at.

What is measured, with its sources, is described in docs/evaluation.md. A measure that cannot be taken is a row with the
reason, never a missing one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transforms import tables
from transforms.core.types import LoadFailure
from transforms.measure_agreements import agreement_rows
from transforms.measure_curves import curve_rows
from transforms.measure_regions import region_rows
from transforms.measured_image import MeasuredImage, Networks, Passes, Reading, attempt
from transforms.measuring import AGREEMENTS, CURVES, REGIONS, Measuring
from transforms.read_explanations import Explained


def measure(
    address: str,
    explained: Sequence[Explained],
    networks: Networks,
    measuring: Measuring,
    reading: Reading,
    passes: Passes,
) -> Iterator[tables.Row]:
    """The rows of the table metrics for the explanations of the image at ``address``, ``passes`` counted.

    ``explained`` are explanations of one image: of its pairs, by any of the methods.
    """
    image = attempt(lambda: reading.load(address))
    if isinstance(image, LoadFailure):
        yield from _all_failed(explained, measuring, networks, image)
        return
    measured = MeasuredImage(image, tuple(explained), networks, measuring, reading, passes)
    if measuring.asks(*CURVES):
        yield from curve_rows(measured)
    if measuring.asks(*REGIONS):
        yield from region_rows(measured)
    if measuring.asks(*AGREEMENTS):
        yield from agreement_rows(measured)


def _all_failed(
    explained: Sequence[Explained], measuring: Measuring, networks: Networks, failure: LoadFailure
) -> Iterator[tables.Row]:
    """A row for every explanation and measure of an image that cannot be read; its controls would say no more."""
    redrawn = {explainer.method.name for explainer in measuring.seeds}
    for one in explained:
        for metric, more in _asked(measuring):
            if metric != "seeds" or one.method in redrawn:
                yield tables.metric_row(
                    measuring.evaluation_id,
                    metric,
                    one.method,
                    one.task.pair,
                    failure,
                    side=one.task.side,
                    explainer_id=one.explainer_id,
                    model_id=networks.models.bundle.model_id,
                    map=measuring.source,
                    **more,
                )


def _asked(measuring: Measuring) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured of each explanation: the metric, and the columns that tell its rows apart."""
    for metric in CURVES:
        if metric in measuring.measures:
            for fill in measuring.fills:
                yield metric, {"fill": fill}
                yield f"{metric}_raw", {"fill": fill}
    for metric in (*REGIONS, *AGREEMENTS):
        if metric == "sanity" and metric in measuring.measures:
            for stage in measuring.stages:
                yield metric, {"block": stage.block, "depth": stage.depth, "judged": stage.judged}
        elif metric in measuring.measures:
            yield metric, {}
