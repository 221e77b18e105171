"""What an explanation is compared with before it counts as one: random references, and masks dealt by chance.

*Shuffled pairs* are the image with random references. Some of these are matches too, and rightly explained: in a
catalogue of six kinds every sixth. So they are taken from the half of the random references that the model holds for
less similar to the image. ``core.statistics.verdict`` has what is made of them.

``null_agreement`` is the correlation with the map for the mean similarity to ``REFERENCES`` random references. It is no
criterion: where embeddings are spread around zero, the mean similarity is small, and its map, however faint, may point
anywhere. On real photographs a criterion by it called 26 or 46 % of the same pairs ``same_for_any_reference``, by which
64 references were drawn.

Of the random references' maps only the mean is made for every image, and few single ones; their masked passes are those
that the image has had anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from transforms.core.records import EmbeddedImage, Float32, content_id
from transforms.core.saliency.contract import References
from transforms.core.similarity import SimilarityFunction, reduce_perturbed, similarities

REFERENCES = 64
"""Random references whose mean is the null: their error is an eighth of one reference's."""
SHUFFLED = 8
"""Shuffled pairs of an image that thresholds are calibrated on."""
SPARE = 16
"""More than ``REFERENCES`` that are drawn, in place of damaged and equal images and of the explained one itself."""
LEAST = 16
"""Random references without which there is no null: of fewer, the pair's own reference would make much of the mean."""


def place(name: str, seed: int) -> str:
    """Where a product or an address stands in the order by which random references are drawn.

    Sampled or not, it stands there in every run: a query gets the same null in a sample as in a whole audit.
    """
    return content_id("null reference", str(seed), name, letter="")


@dataclass(frozen=True)
class NullReferences:
    """Random references of the catalogue, ``(sha256, embedding)`` of distinct images."""

    drawn: tuple[tuple[str, Float32], ...]

    @classmethod
    def of(cls, images: Iterable[EmbeddedImage]) -> NullReferences:
        """Of the ``images`` that were drawn, one of equal ones, in the order of their content."""
        distinct = {image.sha256: image.embedding for image in images}
        return cls(tuple(sorted(distinct.items(), key=lambda item: item[0])))

    def others(self, sha256: str) -> Float32 | None:
        """Embeddings [K, D], of images other than that of ``sha256``; None where they are too few.

        K is from ``LEAST`` to ``REFERENCES``.
        """
        found = [embedding for drawn, embedding in self.drawn if drawn != sha256][:REFERENCES]
        return np.stack(found) if len(found) >= LEAST else None


def mean_of(embeddings: Float32, function: SimilarityFunction) -> References:
    """One reference that stands for the mean similarity to ``embeddings`` [K, D], of unit length for the cosine."""
    return References(embeddings[:1], reduce_perturbed(embeddings, [], function)[None])


def contrasted(references: References, mean: References) -> References:
    """``references``, compared less their ``mean``: similarities become differences.

    Only where a similarity is linear in the reference: cosine and dot product.
    """
    versions = references.perturbed
    if versions is None:
        versions = references.embeddings[:, None]
    if mean.perturbed is None or versions.shape[1] != 1 or mean.perturbed.shape[1] != 1:
        raise ValueError("a contrast needs one vector for each reference and one for their mean")
    less = (versions.astype(np.float64) - mean.perturbed).astype(np.float32)
    return References(references.embeddings, less, references.passes, references.gradients)


def shuffled(embeddings: Float32, base: Float32, function: SimilarityFunction) -> Float32:
    """References [S, D], S <= ``SHUFFLED``, of shuffled pairs of the image of ``base`` [1, D].

    The first ones of the half of ``embeddings`` [K, D] that is less similar to the image.
    """
    similar = similarities(embeddings, base, function)[:, 0]
    less = np.argsort(similar, kind="stable")[: len(similar) // 2]
    return embeddings[np.sort(less)[:SHUFFLED]]
