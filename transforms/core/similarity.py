"""Similarities of references and perturbed queries, the same to the bit however references are grouped.

A BLAS product over all references differs in most rows when they are permuted or split, so every reference is one
product of its own, in float64.
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
    rows = perturbed.astype(np.float64)
    out = np.empty((len(references), len(rows)))
    if function == "cosine":
        rows = _unit(rows)
    for reference, line in zip(references.astype(np.float64), out, strict=True):
        if function == "euclidean":
            line[:] = -np.sqrt(np.square(rows - reference).sum(axis=1))
        else:
            line[:] = rows @ (_unit(reference) if function == "cosine" else reference)
    return out


def _unit(vectors: Float64) -> Float64:
    length = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
