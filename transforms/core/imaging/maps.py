"""Numbers that describe a saliency map, and its area average at another size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.imaging.fill import border_color
from transforms.core.records import Float32, Float64, Image

BORDER = 1 / 8
"""The border is what lies within this part of a side of the frame's edge: one cell of the default RISE grid."""
BACKGROUND_TOLERANCE = 24
"""A pixel is background where no channel is further than this from the border's median colour, of 255."""


def area_average(maps: Float32 | Float64, size: tuple[int, int]) -> Float64:
    """``maps`` [..., H, W] averaged over the cells of a grid of ``size`` (h, w): float64 [..., h, w].

    Exact also where h does not divide H: a pixel that lies in two cells counts in each by its part. The mean is kept.
    """
    rows, columns = _area_weights(maps.shape[-2], size[0]), _area_weights(maps.shape[-1], size[1])
    averaged: Float64 = rows @ maps.astype(np.float64) @ columns.T
    return averaged


@dataclass(frozen=True, slots=True)
class MapStatistics:
    """Where a map's evidence for the match lies. Shares are of the positive part; 0 where a map has none.

    ``peak_row`` and ``peak_column`` are the first highest pixel in the model's frame. ``border_share`` is the share of
    the evidence within one eighth of a side of the frame's edge, ``border_area`` the share of the area that is; a map
    without structure has equal ones. ``background_share`` and ``background_area`` are the same for pixels close to the
    image's border colour. ``entropy`` is 0 for one pixel and 1 for evenly spread evidence.
    """

    peak_row: int
    peak_column: int
    border_share: float
    border_area: float
    background_share: float
    background_area: float
    entropy: float


def map_statistics(saliency: Float64, background: NDArray[np.bool_]) -> MapStatistics:
    """Statistics of ``saliency`` [H, W], with ``background`` bool [H, W] as from :func:`background_of`."""
    peak_row, peak_column = np.unravel_index(int(np.argmax(saliency)), saliency.shape)
    evidence = np.maximum(saliency, 0)
    total = float(evidence.sum())
    border = _border(saliency.shape[0], saliency.shape[1])
    share = evidence / total if total > 0 else evidence
    positive = share[share > 0]
    return MapStatistics(
        peak_row=int(peak_row),
        peak_column=int(peak_column),
        border_share=float(share[border].sum()),
        border_area=float(border.mean()),
        background_share=float(share[background].sum()),
        background_area=float(background.mean()),
        entropy=float(-(positive * np.log(positive)).sum() / np.log(saliency.size)) if saliency.size > 1 else 0.0,
    )


def correlations(left: Float64, right: Float64) -> Float64:
    """Pearson's correlation [R] of each map of ``left`` [R, H, W] with that of ``right``, of its shape or one for all.

    Two constant maps agree, 1; a constant map and another do not, 0.
    """
    rows, others = _centred(left), _centred(right)
    length = np.sqrt(np.square(rows).sum(axis=1) * np.square(others).sum(axis=1))
    both_constant = np.asarray(~rows.any(axis=1) & ~others.any(axis=1))
    inner = (rows * others).sum(axis=1)
    found: Float64 = np.divide(inner, length, out=both_constant.astype(np.float64), where=length > 0)
    return found


def is_constant(maps: Float64) -> NDArray[np.bool_]:
    """Whether each of ``maps`` [R, H, W] has no structure beyond a mean's rounding: bool [R]."""
    rows = maps.reshape(len(maps), -1)
    constant: NDArray[np.bool_] = np.ptp(rows, axis=1) <= 1e-12 * np.abs(rows).max(axis=1)
    return constant


def shared_variance(maps: Float64, other: Float64) -> Float64:
    """The share [R] of the variance of each of ``maps`` [R, H, W] that subtracting ``other`` [1, H, W] takes away.

    1 where they are equal up to a constant, 0 for an ``other`` without structure, negative where it does not fit.
    Unlike a correlation it knows how large both are. 0 for a constant map.
    """
    rows, less = _centred(maps), _centred(maps - other)
    total = np.square(rows).sum(axis=1)
    left: Float64 = np.divide(np.square(less).sum(axis=1), total, out=np.ones_like(total), where=total > 0)
    return 1 - left


def _centred(maps: Float64) -> Float64:
    """``maps`` [R, H, W] as rows [R, P] less their means; exactly 0 where a map is constant."""
    rows = maps.reshape(len(maps), -1)
    centred: Float64 = rows - rows.mean(axis=1, keepdims=True)
    centred[is_constant(maps)] = 0
    return centred


def background_of(image: Image) -> NDArray[np.bool_]:
    """Which pixels of ``image`` uint8 [H, W, 3] are close to its border colour: bool [H, W]."""
    distance = np.abs(image.astype(np.float32) - border_color(image)).max(axis=-1)
    close: NDArray[np.bool_] = distance <= BACKGROUND_TOLERANCE
    return close


def _border(height: int, width: int) -> NDArray[np.bool_]:
    rows = np.minimum(np.arange(height), np.arange(height)[::-1]) + 0.5
    columns = np.minimum(np.arange(width), np.arange(width)[::-1]) + 0.5
    border: NDArray[np.bool_] = (rows[:, None] < height * BORDER) | (columns[None] < width * BORDER)
    return border


def _area_weights(side: int, cells: int) -> Float64:
    """Weights [cells, side] of an exact area average along one axis; rows sum to 1."""
    edges = np.arange(cells + 1) * side / cells
    pixels = np.arange(side)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    weights: Float64 = np.maximum(high - low, 0) * cells / side
    return weights
