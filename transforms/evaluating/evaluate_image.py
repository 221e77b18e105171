"""The measures of one image's explanations: how well its maps say what the network looks at.

What is measured, with its sources, is described in docs/evaluation.md. A measure that cannot be taken is a row with the
reason, never a missing one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transforms import tables
from transforms.core.metrics.metric import Metric
from transforms.core.metrics.registry import AGREEMENTS, CURVES, METRICS, REGIONS, requests
from transforms.core.records import EmbeddedImage, LoadFailure
from transforms.evaluating.agreement import agreement_rows
from transforms.evaluating.candidates import candidates
from transforms.evaluating.changed_images import check
from transforms.evaluating.curves import curve_rows
from transforms.evaluating.measured_image import ImageReaders, MeasuredImage, Networks
from transforms.evaluating.outcomes import attempt
from transforms.evaluating.regions import region_rows
from transforms.evaluating.remake_maps import PassCounter
from transforms.evaluating.settings import EvaluationSettings
from transforms.serving.embed import embed, finite
from transforms.serving.load_image import Remembered
from transforms.tables.explained import Explained

BY_IMAGE = (CURVES, REGIONS, AGREEMENTS)
"""The families that are measured here."""


def measure(
    address: str,
    explained: Sequence[Explained],
    networks: Networks,
    settings: EvaluationSettings,
    readers: ImageReaders,
    passes: PassCounter,
) -> Iterator[tables.Row]:
    """The rows of the table metrics for the explanations of the image at ``address``, ``passes`` counted.

    ``explained`` are explanations of one image: of its pairs, by any of the methods.
    """
    load, models = Remembered(readers.load), networks.models
    image = attempt(lambda: load(address))
    if isinstance(image, LoadFailure):
        yield from _failed(explained, image, settings, networks)
        return
    addresses = list(dict.fromkeys(one.target.counterpart for one in explained))
    passes.count += 1 + len(addresses)
    base = attempt(lambda: finite(models.similarity.embed(image.pixels[None])))
    if isinstance(base, LoadFailure):
        yield from _failed(explained, base, settings, networks)
        return
    others = dict(embed(addresses, load, models))
    usable = []
    for one, failure in zip(explained, check(image, base, others, explained, models), strict=True):
        if failure is None:
            usable.append(one)
        else:
            yield from _failed([one], failure, settings, networks)
    if not usable:
        return
    known = {name: other for name, other in others.items() if isinstance(other, EmbeddedImage)}
    measured = MeasuredImage(image, tuple(usable), known, networks, settings, load, readers.regions, passes)
    yield from _rows(measured)


def _rows(image: MeasuredImage) -> Iterator[tables.Row]:
    asks = image.settings.asks
    compared = candidates(image) if asks(*requests(CURVES, REGIONS)) else ()
    if asks(*requests(CURVES)):
        yield from curve_rows(image, compared)
    if asks(*requests(REGIONS)):
        yield from region_rows(image, compared)
    if asks(*requests(AGREEMENTS)):
        yield from agreement_rows(image)


def _failed(
    explained: Sequence[Explained], failure: LoadFailure, settings: EvaluationSettings, networks: Networks
) -> Iterator[tables.Row]:
    """A row for every measure of explanations whose images cannot be used; their controls would say no more."""
    redrawn = {explainer.method.name for explainer in settings.seeds}
    for one in explained:
        for metric, more in _asked(settings, networks):
            if metric != "seeds" or one.method in redrawn:
                yield tables.metric_row(
                    settings.evaluation_id,
                    metric,
                    one.method,
                    one.target.pair,
                    failure,
                    side=one.target.side,
                    explainer_id=one.explainer_id,
                    map=settings.source,
                    **more,
                )


def _asked(settings: EvaluationSettings, networks: Networks) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured of each explanation: the metric, and the columns that tell its rows apart."""
    for metric in METRICS:
        if metric.family in BY_IMAGE and metric.request in settings.measures:
            for columns in _columns(metric, settings, networks):
                yield metric.name, columns


def _columns(metric: Metric, settings: EvaluationSettings, networks: Networks) -> Iterator[dict[str, Any]]:
    own = {"model_id": networks.models.bundle.model_id}
    if metric.family is CURVES:
        yield from ({**own, "fill": fill} for fill in settings.fills)
    elif "cascade" in metric.needs:
        for stage, models in zip(settings.stages, networks.stages, strict=True):
            yield {**stage.columns, "model_id": models.bundle.model_id}
    else:
        yield own
