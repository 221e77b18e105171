"""What an explanation is compared with before it counts as one: random references, and masks dealt by chance.

A ranking always has a first attribute, and a saliency map a highest pixel, also where there is nothing to explain. So a
pair is *explained* only where its explanation stands out from what images get without a match:

1. Its map is reliable: the maps of two halves of the masks agree better than where scores and masks belong together by
   chance (reason ``unreliable_map``).
2. Its map is not that of any reference: the map for the *mean* similarity to ``REFERENCES`` random references of the
   catalogue, subtracted, leaves more than half of its variance (``same_for_any_reference``).
3. Where the catalogue says which regions show the first attribute, these hold more of the map's evidence than of the
   area (``evidence_elsewhere``).
4. The first attribute stands out from first attributes of shuffled pairs (``attribute_by_chance``): its score e_a, of
   which the match with the map is a part, is higher than theirs.

*Shuffled pairs* are the image with random references. Some of these are matches too, and rightly explained: in a
catalogue of six kinds every sixth. So they are taken from the half of the random references that the model holds for
less similar to the image. By choice of the threshold at most the stated share of such pairs would be called explained,
over all images: some images reach more than others.

``null_agreement`` is the correlation with that map of the mean. It is no criterion: where embeddings are spread around
zero, the mean similarity is small, and its map, however faint, may point anywhere. On real photographs a criterion by
it called 26 or 46 % of the same pairs ``same_for_any_reference``, by which 64 references were drawn.

Of the random references' maps only the mean is made for every image, and few single ones; their masked passes are those
that the image has had anyway. Measured on the drawn catalogue (docs/benchmarks/nulls.md): the match of the first
attribute alone separates worse than its score, since an attribute that the image does not have can match by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
SHARED = 0.5
"""The share of a map's variance that the null's map may account for."""

Statistic = Literal["attribute_score", "map_reliability"]
_STATISTICS: tuple[Statistic, Statistic] = ("map_reliability", "attribute_score")
Reason = Literal["unreliable_map", "same_for_any_reference", "evidence_elsewhere", "attribute_by_chance"]


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


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a ``statistic`` of shuffled pairs exceeds at most at ``false_alarm_rate``; ``value`` None where they are too
    few to say so. ``shuffled`` is how many there are."""

    statistic: Statistic
    value: float | None
    false_alarm_rate: float
    shuffled: int


def calibrate(statistic: Statistic, values: Sequence[tuple[str, float]], false_alarm_rate: float) -> Threshold:
    """The threshold that a shuffled pair of a further image exceeds with a probability of ``false_alarm_rate`` at most.

    ``values`` are ``(image, value)``: those of one image are alike, so what counts is the number m of images. The
    threshold is the smallest value that a share of (1 - rate) (m + 1) / m of them does not exceed, each image weighing
    the same: "pooling CDFs" of R. Dunn, L. Wasserman, A. Ramdas, "Distribution-Free Prediction Sets for Two-Layer
    Hierarchical Models", JASA 2022. It needs m >= 1 / rate - 1.
    """
    sizes = Counter(image for image, _ in values)
    ordered = sorted((value, 1 / (len(sizes) * sizes[image])) for image, value in values)
    level = (1 - false_alarm_rate) * (len(sizes) + 1) / max(len(sizes), 1)
    reached = np.cumsum([weight for _, weight in ordered]) >= level - 1e-9  # sums of shares are not exact
    value = ordered[int(np.argmax(reached))][0] if reached.any() and level <= 1 + 1e-9 else None
    return Threshold(statistic, value, false_alarm_rate, len(values))


def judge(
    *,
    reliability: float | None,
    null_share: float | None,
    score: float | None,
    elsewhere: bool,
    thresholds: Mapping[Statistic, Threshold],
) -> tuple[bool | None, Reason | None]:
    """Whether a pair is explained, and why it is not; (None, None) where there is nothing to tell it by.

    Args:
      reliability: of the map, None for methods whose masks cannot be halved.
      null_share: what the null's map accounts for of the map's variance, None where there is no null.
      score: e_a of the first attribute, None for a bundle without attributes.
      elsewhere: whether the evidence lies where the first attribute cannot be seen.
      thresholds: of the pair's method and side.
    """
    if elsewhere and null_share is None:
        return False, "evidence_elsewhere"
    if null_share is None or (reliability is None and score is None):
        return None, None
    least, chance = (thresholds[name].value if name in thresholds else None for name in _STATISTICS)
    if reliability is not None and least is not None and reliability <= least:
        return False, "unreliable_map"
    if null_share >= SHARED:
        return False, "same_for_any_reference"
    if elsewhere:
        return False, "evidence_elsewhere"
    if (reliability is not None and least is None) or (score is not None and chance is None):
        return None, None
    return (True, None) if score is None or chance is None or score > chance else (False, "attribute_by_chance")
