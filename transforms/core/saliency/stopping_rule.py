"""When a map has had enough masks: two halves of them give the same map.

What their correlation says is told in ``saliency.split_half``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transforms.core.records import Float32
from transforms.core.saliency.contract import References, SplittableDesign
from transforms.core.saliency.perturbation import mean_similarities
from transforms.core.saliency.split_half import CHUNK, SplitHalfReliability
from transforms.core.similarity import SimilarityFunction


@dataclass
class StoppingRule:
    """Says after how many masks to stop: at the end of the first two blocks, or four, ... whose halves agree.

    Asked whenever there are more embeddings; however they come in batches, the answer is the same.
    """

    design: SplittableDesign
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
        halves = SplitHalfReliability(self.design, len(embeddings))
        return all(
            (halves.agreement(scores[start : start + CHUNK]) >= self.agreement).all()
            for start in range(0, len(scores), CHUNK)
        )
