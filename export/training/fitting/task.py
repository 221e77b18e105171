"""What the training loop is given, and what it gives back: a task, and the rows of its curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from export.training.data.dataset import Indices


@dataclass(frozen=True)
class TrainingTask:
    """What is trained: a network with its trunk, the batches of an epoch, a loss and a validation.

    ``batches(rng)`` lists the indices of one epoch's batches; ``loss(output, indices, affine)`` names the
    weighted parts of the loss, scalars of what the network made of them, whose sum is minimised; ``affine`` [B, 2, 3]
    is how augmentation moved the images (``export.training.data.augmentation.warp``), or None;
    ``validate()`` returns figures, of which ``metric`` is the one to maximise.
    """

    network: nn.Module
    trunk: nn.Module
    batches: Callable[[np.random.Generator], list[Indices]]
    loss: Callable[[Any, Indices, Tensor | None], Mapping[str, Tensor]]
    validate: Callable[[], Mapping[str, float]]
    metric: str


@dataclass(frozen=True)
class Epoch:
    """One row of the training curve. ``parts`` are the means of what ``loss`` is the sum of."""

    epoch: int
    loss: float
    seconds: float
    validation: Mapping[str, float]
    parts: Mapping[str, float] = field(default_factory=dict)
