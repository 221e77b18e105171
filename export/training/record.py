"""What a training leaves behind: a checkpoint, and beside it a record with settings, curve and figures as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from export.training.data import Dataset, Echo
from export.training.fitting import Epoch, Recipe
from export.training.networks.checkpoint import Config, save
from transforms import storage


@dataclass(frozen=True)
class Trained:
    """A finished training: its checkpoint, its record and the figures of the best epoch, by split."""

    checkpoint: Path
    record: Path
    figures: Mapping[str, Mapping[str, float]]


def describe(
    catalogue: str,
    weights: str | None,
    recipe: Recipe,
    settings: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, float]],
    dataset: Dataset,
) -> dict[str, Any]:
    """What a bundle will say of the training, JSON values only."""
    return {
        # The name only: a bundle travels further than the folders of the machine that it was trained on.
        "catalogue": storage.redact(catalogue).rsplit("/", 1)[-1],
        "weights": weights if weights in (None, "default") else Path(weights).name,
        **settings,
        "recipe": asdict(recipe),
        "images": {split: len(dataset.part(split)) for split in ("train", "valid", "test")},
        "skipped": dict(dataset.skipped),
        "figures": {split: _finite(values) for split, values in figures.items()},
    }


def write(
    out: Path,
    config: Config,
    network: torch.nn.Module,
    curve: Sequence[Epoch],
    figures: Mapping[str, Mapping[str, float]],
    started: float,
    extra: Mapping[str, Any],
    echo: Echo,
) -> Trained:
    """Writes the checkpoint and its record into ``out`` and says what came out."""
    checkpoint, record = out / f"{config.kind}.pt", out / f"{config.kind}.json"
    save(checkpoint, config, network)
    seconds = time.time() - started
    content = {
        **asdict(config),
        **extra,
        "curve": [{**asdict(row), "validation": _finite(row.validation)} for row in curve],
        "seconds": round(seconds, 1),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    record.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for split, values in figures.items():
        echo(f"{split}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
    echo(f"{checkpoint} after {seconds:.0f} s; the curve lies in {record}")
    return Trained(checkpoint, record, figures)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(float(value), 5) for name, value in values.items()}
