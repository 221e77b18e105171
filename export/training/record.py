"""What a training leaves behind: a checkpoint, and beside it a record with settings, curve and figures as JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from export.training.data.dataset import TrainingDataset
from export.training.fitting.task import Epoch
from export.training.networks.checkpoint import Config, save
from export.training.settings import TrainingSettings
from transforms import storage
from transforms.core.messages import Echo


@dataclass(frozen=True)
class Trained:
    """A finished training: its checkpoint, its record and the figures of the best epoch, by split."""

    checkpoint: Path
    record: Path
    figures: Mapping[str, Mapping[str, float]]


def describe(
    settings: TrainingSettings,
    own: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, float]],
    dataset: TrainingDataset,
) -> dict[str, Any]:
    """What a bundle will say of the training, JSON values only; ``own`` are the settings of its kind."""
    weights = settings.weights
    return {
        # The name only: a bundle travels further than the folders of the machine that it was trained on.
        "catalogue": storage.redact(settings.catalogue).rsplit("/", 1)[-1],
        "weights": weights if weights in (None, "default") else Path(weights).name,
        **own,
        "recipe": asdict(settings.recipe),
        "images": {split: len(dataset.part(split)) for split in ("train", "valid", "test")},
        "skipped": dict(dataset.skipped),
        "figures": {split: _finite(values) for split, values in figures.items()},
    }


def write_trained(
    out: Path,
    config: Config,
    network: torch.nn.Module,
    curve: Sequence[Epoch],
    figures: Mapping[str, Mapping[str, float]],
    extra: Mapping[str, Any],
    echo: Echo,
) -> Trained:
    """Writes the checkpoint and its record into ``out`` and says what came out.

    A record of an earlier training goes first: killed in between, it would stand beside a checkpoint that is not its.
    The seconds are those of the training itself, with those before a kill.
    """
    started = time.time() - curve[-1].seconds
    checkpoint, record = _paths(out, config.kind)
    record.unlink(missing_ok=True)
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


def read_trained(out: Path, kind: str, settings: str) -> Trained | None:
    """The finished training that lies in ``out``, if it is one of the settings with this digest."""
    checkpoint, record = _paths(out, kind)
    if not checkpoint.is_file():
        return None
    try:
        content = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("settings") != settings:
        return None
    figures = {
        split: {name: math.nan if value is None else float(value) for name, value in values.items()}
        for split, values in content["training"]["figures"].items()
    }
    return Trained(checkpoint, record, figures)


def _paths(out: Path, kind: str) -> tuple[Path, Path]:
    return out / f"{kind}.pt", out / f"{kind}.json"


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(float(value), 5) for name, value in values.items()}
