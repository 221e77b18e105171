"""How good a saliency map is: insertion and deletion, and agreement of two maps.

**Insertion and deletion** are those of V. Petsiuk, A. Das, K. Saenko, "RISE", BMVC 2018, section 4.1, in the form in
which SANE (Plummer et al., ECCV 2020, section 4.2) uses them on image similarity. Pixels are taken in the order of
their saliency, the highest first. Insertion shows the first t of them on the fill, deletion replaces them by it; t goes
from 0 to all in 100 equal steps, and each of the 101 images is compared with the reference. The curve of similarities
is normalised to [0, 1], since a similarity, unlike a class's probability, has no natural range, and its area is taken::

    area = trapezoid(c), c_k = (f_k - min f) / (max f - min f), k = 0 … 100

A good map has a large insertion area and a small deletion area. Both are needed: deletion is not insertion read
backwards, since what deletion leaves is the *least* salient pixels.

What is made here are masks; the images are made in the network's graph, and a white fill is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float32, Float64

STEPS = 100
"""Steps from no pixel to all, as in the paper's code; one masked image more than steps."""


@dataclass(frozen=True, eq=False)
class PixelSteps:
    """The masks of insertion or deletion for one map, :class:`~transforms.core.saliency.contract.Masks` of a mask bank.

    Mask k concerns the first ``round(k P / steps)`` pixels of the order, halves rounded up: insertion keeps (1) only
    them, deletion all but them. ``rank`` int32 [H, W] is each pixel's place in the order, from 0. No [N, H, W] is held.
    """

    rank: NDArray[np.int32] = field(repr=False)
    inserts: bool
    steps: int = STEPS
    key: None = None
    """None: the masks are this map's own and no bank keeps them."""

    @property
    def n(self) -> int:
        """The number of masks, ``steps + 1``: both ends are among them."""
        return self.steps + 1

    @property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""
        return (self.rank.shape[0], self.rank.shape[1])

    def masks(self, start: int, stop: int) -> Float32:
        """Masks ``start`` to ``stop``, float32 [stop - start, H, W], of 0 and 1."""
        step = np.arange(self.n)[start:stop]
        counts = ((2 * step * self.rank.size + self.steps) // (2 * self.steps)).astype(np.int32)
        masks = np.empty((len(counts), *self.size), np.float32)
        # straight into the floats, and as int32 like the ranks: a [n, H, W] of booleans or of int64 takes twice as long
        compare = np.less if self.inserts else np.greater_equal
        compare(self.rank, counts[:, None, None], out=masks)
        return masks


def insertion(saliency: Float64, steps: int = STEPS) -> PixelSteps:
    """The masks that show the most salient pixels of ``saliency`` [H, W] first; of equal ones the first, row by row."""
    return PixelSteps(_ranks(saliency, steps), inserts=True, steps=steps)


def deletion(saliency: Float64, steps: int = STEPS) -> PixelSteps:
    """The masks that hide the most salient pixels of ``saliency`` [H, W] first; of equal ones the first, row by row."""
    return PixelSteps(_ranks(saliency, steps), inserts=False, steps=steps)


@dataclass(frozen=True, eq=False)
class Curve:
    """An insertion or deletion curve over equal steps from 0 to 1 of the pixels, and its areas.

    ``scores`` float64 [T] are the similarities, ``normalised`` [T] the same in [0, 1]; ``area`` in [0, 1] is that of
    ``normalised``, ``raw_area`` that of ``scores``.
    """

    scores: Float64 = field(repr=False)
    normalised: Float64 = field(repr=False)
    area: float
    raw_area: float


def curve(scores: Float64) -> Curve:
    """The curve of one pair's ``scores`` [T], T >= 2, in the order of the masks.

    A constant curve, as of a query that is the fill all over, is 0.5 everywhere when normalised, area 0.5: no order of
    its pixels is better than another, and 0.5 favours no map, where 0 would be deletion's best and insertion's worst.
    ValueError where a score is not finite.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"a curve needs at least two finite scores [T] of one pair, got {scores!r}")
    low, high = values.min(), values.max()
    normalised = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    return Curve(values, normalised, area=_trapezoid(normalised), raw_area=_trapezoid(values))


@dataclass(frozen=True, slots=True)
class MapAgreement:
    """Two maps' correlation over pixels, in [-1, 1]: ``pearson`` of the values, ``spearman`` of their ranks."""

    pearson: float
    spearman: float


def map_agreement(one: Float64, other: Float64) -> MapAgreement:
    """Pearson's and Spearman's correlation of two maps of one shape.

    Equal values share their mean rank. A constant map says nothing of where, so it agrees with no map, itself included:
    0.
    """
    from scipy.stats import rankdata  # takes a second to import, which --help of the registry's names should not cost

    if one.shape != other.shape or not one.size:
        raise ValueError(f"two maps agree or not where both have the same pixels, got {one.shape} and {other.shape}")
    flat = _finite(one).ravel(), _finite(other).ravel()
    return MapAgreement(_pearson(*flat), _pearson(rankdata(flat[0]), rankdata(flat[1])))


def _ranks(saliency: Float64, steps: int) -> NDArray[np.int32]:
    """Each pixel's place, int32 [H, W], in the order of falling saliency."""
    if saliency.ndim != 2 or not saliency.size or steps < 1:
        raise ValueError(f"expected a map [H, W] and at least one step, got {saliency.shape} and {steps}")
    order = np.argsort(-_finite(saliency).ravel(), kind="stable")
    rank = np.empty(saliency.size, np.int32)
    rank[order] = np.arange(saliency.size, dtype=np.int32)
    return rank.reshape(saliency.shape)


def _finite(saliency: Float64) -> Float64:
    values = np.asarray(saliency, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a saliency map is finite; {np.count_nonzero(~np.isfinite(values))} pixels are not")
    return values


def _pearson(one: Float64, other: Float64) -> float:
    """Pearson's correlation of two vectors; 0 where one is constant."""
    if one.min() == one.max() or other.min() == other.max():
        return 0.0
    lines = []
    for values in (one, other):
        # scaled first: the squares of a map of 1e-200 would vanish
        line = (values - values.mean()) / np.abs(values - values.mean()).max()
        lines.append(line / np.sqrt((line * line).sum()))
    return float(np.clip((lines[0] * lines[1]).sum(), -1, 1))


def _trapezoid(values: Float64) -> float:
    """The area under ``values`` [T] at equal distances over [0, 1]."""
    return float((values[1:] + values[:-1]).sum() / 2 / (len(values) - 1))
