"""The most similar other images of each image: exact search in chunks, the same for every chunk size.

A matrix product is fast and BLAS's rounding depends on its shape, so it only proposes: every row that its error bound
leaves in question is scored again by a sum in fixed order, and that score decides. A tie goes to the smaller index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float32, Float64
from transforms.core.similarity import SimilarityFunction

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The rows ``indices`` that are most similar to the row ``query``, best first, with their similarities."""

    query: int
    indices: Indices  # [<= k]
    scores: Float64  # [<= k]


def top_k(
    embeddings: Float32,
    k: int,
    *,
    function: SimilarityFunction,
    groups: NDArray[np.integer],
    queries: Indices | None = None,
    chunk: int = 256,
) -> Iterator[Neighbours]:
    """Yields the ``k`` rows that are most similar to each query, in the order of ``queries``.

    Args:
      embeddings: [I, D], finite.
      k: how many; fewer where fewer rows are left.
      function: as in ``transforms.core.similarity``, in float64.
      groups: integers [I]; rows of one group are copies of one image and never each other's neighbours.
      queries: the rows to search for, all of them by default.
      chunk: queries at once. It changes memory and speed, no result.
    """
    if embeddings.ndim != 2 or len(groups) != len(embeddings) or k < 1 or chunk < 1:
        raise ValueError(
            f"expected embeddings [I, D], groups [I], k >= 1 and chunk >= 1; got {embeddings.shape}, {groups.shape}, "
            f"{k} and {chunk}"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings must be finite")
    rows = np.ascontiguousarray(embeddings, np.float64)
    if function == "cosine":
        length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    squares = np.square(rows).sum(axis=1)
    asked = np.arange(len(rows), dtype=np.intp) if queries is None else np.asarray(queries, np.intp)
    for start in range(0, len(asked), chunk):
        # a generator of its own, so that one chunk's proposals are gone before the next ones are made
        yield from _search(rows, squares, groups, asked[start : start + chunk], k, function)


def search_bytes(images: int, dimension: int, chunk: int) -> int:
    """Peak bytes that :func:`top_k` adds to its input: I images, embeddings of length D, ``chunk`` queries at once.

    Two float64 copies of the embeddings, two float64 and one boolean row of I for each query of a chunk.
    """
    return 16 * images * dimension + 17 * images * min(chunk, images)


def _search(
    rows: Float64, squares: Float64, groups: NDArray[np.integer], some: Indices, k: int, function: SimilarityFunction
) -> Iterator[Neighbours]:
    proposed = _proposals(rows, squares, some, function)  # [chunk, I]
    proposed[groups[some, None] == groups] = -np.inf
    limits = _limits(proposed, k) - _margin(rows.shape[1], squares, some)
    for query, line, limit in zip(some.tolist(), proposed, limits, strict=True):
        candidates = np.flatnonzero((line >= limit) & np.isfinite(line))
        scores = _scores(rows[candidates], rows[query], function)
        best = np.argsort(-scores, kind="stable")[:k]  # candidates ascend, so a tie goes to the smaller index
        yield Neighbours(query, candidates[best], scores[best])


def _proposals(rows: Float64, squares: Float64, some: Indices, function: SimilarityFunction) -> Float64:
    """What orders the rows for each query, up to rounding: the product, or minus the squared distance. [chunk, I]"""
    product: Float64 = rows[some] @ rows.T
    if function == "euclidean":
        product *= 2
        product -= squares
        product -= squares[some, None]
    return product


def _margin(dimension: int, squares: Float64, some: Indices) -> Float64:
    """[chunk] How far apart two proposals can be whose scores by :func:`_scores` are in the other order or equal.

    A sum of D products in any order is off by at most D u / (1 - D u) |a| |b|, u = 2^-53 (Higham, Accuracy and
    Stability of Numerical Algorithms, 2nd ed., section 3.1). Proposal and score of both rows are off; the factor 16
    covers these four, the sums of squares, and the rounding of the root.
    """
    largest = np.sqrt(squares.max(initial=0.0))
    reach: Float64 = np.square(np.sqrt(squares[some]) + largest)
    return 16 * (dimension + 4) * 2.0**-53 * reach


def _limits(proposed: Float64, k: int) -> Float64:
    """[chunk] The k-th largest proposal of each query; -inf where there are no more than k."""
    if proposed.shape[1] <= k:
        return np.full(len(proposed), -np.inf)
    limits: Float64 = np.partition(proposed, -k, axis=1)[:, -k].copy()  # a view would hold all of it
    return limits


def _scores(candidates: Float64, query: Float64, function: SimilarityFunction) -> Float64:
    """Similarities [C] of ``candidates`` [C, D] and ``query`` [D]; each is a sum over one row, C changes none."""
    if function == "euclidean":
        distances: Float64 = -np.sqrt(np.square(candidates - query).sum(axis=1))
        return distances
    products: Float64 = (candidates * query).sum(axis=1)
    return products
