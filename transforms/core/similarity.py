"""Similarities of references and perturbed queries, the same to the bit however references are grouped.

A BLAS product over all references differs in most rows when they are permuted or split, and even a matrix-vector product
gives equal rows different sums by where they stand. So every reference is one product of its own, in float64 and without
BLAS: each sum runs over D in one fixed order, and equal embeddings have equal similarities. Where masking an image changes
nothing, its map is therefore 0 and not rounding noise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from transforms.core.types import Float32, Float64

SimilarityFunction = Literal["cosine", "dot", "euclidean"]


def similarities(references: Float32, perturbed: Float32, function: SimilarityFunction) -> Float64:
    """Similarities float64 [R, N] of ``references`` [R, D] and ``perturbed`` [N, D].

    "cosine" is in [-1, 1] and 0 where a vector is zero; "dot" is the inner product; "euclidean" is the negative distance.
    """
    if references.ndim != 2 or perturbed.ndim != 2 or references.shape[1] != perturbed.shape[1]:
        raise ValueError(f"expected [R, D] and [N, D], got {references.shape} and {perturbed.shape}")
    # copies in C order: the order of a sum follows the layout
    rows, others = (vectors.astype(np.float64, order="C") for vectors in (perturbed, references))
    out = np.empty((len(references), len(rows)))
    if function == "cosine":
        _normalise(rows)
        _normalise(others)
    for reference, line in zip(others, out, strict=True):
        if function == "euclidean":
            difference = rows - reference
            line[:] = -np.sqrt(np.einsum("nd,nd->n", difference, difference))
        else:
            line[:] = np.einsum("nd,d->n", rows, reference)
    return out


def _normalise(vectors: Float64) -> None:
    """Divides the rows of ``vectors`` by their lengths, in place; zero rows stay."""
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    np.divide(vectors, length, out=vectors, where=length > 0)
