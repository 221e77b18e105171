"""One explained image against its references: from saliency maps to explanations, a pure function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.attributes.ranking import RankedAttribute, Ranking, rank_attributes
from transforms.core.imaging.maps import MapStatistics, area_average, correlations, map_statistics, shared_variance
from transforms.core.imaging.region_shares import RegionShare, background_labels, shares
from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import Maps

Regions = tuple[NDArray[np.int64], tuple[str, ...]]
"""Labels [H, W] of an image in the model's frame, and their names, for ``core.imaging.region_shares.shares``."""


@dataclass(frozen=True)
class ExplainedImage:
    """What explaining needs to know of an image beside its maps.

    ``background`` is bool [H, W]. ``confidence`` [A] and ``activations`` [A, h, w] are the attribute network's word on
    the image, None for a bundle without attributes.
    """

    background: NDArray[np.bool_]
    confidence: Float32 | None = None
    activations: Float32 | None = None


@dataclass(frozen=True)
class NullMap:
    """The map of an image for the mean of random references, float64 [1, H, W].

    Where it has been ``subtracted`` from the maps already, it accounts for nothing of them.
    """

    map: Float64
    subtracted: bool = False

    def agreement(self, saliency: Float64) -> float:
        """The correlation of a map [H, W] with this one."""
        return float(correlations(saliency[None], self.map)[0])

    def share(self, saliency: Float64) -> float:
        """The part of the variance of a map [H, W] that this one accounts for."""
        return 0.0 if self.subtracted else float(shared_variance(saliency[None], self.map)[0])


@dataclass(frozen=True)
class Explanation:
    """Why one pair matches. ``map`` is float32, the saliency map averaged over cells to the size asked for.

    ``bias`` is what of the similarity no pixel accounts for, None where the method does not say. ``reliability`` is the
    correlation of two halves of the masks, ``null_agreement`` that with the map of the null, and ``null_share`` what
    this accounts for of the map's variance; None where there are none.
    """

    similarity: float
    map: Float32
    statistics: MapStatistics
    attributes: tuple[RankedAttribute, ...]
    regions: tuple[RegionShare, ...]
    bias: float | None = None
    reliability: float | None = None
    null_agreement: float | None = None
    null_share: float | None = None


def explain(
    image: ExplainedImage,
    similarities: Float64,
    maps: Maps,
    *,
    ranking: Ranking,
    top: int,
    map_size: tuple[int, int],
    regions: Sequence[Regions | None] | None = None,
    null: NullMap | None = None,
) -> Iterator[Explanation]:
    """Explanations of ``image`` from its ``similarities`` [R] to references and its ``maps`` for them, in their order.

    ``regions`` are the image's, as each pair's product knows them; where they are None, background and foreground are.
    Each explanation depends on its own reference alone, to the bit: references may be permuted or split into calls at
    will.
    """
    count = len(similarities)
    ground = background_labels(image.background)
    for at, (similarity, saliency) in enumerate(zip(similarities, maps.saliency, strict=True)):
        ranked: list[RankedAttribute] = []
        if image.confidence is not None and image.activations is not None:
            ranked = rank_attributes(image.confidence, image.activations, saliency, ranking, top)
        given = regions[at] if regions is not None else None
        yield Explanation(
            similarity=float(similarity),
            map=area_average(saliency, map_size).astype(np.float32),
            statistics=map_statistics(saliency, image.background),
            attributes=tuple(ranked),
            regions=shares(saliency, *(given or ground)),
            bias=_at(maps.bias, at, count),
            reliability=_at(maps.reliability, at, count),
            null_agreement=None if null is None else null.agreement(saliency),
            null_share=None if null is None else null.share(saliency),
        )


def _at(values: Float64 | None, at: int, count: int) -> float | None:
    if values is None:
        return None
    if len(values) != count:
        raise ValueError(f"expected a value for each of {count} references, got {len(values)}")
    return float(values[at])
