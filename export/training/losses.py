"""The losses of both trainings, and the online mining of triplets.

Distances are cosine distances, 1 − cos, in [0, 2]: what the served similarity orders by. Mining happens inside of a
batch: every embedding is an anchor a; a positive p has its label, a negative n has another. Under conditions a product
is an anchor once for every type that a condition joins with its own, and p and n are of that type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

from transforms.core.errors import UsageError

Mining = Literal["semi-hard", "batch-hard"]
TripletLoss: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
_Terms: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def cosine_distances(embeddings: Tensor) -> Tensor:
    """Embeddings [B, D] of any length to distances [B, B], 0 for the same direction and 2 for the opposite one."""
    units = functional.normalize(embeddings, dim=1)
    return 1 - units @ units.T


def batch_hard(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors of max(0, max_p d(a, p) − min_n d(a, n) + margin).

    Hermans et al., "In Defense of the Triplet Loss" (arXiv 1703.07737), equation 5. ``distances`` [B, B], ``labels``
    [B] integers. Anchors without a positive or without a negative do not count; a batch without an anchor gives 0.
    """
    positive, negative = _relations(labels)
    return _mean(_hardest(distances, positive, negative, margin), distances)


def semi_hard(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors and positives of max(0, d(a, p) − d(a, n) + margin), n the semi-hard negative.

    Schroff et al., "FaceNet" (arXiv 1503.03832), section 3.2: n is the nearest negative that is further away than the
    positive. Where no negative is, n is the furthest one: the hardest negatives early in training can collapse all
    embeddings into one point, the furthest cannot. Shapes as in :func:`batch_hard`.
    """
    positive, negative = _relations(labels)
    return _mean(_semi_hardest(distances, positive, negative, margin), distances)


def check_mining(mining: str) -> str:
    """``mining``; UsageError where it names none."""
    if mining not in (names := get_args(Mining)):
        raise UsageError(f"there is no triplet mining {mining!r}; take one of {', '.join(names)}")
    return mining


def triplet_loss(mining: str) -> TripletLoss:
    """The loss by its name; UsageError for another."""
    losses: dict[str, TripletLoss] = {"semi-hard": semi_hard, "batch-hard": batch_hard}
    return losses[check_mining(mining)]


@dataclass(frozen=True)
class ConditionalAnchors:
    """The Q anchors of a batch under conditions: a product, and a type whose products it is compared with.

    ``anchor`` [Q] and ``condition`` [Q] are integers; ``positive`` and ``negative`` [Q, B] say which products of the
    batch are of that type and have the anchor's label, or another one. Each anchor has one of either at least.
    """

    anchor: Tensor
    condition: Tensor
    positive: Tensor
    negative: Tensor


def conditional_anchors(labels: Tensor, types: Tensor, condition_of: Tensor) -> ConditionalAnchors:
    """The anchors of a batch with ``labels`` [B] and ``types`` [B], integers; −1 takes no part.

    ``condition_of`` [T, T] is the symmetric table of the conditions' numbers by two types, −1 where there is none.
    """
    known = (labels >= 0) & (types >= 0)
    present = torch.unique(types[known])  # [t]
    condition = condition_of[types.clamp(min=0)][:, present]  # [B, t]
    candidate = known & (types == present[:, None])  # [t, B]
    compared = (known[:, None] & (condition >= 0))[:, :, None] & candidate  # [B, t, B]
    positive, negative = (compared & relation[:, None] for relation in _relations(labels))
    anchor, place = torch.nonzero(positive.any(dim=2) & negative.any(dim=2), as_tuple=True)
    return ConditionalAnchors(anchor, condition[anchor, place], positive[anchor, place], negative[anchor, place])


def conditional_distances(embeddings: Tensor, masks: Tensor, types: Tensor, condition_of: Tensor) -> Tensor:
    """Distances [B, B], those of products i and j under the condition of their types: 1 − cos(m ⊙ x_i, m ⊙ x_j).

    Embeddings [B, D] of any length, ``masks`` m [C, D]. Vasileva et al., "Learning Type-Aware Embeddings for Fashion
    Compatibility" (arXiv 1803.09196), "Respecting Type in Embedding"; the cosine stands for their Euclidean distance.
    A distance of types that no condition joins means nothing. Takes 4·B²·D bytes a few times over.
    """
    present, place = torch.unique(types, return_inverse=True)
    condition = condition_of[types][:, present]  # [B, t]
    units = functional.normalize(embeddings[:, None] * masks[condition], dim=2)  # [B, t, D]
    towards = units[:, place]  # [B, B, D]: product i as the condition with the type of product j shows it
    return 1 - (towards * towards.transpose(0, 1)).sum(dim=2)


def conditional_triplets(
    embeddings: Tensor,
    masks: Tensor,
    labels: Tensor,
    types: Tensor,
    condition_of: Tensor,
    margin: float,
    mining: str = "semi-hard",
) -> Tensor:
    """The triplet loss of a batch under conditions, the mean over the triplets of all conditions; a scalar.

    For a condition that joins the types u and v: anchors of type u with positives and negatives of type v, and the
    other way round (the compatibility loss of Vasileva et al., arXiv 1803.09196). Where they draw triplets, these are
    mined as in :func:`semi_hard` and :func:`batch_hard`, among candidates of one type; one condition of one type with
    a mask of ones gives just these losses. Shapes as in :func:`conditional_anchors` and :func:`conditional_distances`.
    """
    terms: dict[str, _Terms] = {"semi-hard": _semi_hardest, "batch-hard": _hardest}
    mined = terms[check_mining(mining)]
    anchors = conditional_anchors(labels, types, condition_of)
    distances = conditional_distances(embeddings, masks, types, condition_of)
    return _mean(mined(distances[anchors.anchor], anchors.positive, anchors.negative, margin), distances)


def mask_penalty(masks: Tensor, condition: Tensor) -> Tensor:
    """Mean L1 norm of the masks [C, D], none below 0, over the conditions [Q] of a batch's anchors; 0 without any.

    It makes masks sparse (Vasileva et al., arXiv 1803.09196). As in their code, a mask that no anchor of the batch has
    used is left alone: the penalty would take it down to nothing, with no triplet to hold against it.
    """
    return _mean(masks[condition].sum(dim=1), masks)


def embedding_penalty(embeddings: Tensor) -> Tensor:
    """Root mean square of the lengths of embeddings [B, D] before any mask, as in the code of arXiv 1803.09196."""
    length: Tensor = torch.linalg.vector_norm(embeddings) / len(embeddings) ** 0.5
    return length


def attribute_bce(logits: Tensor, targets: Tensor, known: Tensor, positive_weight: Tensor) -> Tensor:
    """Binary cross-entropy over the known cells, the mean of −w_a·y·log σ(x) − (1 − y)·log(1 − σ(x)).

    ``logits``, ``targets`` (0 or 1) and ``known`` (bool) are [B, A], ``positive_weight`` is [A]. A product whose
    catalogue cell is empty says nothing of that column's attributes: its cells are not known. None known gives 0.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight, reduction="none")
    return _mean(losses[known], logits)


def positive_weights(targets: Tensor, known: Tensor, limit: float) -> Tensor:
    """Weights [A] that balance each attribute, negatives / positives, between 1 and ``limit``.

    A limit of 1 leaves scores calibrated; a larger one raises the scores of rare attributes above their frequency.
    """
    positives = (targets * known).sum(dim=0).clamp(min=1)
    negatives = ((1 - targets) * known).sum(dim=0)
    return (negatives / positives).clamp(1, limit)


def _hardest(distances: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """The terms of :func:`batch_hard`, one for each anchor with both, of anchors against candidates, all [Q, K]."""
    furthest = distances.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negative, torch.inf).amin(dim=1)
    anchors = positive.any(dim=1) & negative.any(dim=1)
    return (furthest - nearest + margin)[anchors].relu()


def _semi_hardest(distances: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """The terms of :func:`semi_hard`, one for each anchor and positive, of anchors against candidates, all [Q, K]."""
    anchor, pos = torch.nonzero(positive & negative.any(dim=1, keepdim=True), as_tuple=True)
    to_positive = distances[anchor, pos]
    rows, allowed = distances[anchor], negative[anchor]  # [triplets, K]
    beyond = allowed & (rows > to_positive[:, None])
    semi = rows.masked_fill(~beyond, torch.inf).amin(dim=1)
    furthest = rows.masked_fill(~allowed, -torch.inf).amax(dim=1)
    to_negative = torch.where(beyond.any(dim=1), semi, furthest)
    return (to_positive - to_negative + margin).relu()


def _relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _mean(values: Tensor, graph: Tensor) -> Tensor:
    # An empty selection still has to give a loss that can be stepped on: 0, attached to the graph.
    return values.mean() if values.numel() else graph.sum() * 0
