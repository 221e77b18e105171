"""What an attribute training minimises: the attributes' loss, and their maps' distance from saliency maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.training.data.dataset import Indices
from export.training.data.saliency_maps import SaliencyMaps
from export.training.losses import attribute_bce, positive_weights
from export.training.settings import AttributeTraining, SaliencySupervision
from export.training.supervision import attribute_smooth_l1, saliency_loss

TargetLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits, targets and what of them is known, all [B, A]."""
MapLoss: TypeAlias = Callable[[Tensor, Tensor, Indices, Tensor | None], Tensor]
"""Of evidence [B, A, h, w], which attributes are there [B, A], the products [B] and how augmentation moved them."""


@dataclass(frozen=True)
class AttributeObjective:
    """The loss of a training on I products with A attributes, for any batch of them.

    ``targets`` float32 [I, A] and ``known`` bool [I, A] lie on the device of the training. Without ``map_loss`` the
    attributes alone count.
    """

    targets: Tensor
    known: Tensor
    target_loss: TargetLoss
    map_loss: MapLoss | None = None

    def loss(self, output: tuple[Tensor, Tensor], indices: Indices, affine: Tensor | None) -> dict[str, Tensor]:
        """The weighted parts, whose sum is the loss, of logits [B, A] and evidence [B, A, h, w]."""
        logits, evidence = output
        targets, known = self.targets[indices], self.known[indices]
        parts = {"attributes": self.target_loss(logits, targets, known)}
        if self.map_loss is not None:
            parts["saliency"] = self.map_loss(evidence, (targets > 0) & known, indices, affine)
        return parts


def attribute_objective(
    settings: AttributeTraining,
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    train: Indices,
    maps: SaliencyMaps | None,
) -> AttributeObjective:
    """The objective that ``settings`` ask for; rare attributes are weighed up by the products ``train`` alone."""
    y = torch.from_numpy(targets).float().to(settings.recipe.device)
    mask = torch.from_numpy(known).to(settings.recipe.device)
    target_loss: TargetLoss = attribute_smooth_l1
    if settings.attribute_loss == "bce":
        weights = positive_weights(y[train], mask[train].float(), settings.positive_weight)
        target_loss = partial(attribute_bce, positive_weight=weights)
    supervision = settings.saliency
    if maps is None or supervision is None or not supervision.weight:
        return AttributeObjective(y, mask, target_loss)
    return AttributeObjective(y, mask, target_loss, partial(_map_loss, maps, supervision))


def _map_loss(
    maps: SaliencyMaps,
    supervision: SaliencySupervision,
    evidence: Tensor,
    has: Tensor,
    indices: Indices,
    affine: Tensor | None,
) -> Tensor:
    """lambda * L_hm, with the products' saliency maps moved as augmentation moved their images."""
    given, real = (each.to(evidence.device) for each in maps.of(indices))
    distance = saliency_loss(evidence, given, real, has, affine=affine, temperature=supervision.temperature)
    return supervision.weight * distance
