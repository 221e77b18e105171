"""Whether a pair is *explained*: its explanation stands out from what images get without a match.

A ranking always has a first attribute, and a saliency map a highest pixel, also where there is nothing to explain. So a
pair is explained only where

1. its map is reliable: the maps of two halves of the masks agree better than where scores and masks belong together by
   chance (else the reason is ``unreliable_map``);
2. its map is not that of any reference: the map for the *mean* similarity to random references of the catalogue,
   subtracted, leaves more than half of its variance (``same_for_any_reference``);
3. where the catalogue says which regions show the first attribute, these hold more of the map's evidence than of the
   area (``evidence_elsewhere``);
4. the first attribute stands out from first attributes of shuffled pairs (``attribute_by_chance``): its score e_a, of
   which the match with the map is a part, is higher than theirs.

Thresholds are calibrated on shuffled pairs (``core.statistics.nulls`` says which): by choice of the threshold at most
the stated share of such pairs would be called explained, over all images; some images reach more than others. Measured
on the drawn catalogue (docs/benchmarks/nulls.md): the match of the first attribute alone separates worse than its
score, since an attribute that the image does not have can match by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MOST_SHARED = 0.5
"""The share of a map's variance that the null's map may account for."""

Statistic = Literal["attribute_score", "map_reliability"]
_STATISTICS: tuple[Statistic, Statistic] = ("map_reliability", "attribute_score")
Reason = Literal["unreliable_map", "same_for_any_reference", "evidence_elsewhere", "attribute_by_chance"]


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
    if null_share >= MOST_SHARED:
        return False, "same_for_any_reference"
    if elsewhere:
        return False, "evidence_elsewhere"
    if (reliability is not None and least is None) or (score is not None and chance is None):
        return None, None
    return (True, None) if score is None or chance is None or score > chance else (False, "attribute_by_chance")
