"""Insertion and deletion of an image's maps; the masked images are made in the network's graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from transforms import tables
from transforms.core.imaging.fill import make_fill
from transforms.core.metrics.curves import curve, deletion, insertion
from transforms.core.records import Float32, LoadFailure
from transforms.evaluating.measured_image import Candidate, MeasuredImage, Outcome, attempt
from transforms.evaluating.settings import CURVES
from transforms.serving.embed import finite


def curve_rows(image: MeasuredImage) -> Iterator[tables.Row]:
    """Rows of insertion and deletion, raw and normalised, for every candidate and fill."""
    for fill in image.settings.fills:
        for candidate in image.candidates:
            for metric in CURVES:
                if metric in image.settings.measures:
                    yield from _curve(image, metric, fill, candidate)


def _curve(image: MeasuredImage, metric: str, fill: str, candidate: Candidate) -> Iterator[tables.Row]:
    """The passes depend on the map and not on the reference: one set of them serves all pairs of a control."""
    embeddings = _embedded(image, metric, fill, candidate.map)
    for target in candidate.of:
        if isinstance(embeddings, LoadFailure):
            for name in (metric, f"{metric}_raw"):
                yield image.row(target, name, candidate.map_source, embeddings, fill=fill)
            continue
        found = curve(image.scores(target, embeddings))
        scores, count = found.scores.astype(np.float32), len(found.scores)
        yield image.row(target, metric, candidate.map_source, found.area, curve=scores, count=count, fill=fill)
        yield image.row(target, f"{metric}_raw", candidate.map_source, found.raw_area, count=count, fill=fill)


def _embedded(image: MeasuredImage, metric: str, fill: str, saliency: Outcome) -> Float32 | LoadFailure:
    """Embeddings of the image's masked versions, or why there are none."""
    if isinstance(saliency, LoadFailure):
        return saliency
    design = insertion(saliency) if metric == "insertion" else deletion(saliency)
    colour = make_fill(fill, image.image.pixels, image.models.bundle.fill_mean)
    similarity = image.models.similarity
    image.passes.count += design.n
    return attempt(
        lambda: finite(similarity.perturbed(image.image.pixels, similarity.bank(design, hold=False), colour))
    )
