"""Type-specific similarity: which pairs of types are conditions, the loss of a training under them, its validation.

Vasileva et al., "Learning Type-Aware Embeddings for Fashion Compatibility" (arXiv 1803.09196): every product has a
type, and for every pair of types a mask of its own says what of the embedding counts where the two are compared. Types
are the values of one column of the catalogue; two products are alike where they share a label, as without conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from export.training.data.batches import label_batches
from export.training.data.dataset import Indices
from export.training.data.labels import label_ids
from export.training.losses import conditional_anchors, conditional_triplets, embedding_penalty, mask_penalty
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.metrics.retrieval import average_precision
from transforms.core.records import Float32, Product
from transforms.core.similarity import condition_name
from transforms.inputs.rows import MAX_ID

_SHOWN = 5


@dataclass(frozen=True)
class Conditions:
    """The conditions of a data set of I products with T types.

    ``types`` names the types in order, ``type_of`` [I] is each product's, −1 where its cell is empty. ``pairs`` are
    the two types of each of the C conditions, u <= v. ``usable`` are the training products that a condition gives a
    positive. ``left_out`` says why a pair of types that training products have is no condition, by its name.
    """

    column: str
    types: tuple[str, ...]
    type_of: Indices
    pairs: tuple[tuple[int, int], ...]
    usable: Indices
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions' names, in the order of their masks."""
        return tuple(condition_name(self.types[u], self.types[v]) for u, v in self.pairs)

    @property
    def table(self) -> Indices:
        """The condition of two types [T, T], symmetric, −1 where there is none."""
        table = np.full((len(self.types), len(self.types)), -1, dtype=np.int64)
        for number, (u, v) in enumerate(self.pairs):
            table[u, v] = table[v, u] = number
        return table

    def record(self) -> dict[str, Any]:
        """What a bundle says of its conditions, JSON values only: the column, and the two types of each name."""
        joined = ([self.types[u], self.types[v]] for u, v in self.pairs)
        return {
            "column": self.column,
            "types": dict(zip(self.names, joined, strict=True)),
            "left_out": dict(Counter(self.left_out.values())),
        }

    def print_summary(self, echo: Echo) -> None:
        """Says how many conditions there are, and which pairs of types are none, by reason."""
        present = len({of for pair in self.pairs for of in pair})
        echo(f"{len(self.pairs):,} conditions join the {present:,} types of {self.column}")
        for why, count in Counter(self.left_out.values()).most_common():
            named = [name for name, reason in self.left_out.items() if reason == why]
            shown = ", ".join(named[:_SHOWN]) + (", …" if count > _SHOWN else "")
            echo(f"no condition for {count:,} pairs of types, {why}: {shown}")


def find_conditions(
    products: Sequence[Product], column: str, labels: Indices, among: Indices, *, least: int = 1
) -> Conditions:
    """The conditions that the training products ``among`` can teach, with ``labels`` [I], −1 for none.

    A pair of types is a condition where ``least`` pairs of one training product of either type share a label, and one
    pair does not; two different products of a type are such a pair too. UsageError where no pair of types is.
    """
    if least < 1:
        raise UsageError(f"a condition needs at least 1 positive pair, not {least}")
    type_of, values = label_ids(products, [column])
    types = tuple(value for (value,) in values)
    known = among[(labels[among] >= 0) & (type_of[among] >= 0)]
    shape = (len(types), int(labels.max(initial=-1)) + 1)
    ones = np.ones(len(known), dtype=np.int64)
    counts = sparse.csr_array((ones, (type_of[known], labels[known])), shape=shape)  # [T, L]
    pairs, left_out = _choose_pairs(counts, types, least)
    if not pairs:
        present = np.count_nonzero(counts.sum(axis=1))
        raise UsageError(
            f"no two types of {column} make a condition: {len(known):,} training products with a type and a label, "
            f"{present:,} types; {', '.join(sorted(set(left_out.values()))) or 'nothing to compare'}. "
            "Name another column for the types, or other columns to be similar by."
        )
    if long := next((name for u, v in pairs if len(name := condition_name(types[u], types[v])) > MAX_ID), None):
        raise UsageError(f"the type {long[:60]!r}… of {column} is too long for a condition's name")
    joined = np.zeros((len(types), len(types)), dtype=np.int64)
    for u, v in pairs:
        joined[u, v] = joined[v, u] = 1
    partners = (counts.T @ joined)[labels[known], type_of[known]] - np.diagonal(joined)[type_of[known]]
    return Conditions(column, types, type_of, tuple(pairs), known[partners > 0], left_out)


def _choose_pairs(
    counts: sparse.csr_array, types: Sequence[str], least: int
) -> tuple[list[tuple[int, int]], dict[str, str]]:
    """The pairs of types u <= v that are conditions, and why the others are none, by their names.

    ``counts`` [T, L] are the products of each type and label.
    """
    sizes = np.asarray(counts.sum(axis=1))
    positives, everything = (counts @ counts.T).toarray(), np.multiply.outer(sizes, sizes)
    for pairs in (positives, everything):  # of one type: without a product and itself, and each pair once
        np.fill_diagonal(pairs, (np.diagonal(pairs) - sizes) // 2)
    chosen, left_out = [], {}
    present = np.flatnonzero(sizes)
    for place, u in enumerate(present.tolist()):
        for v in present[place:].tolist():
            if why := _why_no_condition(int(positives[u, v]), int(everything[u, v]), least):
                left_out[condition_name(types[u], types[v])] = why
            else:
                chosen.append((u, v))
    return chosen, left_out


def condition_batches(
    conditions: Conditions, labels: Indices, *, batch: int, per_label: int, rng: np.random.Generator
) -> list[Indices]:
    """One epoch of batches for conditional triplets: every usable product once, in groups of one label.

    As in ``label_batches``; within a label the types are shuffled. A batch so holds many different conditions, each as
    often as its positive pairs come up. Batches of few types each reach fewer conditions: of the 1,419 that join 60
    article types of 2,089 garments by colour, 249 had a triplet in an epoch of such batches, 705 in one of these.
    """
    return label_batches(labels, conditions.usable, batch=batch, per_label=per_label, rng=rng)


@dataclass(frozen=True)
class ConditionalLoss:
    """The loss of a training under conditions, for any batch of its products.

    ``masks`` gives the masks [C, D] as they are now, with their gradient. ``labels`` [I], ``types`` [I] and ``table``
    [T, T] are integers as in :class:`Conditions`. The penalties' weights are those of Vasileva et al.'s code.
    """

    masks: Callable[[], Tensor]
    labels: Indices
    types: Indices
    table: Indices
    margin: float
    mining: str
    mask_weight: float = 5e-4
    embedding_weight: float = 5e-4

    def __call__(self, embeddings: Tensor, indices: Indices) -> dict[str, Tensor]:
        """The weighted parts, whose sum is the loss, of embeddings [B, D] of the products ``indices`` [B]."""
        labels, types, table = (
            torch.from_numpy(each).to(embeddings.device)
            for each in (self.labels[indices], self.types[indices], self.table)
        )
        masks = self.masks()
        used = conditional_anchors(labels, types, table).condition
        return {
            "triplet": conditional_triplets(embeddings, masks, labels, types, table, self.margin, self.mining),
            "mask": self.mask_weight * mask_penalty(masks, used),
            "embedding": self.embedding_weight * embedding_penalty(embeddings),
        }


def conditional_retrieval(
    embeddings: Float32, masks: Float32, labels: Indices, types: Indices, table: Indices
) -> dict[str, float]:
    """How well products find the products of a type that share their label, under the condition of both types.

    A query is a product and a type that a condition of ``table`` [T, T] joins with its own; it ranks the other products
    of that type by the cosine of the embeddings [I, D] under the condition's mask, of ``masks`` [C, D]. Queries without
    a product to find do not count; a label or type of −1 is no query, and such a label is never relevant. Returns what
    ``transforms.core.metrics.retrieval.retrieval`` returns, means over queries.
    """
    vectors = embeddings.astype(np.float64)
    figures: list[tuple[float, float, float]] = []
    for u, v in np.argwhere(table >= 0).tolist():
        queries, candidates = np.flatnonzero((types == u) & (labels >= 0)), np.flatnonzero(types == v)
        mask = masks[table[u, v]].astype(np.float64)
        scores = _unit_vectors(vectors[queries] * mask) @ _unit_vectors(vectors[candidates] * mask).T
        for query, line in zip(queries, scores, strict=True):
            others = candidates != query
            relevant = labels[candidates[others]] == labels[query]
            if relevant.any():
                ranked = relevant[np.argsort(-line[others], kind="stable")]
                figures.append((float(ranked[0]), average_precision(ranked), float(relevant.mean())))
    means = np.mean(figures, axis=0).tolist() if figures else [float("nan")] * 3
    return {**dict(zip(("recall@1", "map", "chance"), means, strict=True)), "queries": float(len(figures))}


def _why_no_condition(positives: int, everything: int, least: int) -> str | None:
    """Why two types with so many pairs of their products are no condition; None where they are one."""
    if not positives:
        return "no two of their products share a label"
    if positives == everything:
        return "all of their products share one label"
    return f"fewer than {least} pairs of their products share a label" if positives < least else None


def _unit_vectors(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors / lengths
