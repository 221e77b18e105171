"""How a saliency map finds a known region of the photograph, in the model's input frame.

Each judge asks another question. :func:`pointing` looks at the highest pixel alone, :func:`iou` at as many pixels as
the region has, :func:`pixel_auc` at the order of all of them. All three know a map by its order alone: there is no
threshold to choose, and the scale of a method's values does not count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from transforms.core.metrics.curves import _finite
from transforms.core.records import Float64


def peak(saliency: Float64) -> tuple[int, int]:
    """Row and column of the highest pixel of ``saliency`` [H, W]; of equal ones the first, row by row."""
    row, column = np.unravel_index(int(np.argmax(_finite(saliency))), saliency.shape)
    return int(row), int(column)


def pointing(saliency: Float64, region: NDArray[np.bool_], tolerance: float = 0.0) -> bool:
    """Whether the :func:`peak` of ``saliency`` [H, W] lies in ``region`` bool [H, W], or close to it.

    That is the pointing game: J. Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018 (ECCV
    2016). Close is where the Euclidean distance of the peak from some pixel of the region, centre to centre, is at most
    ``tolerance`` pixels. The paper allows 15 pixels of the original image; here they are pixels of the frame.
    ValueError where the region has no pixel: such images are left out of the game.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}; a finite number of pixels, 0 or more, is needed")
    values = _with_region(saliency, region)
    row, column = peak(values)
    rows, columns = np.nonzero(region)
    nearest = int(((rows - row) ** 2 + (columns - column) ** 2).min())
    return math.sqrt(nearest) <= tolerance


def iou(saliency: Float64, region: NDArray[np.bool_]) -> float:
    """Intersection over union of ``region`` bool [H, W] and the k most salient pixels, k being the region's number.

    In [0, 1]; 1 where these are the region's own. As both have k pixels, no map gains by being large or small. Of equal
    pixels the first, row by row, as in :func:`transforms.core.metrics.curves.insertion`: a constant map marks the first
    k. ValueError where the region has no pixel. A region of all pixels tells no map from another: 1.
    """
    values = _with_region(saliency, region)
    count = int(region.sum())
    highest = np.argsort(-values.ravel(), kind="stable")[:count]
    both = int(region.ravel()[highest].sum())
    return both / (2 * count - both)


def pixel_auc(saliency: Float64, region: NDArray[np.bool_]) -> float:
    """The chance that a pixel inside ``region`` bool [H, W] ranks above one outside, ties counting half.

    That is the area under the ROC curve of the map as a classifier of the region's pixels: 1 where all inside are
    above all outside, 0.5 for a constant map. ValueError where ``region`` has no pixel inside, or none outside.
    """
    from scipy.stats import rankdata  # as in transforms.core.metrics.curves.map_agreement

    inside = int(region.sum())
    outside = region.size - inside
    if region.shape != saliency.shape or not inside or not outside:
        raise ValueError(
            f"a region of the map's shape {saliency.shape} with pixels inside and outside is needed; "
            f"got {region.shape} with {inside} inside and {outside} outside"
        )
    ranks = rankdata(_finite(saliency).ravel())
    above: float = ranks[region.ravel()].sum() - inside * (inside + 1) / 2
    return float(above / (inside * outside))


def _with_region(saliency: Float64, region: NDArray[np.bool_]) -> Float64:
    """The finite map, after a check that ``region`` is one of its pixels and not empty."""
    if saliency.ndim != 2 or region.shape != saliency.shape or region.dtype != np.bool_ or not region.any():
        raise ValueError(
            f"a map [H, W] and a region of its shape with pixels inside are needed; got {saliency.shape} and "
            f"{region.dtype} {region.shape} with {np.count_nonzero(region)} inside"
        )
    return _finite(saliency)
