"""What a similarity training minimises and is validated by: one similarity for all products, or one for two types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from export.training.conditions import ConditionalLoss, Conditions, condition_batches, conditional_retrieval
from export.training.data.batches import label_batches
from export.training.data.dataset import Indices
from export.training.losses import cosine_distances, triplet_loss
from export.training.settings import SimilarityTraining
from transforms.core.metrics.retrieval import retrieval
from transforms.core.records import Float32

Embed = Callable[[Indices], Float32]
"""The embeddings [B, D] of some products, as the network stands."""


class SimilarityObjective(Protocol):
    """``usable`` are the training products that triplets are made of; the methods are those of a ``TrainingTask``."""

    @property
    def usable(self) -> Indices: ...

    def batches(self, rng: np.random.Generator) -> list[Indices]: ...

    def loss(self, output: Tensor, indices: Indices, affine: Tensor | None) -> Mapping[str, Tensor]: ...

    def evaluate(self, part: Indices) -> dict[str, float]:
        """Figures of retrieval among the products ``part``, of which "queries" is 0 where none has another to find."""
        ...


@dataclass(frozen=True)
class PlainSimilarity:
    """One similarity for all products: triplets over cosine distances. ``labels`` are [I], −1 for none."""

    settings: SimilarityTraining
    labels: Indices
    train: Indices
    usable: Indices
    embed: Embed

    def batches(self, rng: np.random.Generator) -> list[Indices]:
        batch, per_label = self.settings.recipe.batch, self.settings.per_label
        return label_batches(self.labels, self.train, batch=batch, per_label=per_label, rng=rng)

    def loss(self, output: Tensor, indices: Indices, affine: Tensor | None) -> Mapping[str, Tensor]:
        labels = torch.from_numpy(self.labels[indices]).to(output.device)
        mined = triplet_loss(self.settings.mining)
        return {"triplet": mined(cosine_distances(output), labels, self.settings.margin)}

    def evaluate(self, part: Indices) -> dict[str, float]:
        return retrieval(self.embed(part), self.labels[part])


@dataclass(frozen=True)
class ConditionalSimilarity:
    """A similarity for any two types that are a condition, each under its mask, of ``masks()`` [C, D]."""

    settings: SimilarityTraining
    labels: Indices
    conditions: Conditions
    masks: Callable[[], Tensor]
    embed: Embed

    @property
    def usable(self) -> Indices:
        return self.conditions.usable

    def batches(self, rng: np.random.Generator) -> list[Indices]:
        batch, per_label = self.settings.recipe.batch, self.settings.per_label
        return condition_batches(self.conditions, self.labels, batch=batch, per_label=per_label, rng=rng)

    def loss(self, output: Tensor, indices: Indices, affine: Tensor | None) -> Mapping[str, Tensor]:
        return self._loss(output, indices)

    def evaluate(self, part: Indices) -> dict[str, float]:
        masks = self.masks().detach().cpu().numpy()
        types = self.conditions.type_of[part]
        return conditional_retrieval(self.embed(part), masks, self.labels[part], types, self.conditions.table)

    @cached_property
    def _loss(self) -> ConditionalLoss:
        types, table = self.conditions.type_of, self.conditions.table
        margin, mining = self.settings.margin, self.settings.mining
        return ConditionalLoss(self.masks, self.labels, types, table, margin, mining)
