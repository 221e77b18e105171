"""Where a training stands: what the rest of it depends on, to the bit."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from export.training.fitting.state_file import StateFile
from export.training.fitting.task import Epoch
from transforms.core.errors import UsageError

_NUMBERS = ("best", "epoch", "step", "losses", "stopped")
"""The fields that are plain values already."""


@dataclass
class TrainingState:
    """The next step of the running epoch, and all that the steps from there on depend on.

    ``best`` is the best figure so far, of which the network had ``best_weights``. ``losses`` are those of the running
    epoch's steps, "loss" and its parts by name. ``began`` is when the training began, by ``time.monotonic``, as if
    it had never been stopped.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    best_weights: dict[str, Any]
    best: float = -math.inf
    epoch: int = 1
    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    curve: list[Epoch] = field(default_factory=list)
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def at_start(cls, network: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
        """Before the first step."""
        return cls(network, optimiser, best_weights=copy.deepcopy(network.state_dict()))

    @property
    def seconds(self) -> float:
        """How long it has trained, with the time before it was stopped."""
        return time.monotonic() - self.began

    def mean_loss(self, part: str = "loss") -> float:
        """The mean of a part of the loss over the epoch's steps so far."""
        return float(np.mean([row[part] for row in self.losses]))

    def close_epoch(self, figures: Mapping[str, float], metric: str) -> bool:
        """Puts the epoch's row on the curve, keeps its weights if they are the best, and returns whether they are."""
        parts = {name: self.mean_loss(name) for name in self.losses[0] if name != "loss"}
        self.curve.append(Epoch(self.epoch, self.mean_loss(), round(self.seconds, 2), figures, parts))
        # Of equals the later epoch, which has converged further; the last one where validation gives NaN.
        better = not figures[metric] < self.best
        if better:
            self.best, self.best_weights = figures[metric], copy.deepcopy(self.network.state_dict())
        return better

    def epochs_without_gain(self, metric: str) -> int:
        """How many epochs have passed since the first one that no other has surpassed."""
        values = [row.validation[metric] for row in self.curve]
        best = int(np.argmax([-math.inf if math.isnan(value) else value for value in values]))
        return self.curve[-1].epoch - self.curve[best].epoch

    def begin_next_epoch(self) -> None:
        """Moves to the first step of the next epoch."""
        self.epoch, self.step, self.losses = self.epoch + 1, 0, []

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`restore` goes on, torch's own generators included."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best_state": self.best_weights,
            "generators": [torch.get_rng_state(), *cuda],
            "curve": [asdict(row) for row in self.curve],
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in _NUMBERS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`to_plain` gave, torch's own generators included."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best_weights = state["best_state"]
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) > 1 and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        self.curve = [Epoch(**row) for row in state["curve"]]
        self.began = time.monotonic() - state["seconds"]
        for name in _NUMBERS:
            setattr(self, name, state[name])


def resume(state: TrainingState, file: StateFile) -> bool:
    """Makes ``state`` that of the file, and says whether there was one to go on from; UsageError for a damaged one."""
    if (content := file.read()) is None:
        return False
    try:
        state.restore(content)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"{file.path} is no whole state of a training ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'damaged'}): remove it, or leave --resume out"
        ) from None
    return True


class StateWriter:
    """Writes where a training stands to its file, every few seconds and whenever it is told to; without a file never.

    Both methods raise RunError where the file cannot be written.
    """

    def __init__(self, state: TrainingState, file: StateFile | None) -> None:
        self._state, self._file = state, file
        self._written = time.monotonic()

    def write(self) -> None:
        """Writes the state now."""
        if self._file is not None:
            self._file.write(self._state.to_plain())
            self._written = time.monotonic()

    def write_if_due(self) -> None:
        """Writes where the last time is longer ago than the file asks for."""
        if self._file is not None and time.monotonic() - self._written >= self._file.seconds:
            self.write()
