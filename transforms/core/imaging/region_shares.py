"""How much of a map's evidence for the match lies in each region of the photograph, beside how large the region is.

The share of evidence in a region says little without the region's share of the area: a map that knows nothing has
equal ones. Nothing is chosen here, no threshold and no number of pixels; what counts is the positive part of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.imaging.regions import OUTSIDE
from transforms.core.metrics.curves import _finite
from transforms.core.metrics.regions import peak
from transforms.core.records import Float64

NO_REGION = "(elsewhere)"
"""The name of all pixels that belong to no region; no region is called so."""
BACKGROUND, FOREGROUND = "background", "foreground"


@dataclass(frozen=True, slots=True)
class RegionShare:
    """What a map says of one region. ``share`` and ``area`` are from 0 to 1.

    ``share`` is that of the map's positive part, 0 where the map has none; ``area`` is that of the frame's pixels;
    ``peak`` is whether the map's highest pixel, of equal ones the first, lies in the region.
    """

    name: str
    share: float
    area: float
    peak: bool


def shares(saliency: Float64, labels: NDArray[np.integer], names: Sequence[str]) -> tuple[RegionShare, ...]:
    """The share of ``saliency`` float64 [H, W] in each of the regions ``names``, in their order.

    ``labels`` [H, W] are places in ``names``, or ``OUTSIDE`` (-1) for a pixel of no region. Regions are disjoint.
    One without a pixel is left out; where pixels are of no region, they follow last as ``NO_REGION``. So the areas sum
    to 1, the shares too unless the map has no positive part, and exactly one region has the peak.

    ValueError for a map that is not finite, labels of another shape, and labels that name nothing.
    """
    if saliency.ndim != 2 or not saliency.size or labels.shape != saliency.shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"a map [H, W] and whole numbers of its shape are needed; got {saliency.shape} and "
            f"{labels.dtype} {labels.shape}"
        )
    if labels.min() < OUTSIDE or labels.max() >= len(names):
        raise ValueError(f"labels are from {OUTSIDE} to {len(names) - 1}; got {labels.min()} to {labels.max()}")
    evidence = np.maximum(_finite(saliency), 0)
    if (highest := evidence.max()) > 0:
        evidence = evidence / highest  # first: the sum of values near the largest float would be infinite
    places = labels.astype(np.int64).ravel()
    places[places == OUTSIDE] = len(names)
    pixels = np.bincount(places, minlength=len(names) + 1)
    found = np.bincount(places, weights=evidence.ravel(), minlength=len(names) + 1)
    total = found.sum() or 1.0
    row, column = peak(saliency)
    peaked = places[row * saliency.shape[1] + column]
    return tuple(
        RegionShare(name, float(found[at] / total), float(pixels[at] / saliency.size), bool(at == peaked))
        for at, name in enumerate((*names, NO_REGION))
        if pixels[at]
    )


def background_labels(background: NDArray[np.bool_]) -> tuple[NDArray[np.int64], tuple[str, str]]:
    """Labels int64 [H, W] and their names where no regions are given: what is background, and all the rest.

    ``background`` bool [H, W] is that of :func:`transforms.core.imaging.maps.background_of`: pixels whose channels are
    all within ``BACKGROUND_TOLERANCE`` of the median colour of the frame's border. It knows of colours alone, so a
    white shirt before a white wall is background, and what is padded may be.
    """
    return np.where(background, 0, 1), (BACKGROUND, FOREGROUND)
