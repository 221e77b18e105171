"""Where a training stands, on disk: what is needed to go on as if it had never been stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.training.data.dataset import TrainingDataset
from export.training.networks.weights import load_plain
from transforms.core.errors import RunError, UsageError

FORMAT = 2


@dataclass(frozen=True)
class StateFile:
    """The file in which a training keeps its state, and how often it writes it.

    ``path`` is written at most every ``seconds`` and at the end of every epoch, and removed when the training is done.
    With ``resume`` a state that is there is gone on from; otherwise it is begun anew. ``settings`` is the digest of
    all that decides the result: a state of other settings is refused.
    """

    path: Path
    resume: bool = False
    seconds: float = 60.0
    settings: str = ""

    @property
    def _next(self) -> Path:
        """Where the next state is written. One name: what a kill leaves of it is overwritten, or removed at the end."""
        return self.path.with_name(f".{self.path.name}.next")

    def read(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one; UsageError for one of other settings, or no such state."""
        if not self.resume or not self.path.exists():
            return None
        content = load_plain(self.path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UsageError(f"{self.path} is no state of a training of this version: remove it, or leave --resume out")
        if content.get("settings") != self.settings:
            raise UsageError(
                f"{self.path} is the state of a training with other settings or another catalogue, or on another "
                "machine (threads, torch, device), which cannot go on with these to the same weights: give the options "
                "that it was started with, or leave --resume out to begin anew"
            )
        return content

    def write(self, state: Mapping[str, Any]) -> None:
        """Puts the state on disk; whoever reads it meanwhile, or after a crash, sees the old state or the new one.

        RunError where it cannot be written, such as on a full disk; the old state stays.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._next.open("wb") as stream:
                    torch.save({"format": FORMAT, "settings": self.settings, **state}, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(self._next, self.path)
            except BaseException:
                self._next.unlink(missing_ok=True)
                raise
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own, where a write failed within it
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise RunError(
                f"where the training stands cannot be written to {self.path}: {reason}. Make room there, or mend the "
                "folder, and give the same options with --resume to go on from the last state that was written"
            ) from error

    def remove(self) -> None:
        """Forgets the state of a training that is done."""
        self.path.unlink(missing_ok=True)
        self._next.unlink(missing_ok=True)


def settings_digest(settings: Mapping[str, Any], dataset: TrainingDataset) -> str:
    """The sha256 of all that decides a training: its settings and the data, images included.

    Where ``weights`` is a file, it is its content that counts. Arrays and frozen dataclasses count by what they hold.
    """
    digest = hashlib.sha256()
    for name, value in sorted(settings.items()):
        if isinstance(value, np.ndarray):
            digest.update(f"{name}:{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif name == "weights" and value is not None and Path(value).is_file():
            digest.update(Path(value).read_bytes())
        else:
            digest.update(f"{name}={value!r};".encode())
    for product in dataset.products:
        digest.update(f"{product.id!r},{product.split};".encode())
    digest.update(np.ascontiguousarray(dataset.images).data)
    return digest.hexdigest()
