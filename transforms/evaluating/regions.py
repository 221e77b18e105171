"""How an image's maps find a region that the catalogue shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from transforms import tables
from transforms.core.errors import NoRegion
from transforms.core.metrics.regions import iou, pixel_auc, pointing
from transforms.core.records import Float64, LoadFailure
from transforms.evaluating.measured_image import MeasuredImage, attempt
from transforms.evaluating.settings import REGIONS


def region_rows(image: MeasuredImage) -> Iterator[tables.Row]:
    """Rows of pointing game, IoU and pixel AUC for every candidate."""
    regions = {one.regions: _region(image, one.regions) for one in image.explained}
    region_of = {(one.target.pair.pair_id, one.target.side): regions[one.regions] for one in image.explained}
    for candidate in image.candidates:
        for target in candidate.of:
            region = region_of[target.pair.pair_id, target.side]
            for metric in REGIONS:
                if metric not in image.settings.measures:
                    continue
                if isinstance(candidate.map, LoadFailure):
                    yield image.row(target, metric, candidate.map_source, candidate.map)
                elif isinstance(region, LoadFailure):
                    yield image.row(target, metric, candidate.map_source, region)
                else:
                    value = _found(image, metric, candidate.map, region)
                    count = int(region.sum())
                    yield image.row(target, metric, candidate.map_source, value, count=count)


def _found(image: MeasuredImage, metric: str, saliency: Float64, region: NDArray[np.bool_]) -> float:
    if metric == "pointing":
        return float(pointing(saliency, region, image.settings.tolerance))
    return iou(saliency, region) if metric == "iou" else pixel_auc(saliency, region)


def _region(image: MeasuredImage, address: str | None) -> NDArray[np.bool_] | LoadFailure:
    reader = image.regions
    if address is None or reader is None:
        return LoadFailure.of(NoRegion("the catalogue gives no label image for this product"))

    def read() -> NDArray[np.bool_]:
        region = reader.region(address, image.image.frame, image.settings.labels)
        if region.all() or not region.any():
            raise NoRegion(f"the region covers {'all' if region.any() else 'none'} of what the model sees")
        return region

    return attempt(read)
