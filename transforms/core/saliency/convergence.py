"""When a map has had enough masks: two halves of them give the same map.

The correlation of two independent halves says how far a map still depends on what was drawn. By the Spearman-Brown
formula the map of both halves together correlates sqrt(2 r / (1 + r)) with the map of infinitely many masks, where the
halves correlate r: halves of 0.9 stand for 0.973.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from transforms.core.saliency.contract import References
from transforms.core.saliency.perturbation import mean_similarities
from transforms.core.saliency.rise import Rise
from transforms.core.similarity import SimilarityFunction
from transforms.core.types import Float32, Float64

CHUNK = 16
"""References that are judged together; it bounds memory and changes no result."""


@dataclass
class Enough:
    """Says after how many masks to stop: at the end of the first two blocks, or four, ... whose halves agree.

    Asked whenever there are more embeddings; however they come in batches, the answer is the same.
    """

    design: Rise
    function: SimilarityFunction
    references: References
    agreement: float
    _checked: int = field(default=0, repr=False)

    def __call__(self, embeddings: Float32) -> int | None:
        """The number of masks that are enough, None where those of ``embeddings`` [n, D] are not."""
        pair = 2 * self.design.block
        while self._checked + pair <= len(embeddings):
            self._checked += pair
            if self._agree(embeddings[: self._checked]):
                return self._checked
        return None

    def _agree(self, embeddings: Float32) -> bool:
        scores = mean_similarities(self.references, embeddings, self.function)
        halves = Halves(self.design, len(embeddings))
        return all(
            (halves.agreement(scores[start : start + CHUNK]) >= self.agreement).all()
            for start in range(0, len(scores), CHUNK)
        )


class Halves:
    """The first ``n`` masks of ``design``, every other block to each half."""

    def __init__(self, design: Rise, n: int) -> None:
        block = np.arange(n) // design.block % 2
        self._rows = [np.flatnonzero(block == half) for half in (0, 1)]
        self._designs = [design.subset(rows) for rows in self._rows]

    def agreement(self, scores: Float64) -> Float64:
        """The correlation [R] of the two halves' maps from ``scores`` [R, n].

        Two constant maps agree; a constant map and another do not.
        """
        maps = []
        for rows, design in zip(self._rows, self._designs, strict=True):
            of_half = np.ascontiguousarray(scores[:, rows])
            found = design.estimate(of_half, of_half[:, 0]).reshape(len(scores), -1)
            centred = found - found.mean(axis=1, keepdims=True)
            # what a mean's rounding leaves of a constant map is no structure
            centred[np.ptp(found, axis=1) <= 1e-12 * np.abs(found).max(axis=1)] = 0
            maps.append(centred)
        left, right = maps
        length = np.sqrt(np.square(left).sum(axis=1) * np.square(right).sum(axis=1))
        both_constant = ~left.any(axis=1) & ~right.any(axis=1)
        inner = (left * right).sum(axis=1)
        agreement: Float64 = np.divide(inner, length, out=both_constant.astype(np.float64), where=length > 0)
        return agreement
