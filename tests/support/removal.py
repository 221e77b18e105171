"""Attribute removal by its definition, in plain loops."""

from __future__ import annotations

import math

import numpy as np

from transforms.core.metrics.removal import Pool, Removal


def by_definition(of: Pool, query: int, reference: int, removal: Removal) -> list[float]:  # noqa: C901  # as it is written
    """The drops [A] of one pair: the definition, product by product and column by column."""
    vectors = of.embeddings.astype(np.float64)

    def similarity(one: int, other: int, function: str) -> float:
        if function == "euclidean":
            return -math.dist(vectors[one], vectors[other])
        inner = math.fsum(vectors[one] * vectors[other])
        return inner / math.hypot(*vectors[one]) / math.hypot(*vectors[other]) if function == "cosine" else inner

    def same(one: int, other: int) -> bool:
        return bool((of.embeddings[one] == of.embeddings[other]).all())

    found = []
    for attribute in range(of.has.shape[1]):
        if not of.known[query, attribute]:
            found.append(math.nan)
            continue
        if not of.has[query, attribute]:
            found.append(0.0)
            continue
        candidates = []
        for other in range(len(vectors)):
            if same(other, query) or same(other, reference) or not of.known[other, attribute]:
                continue
            if of.has[other, attribute]:
                continue
            if of.groups is not None and not of.groups[other] == of.groups[query] >= 0:
                continue
            apart = 0
            for column in {int(c) for c in of.columns} - {int(of.columns[attribute])}:
                names = np.flatnonzero(of.columns == column)
                known = all(of.known[i, b] for i in (query, other) for b in names)
                apart += not (known and all(of.has[query, b] == of.has[other, b] for b in names))
            if removal.max_distance is None or apart <= removal.max_distance:
                candidates.append((apart, round(1 - similarity(query, other, "cosine"), 9), other))
        chosen: list[int] = []
        for _, _, other in sorted(candidates):
            if len(chosen) < removal.neighbours and not any(same(other, one) for one in chosen):
                chosen.append(other)
        whole = similarity(query, reference, of.function)
        scores = [similarity(other, reference, of.function) for other in chosen]
        found.append(whole - math.fsum(scores) / len(scores) if len(scores) >= removal.least else math.nan)
    return found
