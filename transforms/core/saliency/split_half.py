"""Two halves of a design's masks, whose maps say how far a map still depends on what was drawn.

By the Spearman-Brown formula the map of both halves together correlates sqrt(2 r / (1 + r)) with the map of infinitely
many masks, where the halves correlate r: halves of 0.9 stand for 0.973.
"""

from __future__ import annotations

import numpy as np

from transforms.core.imaging.maps import correlations
from transforms.core.records import Float64
from transforms.core.saliency.contract import SplittableDesign

FEWEST = 2
"""Masks without which there are no two halves."""
CHUNK = 16
"""References whose halves are compared together; it bounds memory and changes no result."""


class SplitHalfReliability:
    """The first ``n`` masks of ``design``, every other block to each half; ValueError for fewer than ``FEWEST``.

    Where they are less than two blocks, every other run of half as many.
    """

    def __init__(self, design: SplittableDesign, n: int) -> None:
        if n < FEWEST:
            raise ValueError(f"two halves need at least {FEWEST} masks, got {n}")
        half = np.arange(n) // min(design.block, n // 2) % 2
        self._rows = [np.flatnonzero(half == which) for which in (0, 1)]
        self._designs = [design.subset(rows) for rows in self._rows]

    def agreement(self, scores: Float64) -> Float64:
        """The :func:`correlations` [R] of the two halves' maps from ``scores`` [R, n]."""
        found = [self._agreement(scores[start : start + CHUNK]) for start in range(0, len(scores), CHUNK)]
        return np.concatenate(found) if found else np.zeros(0)

    def _agreement(self, scores: Float64) -> Float64:
        maps = []
        for rows, design in zip(self._rows, self._designs, strict=True):
            of_half = np.ascontiguousarray(scores[:, rows])
            maps.append(design.estimate(of_half, of_half[:, 0]))
        return correlations(maps[0], maps[1])

    def agreement_by_chance(self, scores: Float64, seed: int) -> Float64:
        """:meth:`agreement` [R] where scores and masks belong together by chance: what a map of nothing reaches.

        Each reference's scores are dealt to the masks anew, by ``seed`` and its place.
        """
        rng = np.random.default_rng(seed)
        dealt = np.stack([score[rng.permutation(len(score))] for score in scores])
        return self.agreement(dealt)
