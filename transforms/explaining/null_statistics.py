"""The statistics of an image's shuffled pairs, by which its explanations are judged (``core.statistics.nulls``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.core.attributes.ranking import rank_attributes
from transforms.core.errors import PairError
from transforms.core.records import Side, content_id
from transforms.core.saliency.contract import References, Saliency
from transforms.core.statistics.verdict import Statistic
from transforms.explaining.image_session import ImageSession


@dataclass(frozen=True, slots=True)
class NullStatistic:
    """``values`` of a statistic of shuffled pairs of an image, under one explainer and for one side."""

    method: str
    side: Side
    statistic: Statistic
    values: tuple[float, ...]


def shuffled_statistics(
    session: ImageSession, saliency: Saliency, references: References
) -> dict[Statistic, tuple[float, ...]]:
    """What the maps for ``references``, which match by chance, reach: each statistic that can be had."""
    found: dict[Statistic, tuple[float, ...]] = {}
    try:
        maps = saliency.maps(references).saliency
    except PairError:
        return found
    maps = maps[np.isfinite(maps).all(axis=(1, 2))]
    image, ranking = session.explained, session.models.bundle.ranking
    if image.confidence is not None and image.activations is not None:
        first = [rank_attributes(image.confidence, image.activations, one, ranking, 1)[0].score for one in maps]
        found["attribute_score"] = tuple(first)
    seed = int(content_id("chance", session.image.sha256, letter="")[:12], 16)
    by_chance = saliency.reliability_by_chance(references, seed)
    if by_chance is not None:
        found["map_reliability"] = tuple(float(value) for value in by_chance)
    return found
