"""What a trained network is worth on products that it has not seen: retrieval and attribute precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float32


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """Mean, over the relevant items of a ranked list [K], of the precision at their ranks; NaN where none is."""
    ranks = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else float("nan")


def retrieval(embeddings: Float32, labels: NDArray[np.int64]) -> dict[str, float]:
    """How well products [I, D] find products of their own label [I] among all others, by cosine.

    Queries are those that another product shares the label with; a label of −1 is no query and never relevant.
    Returns ``recall@1`` (share of queries whose nearest other product has the label), ``map`` (mean average precision),
    ``chance`` (the recall@1 of a random order) and ``queries``. All but ``queries`` are NaN without a query.
    """
    units = embeddings.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    hits, precisions, chances = [], [], []
    for query in np.flatnonzero(labels >= 0):
        others = np.delete(np.arange(len(labels)), query)
        relevant = labels[others] == labels[query]
        if not relevant.any():
            continue
        order = np.argsort(-(units[others] @ units[query]), kind="stable")
        hits.append(float(relevant[order[0]]))
        precisions.append(average_precision(relevant[order]))
        chances.append(float(relevant.mean()))
    return {"recall@1": _mean(hits), "map": _mean(precisions), "chance": _mean(chances), "queries": float(len(hits))}


def attribute_precision(
    scores: Float32, targets: NDArray[np.bool_], known: NDArray[np.bool_]
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Average precision of each attribute over the products that are known to have it or not; all are [I, A].

    Returns ``map`` (the mean over attributes), ``chance`` (the mean of their frequencies) and ``attributes`` (how many
    can be judged: both a product with it and one without), and the average precisions [A], NaN where not judged.
    """
    precisions = np.full(scores.shape[1], np.nan)
    rates = np.full(scores.shape[1], np.nan)
    for a in range(scores.shape[1]):
        rows = np.flatnonzero(known[:, a])
        positive = targets[rows, a]
        if positive.any() and not positive.all():
            precisions[a] = average_precision(positive[np.argsort(-scores[rows, a], kind="stable")])
            rates[a] = positive.mean()
    judged = ~np.isnan(precisions)
    summary = {
        "map": _mean(list(precisions[judged])),
        "chance": _mean(list(rates[judged])),
        "attributes": float(judged.sum()),
    }
    return summary, precisions


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
