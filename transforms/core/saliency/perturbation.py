"""From a design's embeddings to maps: what all perturbation methods have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.core.imaging.maps import is_constant
from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import Design, Maps, References
from transforms.core.saliency.split_half import SplitHalfReliability
from transforms.core.similarity import SimilarityFunction, similarities


@dataclass(frozen=True)
class Perturbation:
    """An image after its masked passes: ``perturbed`` float32 [n', D] under the first n' masks of ``design``.

    ``base`` float32 [1, D] embeds the whole image. ``split_half`` are these masks' two halves, if there are any.
    """

    design: Design
    base: Float32
    perturbed: Float32
    function: SimilarityFunction
    split_half: SplitHalfReliability | None = None

    def maps(self, references: References) -> Maps:
        """The design's estimates for ``references``."""
        base = mean_similarities(references, self.base, self.function)[:, 0]
        scores = mean_similarities(references, self.perturbed, self.function)
        maps = self.design.estimate(scores, base)
        # two halves that show nothing agree, which makes their map no reliable one
        reliability = (
            None if self.split_half is None else np.where(is_constant(maps), 0.0, self.split_half.agreement(scores))
        )
        return Maps(maps, len(self.perturbed) + 1 + references.passes, reliability=reliability)

    def reliability_by_chance(self, references: References, seed: int) -> Float64 | None:
        """What ``Maps.reliability`` [R] is where scores and masks belong together by chance."""
        if self.split_half is None:
            return None
        return self.split_half.agreement_by_chance(mean_similarities(references, self.perturbed, self.function), seed)


def mean_similarities(references: References, embeddings: Float32, function: SimilarityFunction) -> Float64:
    """Similarities float64 [R, N] of ``embeddings`` [N, D] to each reference, the mean over its masked versions.

    The mean of a cosine over masked versions is one inner product with the mean of their unit vectors, which has no
    unit length.
    """
    if references.perturbed is None:
        return similarities(references.embeddings, embeddings, function)
    inner: SimilarityFunction = "dot" if function == "cosine" else function
    versions = references.vectors()
    total = np.zeros((len(versions), len(embeddings)))
    for version in range(versions.shape[1]):
        total += similarities(versions[:, version], embeddings, inner)
    mean: Float64 = total / versions.shape[1]
    return mean
