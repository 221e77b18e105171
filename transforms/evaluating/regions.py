"""How an image's maps find a region that the catalogue shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from transforms import tables
from transforms.core.errors import NoRegion
from transforms.core.metrics.metric import RegionMetric
from transforms.core.metrics.registry import of_kind
from transforms.core.records import LoadFailure, Side
from transforms.core.target import ExplanationTarget
from transforms.evaluating.candidates import Candidate
from transforms.evaluating.measured_image import MeasuredImage
from transforms.evaluating.outcomes import attempt

Region = NDArray[np.bool_] | LoadFailure


def region_rows(image: MeasuredImage, candidates: tuple[Candidate, ...]) -> Iterator[tables.Row]:
    """Rows of the metrics of regions that are asked for, for every candidate."""
    regions = _regions(image)
    for candidate in candidates:
        for target in candidate.of:
            region = regions[target.pair.pair_id, target.side]
            for metric in of_kind(RegionMetric, image.settings.measures):
                yield _row(image, metric, candidate, target, region)


def _row(
    image: MeasuredImage, metric: RegionMetric, candidate: Candidate, target: ExplanationTarget, region: Region
) -> tables.Row:
    if isinstance(candidate.map, LoadFailure):
        return image.row(target, metric.name, candidate.map_source, candidate.map)
    if isinstance(region, LoadFailure):
        return image.row(target, metric.name, candidate.map_source, region)
    value = float(metric.measure(candidate.map, region, image.settings.tolerance))
    return image.row(target, metric.name, candidate.map_source, value, count=int(region.sum()))


def _regions(image: MeasuredImage) -> Mapping[tuple[str, Side], Region]:
    """The region of every pair's explained side; each label image is read once."""
    regions = {address: _region(image, address) for address in dict.fromkeys(one.regions for one in image.explained)}
    return {(one.target.pair.pair_id, one.target.side): regions[one.regions] for one in image.explained}


def _region(image: MeasuredImage, address: str | None) -> Region:
    reader = image.regions
    if address is None or reader is None:
        return LoadFailure.of(NoRegion("the catalogue gives no label image for this product"))

    def read() -> NDArray[np.bool_]:
        region = reader.region(address, image.image.frame, image.settings.labels)
        if region.all() or not region.any():
            raise NoRegion(f"the region covers {'all' if region.any() else 'none'} of what the model sees")
        return region

    return attempt(read)
