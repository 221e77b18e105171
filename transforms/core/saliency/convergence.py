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


@dataclass
class Enough:
    """Says after how many masks to stop: at the end of the first block whose predecessors and itself agree, by halves.

    Asked whenever there are more embeddings; however they come in batches, the answer is the same.
    """

    design: Rise
    base: Float32
    function: SimilarityFunction
    references: References
    agreement: float
    _checked: int = field(default=0, repr=False)

    def __call__(self, embeddings: Float32) -> int | None:
        """The number of masks that are enough, None where those of ``embeddings`` [n, D] are not."""
        while (self._checked + 1) * self.design.block <= len(embeddings):
            self._checked += 1
            if self._checked < 2:
                continue
            count = self._checked * self.design.block
            scores = mean_similarities(self.references, embeddings[:count], self.function)
            if (halves_agreement(self.design, scores) >= self.agreement).all():
                return count
        return None


def halves_agreement(design: Rise, scores: Float64) -> Float64:
    """The correlation [R] of the maps from every other block with those from the blocks between.

    Two constant maps agree, a constant map and another do not. ``scores`` [R, n'] are those of the first n' masks, at
    least two blocks of them.
    """
    block = np.arange(scores.shape[1]) // design.block % 2
    maps = []
    for half in (0, 1):
        rows = np.flatnonzero(block == half)
        of_half = np.ascontiguousarray(scores[:, rows])
        maps.append(design.subset(rows).estimate(of_half, of_half[:, 0]).reshape(len(scores), -1))
    left, right = (some - some.mean(axis=1, keepdims=True) for some in maps)
    length = np.sqrt(np.square(left).sum(axis=1) * np.square(right).sum(axis=1))
    inner = (left * right).sum(axis=1)
    both_constant = ~left.any(axis=1) & ~right.any(axis=1)
    agreement: Float64 = np.divide(inner, length, out=both_constant.astype(np.float64), where=length > 0)
    return agreement
