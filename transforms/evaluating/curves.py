"""Insertion and deletion of an image's maps; the masked images are made in the network's graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from transforms import tables
from transforms.core.imaging.fill import make_fill
from transforms.core.metrics.curves import PixelSteps, curve
from transforms.core.metrics.metric import CurveMetric
from transforms.core.metrics.registry import of_kind
from transforms.core.records import Float32, LoadFailure
from transforms.evaluating.candidates import Candidate
from transforms.evaluating.measured_image import MeasuredImage
from transforms.evaluating.outcomes import attempt
from transforms.serving.embed import finite


def curve_rows(image: MeasuredImage, candidates: tuple[Candidate, ...]) -> Iterator[tables.Row]:
    """Rows of the metrics of curves that are asked for, for every candidate and fill."""
    asked = sorted(of_kind(CurveMetric, image.settings.measures), key=lambda metric: metric.request)
    for fill in image.settings.fills:
        for candidate in candidates:
            for _, metrics in groupby(asked, key=lambda metric: metric.request):
                yield from _curve(image, list(metrics), fill, candidate)


def _curve(
    image: MeasuredImage, metrics: Sequence[CurveMetric], fill: str, candidate: Candidate
) -> Iterator[tables.Row]:
    """Rows of ``metrics`` of one design.

    The passes depend on the map and not on the reference: one set of them serves all pairs of a control.
    """
    if isinstance(candidate.map, LoadFailure):
        embeddings: Float32 | LoadFailure = candidate.map
    else:
        embeddings = _embedded(image, metrics[0].design(candidate.map), fill)
    for target in candidate.of:
        if isinstance(embeddings, LoadFailure):
            for metric in metrics:
                yield image.row(target, metric.name, candidate.map_source, embeddings, fill=fill)
            continue
        found = curve(image.scores(target, embeddings))
        for metric in metrics:
            more: dict[str, Any] = {"curve": found.scores.astype(np.float32)} if metric.keeps_curve else {}
            more |= {"count": len(found.scores), "fill": fill}
            yield image.row(target, metric.name, candidate.map_source, metric.area(found), **more)


def _embedded(image: MeasuredImage, design: PixelSteps, fill: str) -> Float32 | LoadFailure:
    """Embeddings of the image's masked versions, or why there are none."""
    colour = make_fill(fill, image.image.pixels, image.models.bundle.fill_mean)
    similarity = image.models.similarity
    image.passes.count += design.n
    return attempt(
        lambda: finite(similarity.perturbed(image.image.pixels, similarity.bank(design, hold=False), colour))
    )
