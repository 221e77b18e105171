"""Similarities of references and perturbed queries, the same to the bit however references are grouped.

A BLAS product over all references differs in most rows when they are permuted or split, and even a matrix-vector
product gives equal rows different sums by where they stand. So each similarity is a sum of its own over D, in float64
and one fixed order. Equal embeddings have equal similarities: where masking an image changes nothing, its map is 0, not
rounding noise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from transforms.core.types import Float32, Float64

SimilarityFunction = Literal["cosine", "dot", "euclidean"]

_TERMS = 4096
"""Terms that one einsum sums. Above its buffer of 8,192 the order of a sum would depend on how many rows there are."""


def similarities(references: Float32, perturbed: Float32, function: SimilarityFunction) -> Float64:
    """Similarities float64 [R, N] of ``references`` [R, D] and ``perturbed`` [N, D].

    "cosine" is in [-1, 1] up to rounding, and 0 where a vector is zero; "dot" is the inner product; "euclidean" is the
    negative distance.
    """
    if references.ndim != 2 or perturbed.ndim != 2 or references.shape[1] != perturbed.shape[1]:
        raise ValueError(f"expected [R, D] and [N, D], got {references.shape} and {perturbed.shape}")
    # copies in C order: the order of a sum follows the layout
    rows, others = (vectors.astype(np.float64, order="C") for vectors in (perturbed, references))
    if function == "cosine":
        _normalise(rows)
        _normalise(others)
    out = np.empty((len(others), len(rows)))
    difference = np.empty_like(rows) if function == "euclidean" else rows
    for reference, line in zip(others, out, strict=True):
        if function == "euclidean":
            np.subtract(rows, reference, out=difference)
            line[:] = -np.sqrt(_sums(difference, difference))
        else:
            line[:] = _sums(rows, np.broadcast_to(reference, rows.shape))
    return out


def _normalise(vectors: Float64) -> None:
    """Divides the rows of ``vectors`` by their lengths, in place; zero rows stay."""
    length = np.sqrt(_sums(vectors, vectors))[:, None]
    np.divide(vectors, length, out=vectors, where=length > 0)


def _sums(left: Float64, right: Float64) -> Float64:
    """The inner product of each row of ``left`` [N, D] with the same row of ``right``: [N]."""
    total = np.zeros(len(left))
    for start in range(0, left.shape[1], _TERMS):
        total += np.einsum("nd,nd->n", left[:, start : start + _TERMS], right[:, start : start + _TERMS])
    return total
