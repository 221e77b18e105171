"""The training loop on a network whose validation is scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.training.data.dataset import TrainingDataset
from export.training.fitting.loop import fit
from export.training.fitting.task import TrainingTask
from export.training.networks.backbones import Normalisation
from export.training.settings import Recipe
from transforms.core.errors import RunError

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Scripted:
    """A task whose validation is a given list of figures."""

    def __init__(self, figures: list[float], loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.network = nn.Conv2d(3, 1, 1)
        self.weights: list[torch.Tensor] = []
        remaining = iter(figures)

        def validate() -> dict[str, float]:
            self.weights.append(self.network.weight.detach().clone())
            return {"figure": next(remaining)}

        self.task = TrainingTask(
            network=self.network,
            trunk=self.network,
            batches=lambda rng: [np.arange(4)],
            loss=lambda output, *_: {"scripted": loss(output)},
            validate=validate,
            metric="figure",
        )

    def fit(self, **recipe: Any) -> Any:
        dataset = TrainingDataset((), np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8), {})
        return fit(self.task, dataset, Normalisation(), Recipe(batch=4, **recipe), lambda _: None)


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    scripted = Scripted([0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.9], lambda output: output.square().mean())
    curve = scripted.fit(epochs=7, patience=3)
    assert [row.validation["figure"] for row in curve] == [0.1, 0.5, 0.4, 0.5, 0.3]  # three after the first 0.5
    assert torch.equal(scripted.network.weight, scripted.weights[3])  # of equals the later one


def test_without_a_validation_the_last_epoch_stays() -> None:
    scripted = Scripted([float("nan")] * 3, lambda output: output.square().mean())
    assert len(scripted.fit(epochs=3, patience=5)) == 3
    assert torch.equal(scripted.network.weight, scripted.weights[-1])


def test_a_loss_that_is_not_finite_breaks_the_run() -> None:
    with pytest.raises(RunError, match="not finite in epoch 1; lower the learning rate"):
        Scripted([0.0], lambda output: output.mean() * float("nan")).fit(epochs=1)
