"""Similarities of references and perturbed queries, the same to the bit however references are grouped.

A BLAS product over all references differs in most rows when they are permuted or split, and even a matrix-vector
product gives equal rows different sums by where they stand. So each similarity is a sum of its own over D, in float64
and one fixed order. Equal embeddings have equal similarities: where masking an image changes nothing, its map is 0, not
rounding noise.

A similarity may have conditions, each with a mask m [D], no entry below 0, by which both embeddings are multiplied
before they are compared: s(m * x, m * y). M. Vasileva, B. Plummer, K. Dusad, S. Rajpal, R. Kumar, D. Forsyth,
"Learning Type-Aware Embeddings for Fashion Compatibility", ECCV 2018, arXiv 1803.09196, after A. Veit, S. Belongie, T.
Karaletsos, "Conditional Similarity Networks", CVPR 2017, arXiv 1603.07810. Embeddings are kept as they are, whatever
they will be compared under; :func:`conditioned` is what of them a condition compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from transforms.core.records import Float32, Float64

SimilarityFunction = Literal["cosine", "dot", "euclidean"]

# A type as part of a condition's name. "://" too: a manifest takes a cell that has it for an address.
_ESCAPES = {"%": "%25", "+": "%2B", "://": "%3A//"}

_TERMS = 4096
"""Terms that one einsum sums. Above its buffer of 8,192 the order of a sum would depend on how many rows there are."""


def condition_name(first: str, second: str) -> str:
    """The name of the condition that joins two types: both with a plus between, in the order of their characters.

    A percent sign, a plus and ``://`` within a type are written as in an address (``%25``, ``%2B``, ``%3A//``), so that
    different pairs have different names and ``urllib.parse.unquote`` gives back the types.
    """
    return "+".join(_escaped(text) for text in sorted((first, second)))


def _escaped(text: str) -> str:
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


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


def conditioned(embeddings: Float32, mask: Float32 | None, function: SimilarityFunction) -> Float32:
    """What is compared of ``embeddings`` [N, D] under the condition of ``mask`` [D]; themselves where there is none.

    For the cosine the rows have unit length afterwards, a zero row apart. That is exact for rows that had unit length
    before the mask, too, for a cosine does not depend on lengths. A row depends on itself alone, to the bit.
    """
    if mask is None:
        return embeddings
    if embeddings.shape[1:] != mask.shape:
        raise ValueError(f"expected embeddings [N, D] and a mask [D], got {embeddings.shape} and {mask.shape}")
    products = embeddings.astype(np.float64, order="C")
    products *= mask
    if function == "cosine":
        _normalise(products)
    return products.astype(np.float32)


def rows_kept(versions: int, conditions: int, function: SimilarityFunction) -> int:
    """How many of the vectors of :func:`reduce_perturbed` stand for so many masked versions of an image."""
    if function == "euclidean":
        return versions
    return 1 if function == "dot" or not conditions else min(versions, conditions)


def reduce_perturbed(versions: Float32, masks: Sequence[Float32], function: SimilarityFunction) -> Float32:
    """What of an image's masked ``versions`` [K, D] is enough for the mean of their similarities to anything.

    Their mean [1, D] where the similarity is linear in the embedding: the dot product under any condition, and the
    cosine, whose vectors have unit length already, without conditions. A condition's cosine is linear only behind its
    mask and norm, so that there is a mean for each of the ``masks`` [C, D]; where there are more conditions than
    versions, these themselves are less: [K, D]. No mean stands for distances: [K, D] again.
    """
    if function == "euclidean" or (function == "cosine" and len(masks) > len(versions)):
        return versions
    if function == "dot" or not masks:
        return _mean(versions)
    return np.concatenate([_mean(conditioned(versions, mask, function)) for mask in masks])


def for_condition(
    kept: Float32, mask: Float32 | None, number: int, conditions: int, function: SimilarityFunction
) -> Float32:
    """What of ``kept``, which :func:`reduce_perturbed` made for so many ``conditions``, is compared under that of
    ``number``.

    ``mask`` [D] is the condition's own. Float32 [1, D], the mean, or [K, D] for the Euclidean distance.
    """
    if function == "cosine" and len(kept) == conditions:
        return kept[number : number + 1]
    compared = conditioned(kept, mask, function)
    return _mean(compared) if function == "cosine" else compared


def _mean(versions: Float32) -> Float32:
    """The mean [1, D] of ``versions`` [K, D]."""
    mean: Float32 = versions.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return mean


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
