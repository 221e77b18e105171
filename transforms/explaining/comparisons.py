"""What an explained image is compared with: the other images of its pairs, and random references, under conditions.

A condition multiplies embeddings, which are the network's: it is applied here, to vectors, and costs no passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transforms.core.errors import NoNull
from transforms.core.imaging.fill import make_fill
from transforms.core.records import Float32, Float64, Side
from transforms.core.saliency.contract import Gradient, References
from transforms.core.saliency.explainer import Explainer
from transforms.core.similarity import SimilarityFunction, conditioned, for_condition, similarities
from transforms.core.statistics import nulls
from transforms.core.statistics.nulls import NullReferences
from transforms.explaining.image_session import ImageSession
from transforms.explaining.settings import Matched
from transforms.serving.load_image import Load


@dataclass(frozen=True, eq=False)
class Comparisons:
    """The vectors that the image of ``session`` is compared with.

    ``load`` reads the other images of pairs, for methods that perturb them too. ``random`` are random references of
    each side, which cost no passes where a method compares with any vector.
    """

    session: ImageSession
    load: Load
    random: Mapping[Side, NullReferences]

    @property
    def function(self) -> SimilarityFunction:
        return self.session.models.bundle.similarity_function

    def conditioned(self, embeddings: Float32, condition: str | None) -> Float32:
        """What ``condition`` compares of ``embeddings`` [N, D]."""
        return conditioned(embeddings, self.session.mask(condition), self.function)

    def base(self, condition: str | None) -> Float32:
        """The whole image's embedding [1, D]."""
        return self.conditioned(self.session.base, condition)

    def similarities(self, matched: Sequence[Matched], condition: str | None) -> Float64:
        """Similarities float64 [R] of the other images of ``matched`` to the whole image."""
        return similarities(self._embeddings(matched, condition), self.base(condition), self.function)[:, 0]

    def references(self, explainer: Explainer, matched: Sequence[Matched]) -> References:
        """The other images of ``matched``, all of one condition and side, as ``explainer`` compares with them."""
        target = matched[0][0]
        condition = target.pair.condition
        embeddings = self._embeddings(matched, condition)
        if explainer.perturb == "query":
            return self.contrasted(explainer, References(embeddings), target.side, condition)
        kept = [other.perturbed for _, other in matched if other.perturbed is not None and explainer.references]
        versions = [self._versions(some, condition) for some in kept]
        if explainer.references and len(versions) < len(matched):
            raise ValueError("the explainer averages over masked references, and these were embedded without any")

        def gradients(start: int, stop: int) -> Gradient:
            pixels = [self.load(target.counterpart).pixels for target, _ in matched[start:stop]]
            mean = self.session.models.bundle.fill_mean
            fills = np.concatenate([make_fill(explainer.fill, image, mean) for image in pixels])
            return self.session.gradient(np.stack(pixels), fills, condition)

        # a run of Mask alone masks no references by anything but what it optimises
        perturbed = np.stack(versions) if versions else None
        passes = explainer.references.masks if explainer.references else 0
        return self.contrasted(explainer, References(embeddings, perturbed, passes, gradients), target.side, condition)

    def drawn(self, side: Side, condition: str | None) -> Float32 | None:
        """Random references' embeddings [K, D], None without enough of them."""
        drawn = self.random.get(side)
        others = drawn.others(self.session.image.sha256) if drawn else None
        return None if others is None else self.conditioned(others, condition)

    def null(self, side: Side, condition: str | None) -> References | None:
        """The mean of random references as one reference, None without enough of them."""
        others = self.drawn(side, condition)
        return None if others is None else nulls.mean_of(others, self.function)

    def shuffled(self, side: Side, condition: str | None) -> References | None:
        """The random references that stand for shuffled pairs, None without any."""
        others = self.drawn(side, condition)
        if others is None:
            return None
        found = nulls.shuffled(others, self.base(condition), self.function)
        return References(found) if len(found) else None

    def contrasted(self, explainer: Explainer, references: References, side: Side, condition: str | None) -> References:
        """``references``, less the mean of random ones where ``explainer`` asks; NoNull where these are too few."""
        if not explainer.contrast:
            return references
        null = self.null(side, condition)
        if null is None:
            raise NoNull(
                f"a contrast needs {nulls.LEAST} random references, and of those that were drawn fewer could be "
                "embedded; the row of the run says how many"
            )
        return nulls.contrasted(references, null)

    def _embeddings(self, matched: Sequence[Matched], condition: str | None) -> Float32:
        """The other images' embeddings [R, D]."""
        return self.conditioned(np.stack([other.embedding for _, other in matched]), condition)

    def _versions(self, kept: Float32, condition: str | None) -> Float32:
        """What of the masked versions that an image kept ``condition`` compares, [K, D]."""
        names = tuple(self.session.models.bundle.conditions)
        if not names:
            return kept
        return for_condition(kept, self.session.mask(condition), names.index(condition), len(names), self.function)
