"""Attribute removal by its definition, in plain loops."""

from __future__ import annotations

import math

import numpy as np

from transforms.core.metrics.removal import Pool, Removal


def similarity(of: Pool, one: int, other: int, function: str) -> float:
    """That of the embeddings of two products, number by number."""
    first, second = of.embeddings[[one, other]].astype(np.float64)
    if function == "euclidean":
        return -math.dist(first, second)
    inner = math.fsum(first * second)
    return inner / math.hypot(*first) / math.hypot(*second) if function == "cosine" else inner


def is_copy(of: Pool, one: int, other: int) -> bool:
    """Whether two products have one embedding: they are one photograph."""
    return bool((of.embeddings[one] == of.embeddings[other]).all())


def stands_for(of: Pool, other: int, query: int, reference: int, attribute: int) -> bool:
    """Whether a product may stand for the query without ``attribute``: it is known to lack it, and is no copy."""
    return (
        not is_copy(of, other, query)
        and not is_copy(of, other, reference)
        and bool(of.known[other, attribute])
        and not of.has[other, attribute]
        and (of.groups is None or of.groups[other] == of.groups[query] >= 0)
    )


def distance(of: Pool, query: int, other: int, attribute: int) -> int:
    """In how many columns but the attribute's a product differs from the query, or may: one of them is not known."""
    apart = 0
    for column in {int(c) for c in of.columns} - {int(of.columns[attribute])}:
        names = np.flatnonzero(of.columns == column)
        known = all(of.known[i, b] for i in (query, other) for b in names)
        apart += not (known and all(of.has[query, b] == of.has[other, b] for b in names))
    return apart


def drop(of: Pool, query: int, reference: int, attribute: int, removal: Removal) -> float:
    """What the similarity loses without ``attribute``: 0 where the query lacks it, NaN where that is not known."""
    if not of.known[query, attribute]:
        return math.nan
    if not of.has[query, attribute]:
        return 0.0
    others = [one for one in range(len(of.embeddings)) if stands_for(of, one, query, reference, attribute)]
    apart = {other: distance(of, query, other, attribute) for other in others}
    near = [other for other in others if removal.max_distance is None or apart[other] <= removal.max_distance]
    chosen: list[int] = []
    for other in sorted(near, key=lambda one: (apart[one], round(1 - similarity(of, query, one, "cosine"), 9), one)):
        if len(chosen) < removal.neighbours and not any(is_copy(of, other, one) for one in chosen):
            chosen.append(other)
    scores = [similarity(of, other, reference, of.function) for other in chosen]
    if len(scores) < removal.least:
        return math.nan
    return similarity(of, query, reference, of.function) - math.fsum(scores) / len(scores)


def by_definition(of: Pool, query: int, reference: int, removal: Removal) -> list[float]:
    """The drops [A] of one pair: the definition, product by product and column by column."""
    return [drop(of, query, reference, attribute, removal) for attribute in range(of.has.shape[1])]
