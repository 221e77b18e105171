"""From a design's embeddings to maps: what all perturbation methods have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.core.saliency.contract import Design, Maps, References
from transforms.core.similarity import SimilarityFunction, similarities
from transforms.core.types import Float32, Float64


@dataclass(frozen=True)
class Perturbation:
    """An image after its masked passes: ``perturbed`` float32 [n', D] under the first n' masks of ``design``.

    ``base`` float32 [1, D] embeds the whole image.
    """

    design: Design
    base: Float32
    perturbed: Float32
    function: SimilarityFunction

    def maps(self, references: References) -> Maps:
        """The design's estimates for ``references``."""
        base = mean_similarities(references, self.base, self.function)[:, 0]
        scores = mean_similarities(references, self.perturbed, self.function)
        return Maps(self.design.estimate(scores, base), len(self.perturbed) + 1 + references.passes)


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
