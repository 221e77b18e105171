"""The losses of both trainings, and the online mining of triplets.

Distances are cosine distances, 1 − cos, in [0, 2]: what the served similarity orders by. Mining happens inside of a
batch: every embedding is an anchor a; a positive p has its label, a negative n has another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from transforms.core.errors import UsageError

Mining = Literal["semi-hard", "batch-hard"]
TripletLoss: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]


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
    furthest = distances.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negative, torch.inf).amin(dim=1)
    anchors = positive.any(dim=1) & negative.any(dim=1)
    return _mean((furthest - nearest + margin)[anchors].relu(), distances)


def semi_hard(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors and positives of max(0, d(a, p) − d(a, n) + margin), n the semi-hard negative.

    Schroff et al., "FaceNet" (arXiv 1503.03832), section 3.2: n is the nearest negative that is further away than the
    positive. Where no negative is, n is the furthest one: the hardest negatives early in training can collapse all
    embeddings into one point, the furthest cannot. Shapes as in :func:`batch_hard`.
    """
    positive, negative = _relations(labels)
    anchor, pos = torch.nonzero(positive & negative.any(dim=1, keepdim=True), as_tuple=True)
    to_positive = distances[anchor, pos]
    rows, allowed = distances[anchor], negative[anchor]  # [T, B]
    beyond = allowed & (rows > to_positive[:, None])
    semi = rows.masked_fill(~beyond, torch.inf).amin(dim=1)
    furthest = rows.masked_fill(~allowed, -torch.inf).amax(dim=1)
    to_negative = torch.where(beyond.any(dim=1), semi, furthest)
    return _mean((to_positive - to_negative + margin).relu(), distances)


def triplet_loss(mining: str) -> TripletLoss:
    """The loss by its name; UsageError for another."""
    losses: dict[str, TripletLoss] = {"semi-hard": semi_hard, "batch-hard": batch_hard}
    if mining not in losses:
        raise UsageError(f"there is no triplet mining {mining!r}; take one of {', '.join(losses)}")
    return losses[mining]


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


def _relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _mean(values: Tensor, graph: Tensor) -> Tensor:
    # An empty selection still has to give a loss that can be stepped on: 0, attached to the graph.
    return values.mean() if values.numel() else graph.sum() * 0
