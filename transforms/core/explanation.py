"""One query against its references: from embeddings to explanations, a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.attributes import RankedAttribute, rank_attributes
from transforms.core.maps import MapStatistics, area_average, map_statistics
from transforms.core.saliency.contract import Design
from transforms.core.similarity import SimilarityFunction, similarities
from transforms.core.types import Float32


@dataclass(frozen=True)
class ExplainedQuery:
    """All that explaining needs to know of a query, whatever its references.

    ``base`` float32 [1, D] embeds the unmasked query and ``perturbed`` float32 [N, D] the masked ones, in the order of
    ``design``. ``background`` is bool [H, W]. ``confidence`` [A] and ``activations`` [A, h, w] are the attribute
    network's word on the query, None for a bundle without attributes.
    """

    design: Design
    base: Float32
    perturbed: Float32
    background: NDArray[np.bool_]
    confidence: Float32 | None = None
    activations: Float32 | None = None


@dataclass(frozen=True)
class Explanation:
    """Why one pair matches. ``map`` is float32, the saliency map averaged over cells to the size asked for."""

    similarity: float
    map: Float32
    statistics: MapStatistics
    attributes: tuple[RankedAttribute, ...]


def explain(
    query: ExplainedQuery,
    references: Float32,
    *,
    function: SimilarityFunction,
    phi: tuple[float, float],
    top: int,
    map_size: tuple[int, int],
) -> Iterator[Explanation]:
    """Explanations of ``query`` against ``references`` [R, D], in their order.

    Each depends on its own reference alone, to the bit: references may be permuted or split into calls at will.
    """
    base = similarities(references, query.base, function)[:, 0]
    scores = similarities(references, query.perturbed, function)
    for similarity, saliency in zip(base, query.design.estimate(scores, base), strict=True):
        ranked: list[RankedAttribute] = []
        if query.confidence is not None and query.activations is not None:
            ranked = rank_attributes(query.confidence, query.activations, saliency, phi, top)
        yield Explanation(
            similarity=float(similarity),
            map=area_average(saliency, map_size).astype(np.float32),
            statistics=map_statistics(saliency, query.background),
            attributes=tuple(ranked),
        )
