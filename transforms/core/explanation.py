"""One explained image against its references: from saliency maps to explanations, a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.attributes import RankedAttribute, Ranking, rank_attributes
from transforms.core.maps import MapStatistics, area_average, map_statistics
from transforms.core.saliency.contract import Maps
from transforms.core.types import Float32, Float64


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
class Explanation:
    """Why one pair matches. ``map`` is float32, the saliency map averaged over cells to the size asked for.

    ``bias`` is what of the similarity no pixel accounts for, None where the method does not say.
    """

    similarity: float
    map: Float32
    statistics: MapStatistics
    attributes: tuple[RankedAttribute, ...]
    bias: float | None = None


def explain(
    image: ExplainedImage,
    similarities: Float64,
    maps: Maps,
    *,
    ranking: Ranking,
    top: int,
    map_size: tuple[int, int],
) -> Iterator[Explanation]:
    """Explanations of ``image`` from its ``similarities`` [R] to references and its ``maps`` for them, in their order.

    Each depends on its own reference alone, to the bit: references may be permuted or split into calls at will.
    """
    biases = [None] * len(similarities) if maps.bias is None else [float(bias) for bias in maps.bias]
    for similarity, saliency, bias in zip(similarities, maps.saliency, biases, strict=True):
        ranked: list[RankedAttribute] = []
        if image.confidence is not None and image.activations is not None:
            ranked = rank_attributes(image.confidence, image.activations, saliency, ranking, top)
        yield Explanation(
            similarity=float(similarity),
            map=area_average(saliency, map_size).astype(np.float32),
            statistics=map_statistics(saliency, image.background),
            attributes=tuple(ranked),
            bias=bias,
        )
