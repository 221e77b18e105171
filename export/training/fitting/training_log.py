"""What a training says while it runs: a line an epoch, and now and then one within."""

from __future__ import annotations

import time

from export.training.fitting.state import TrainingState
from transforms.core.messages import Echo

_SECONDS = 20
"""How long an epoch is silent."""


class TrainingLog:
    """Says where a training of ``epochs`` epochs stands, of which ``metric`` is the figure that counts."""

    def __init__(self, echo: Echo, epochs: int, metric: str) -> None:
        self._echo, self._epochs, self._metric = echo, epochs, metric
        self._said = time.monotonic()

    def resumed(self, state: TrainingState) -> None:
        self._echo(f"going on at epoch {state.epoch}, batch {state.step + 1}")

    def step(self, state: TrainingState, steps: int) -> None:
        """Says how far an epoch of ``steps`` steps is, where the last line is long ago."""
        if (now := time.monotonic()) - self._said > _SECONDS:
            self._echo(f"  epoch {state.epoch}, batch {state.step} of {steps}, loss {state.mean_loss():.4f}")
            self._said = now

    def epoch(self, state: TrainingState, better: bool) -> None:
        """Says the last row of the curve, and how long the rest takes without early stopping."""
        row = state.curve[-1]
        named = [name for name in row.validation if name in (self._metric, "map")]
        shown = "  ".join(f"{name} {row.validation[name]:.3f}" for name in named)
        left = row.seconds / row.epoch * (self._epochs - row.epoch)
        self._echo(
            f"epoch {row.epoch:>3}/{self._epochs}  loss {row.loss:.4f}  {shown}{'  *' if better else ''}  "
            f"{_duration(row.seconds)} gone, at most {_duration(left)} to go"
        )
        self._said = time.monotonic()

    def stopped(self, since: int) -> None:
        self._echo(f"no better {self._metric} for {since} epochs: stopped")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
