"""The same weights by the same seed: what a training sets in torch, and what of the machine it depends on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from export.training.settings import Recipe
from transforms.core.errors import DeviceError


@contextmanager
def reproducible(recipe: Recipe) -> Iterator[None]:
    """Seeds and thread count of a training, put back afterwards."""
    if recipe.device != "cpu" and not (recipe.device.startswith("cuda") and torch.cuda.is_available()):
        raise DeviceError(f"torch cannot train on {recipe.device!r} here; take cpu, or cuda where a GPU is")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(_threads(recipe))
    # Some CUDA kernels have no deterministic form: there the same seed is as close as the machine allows.
    torch.use_deterministic_algorithms(True, warn_only=recipe.device != "cpu")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


def machine(recipe: Recipe) -> dict[str, Any]:
    """What of the machine the weights depend on to the bit: threads, torch's version, and the device by its name."""
    on_cpu = recipe.device == "cpu"
    name = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(recipe.device)
    return {"threads": _threads(recipe), "torch": torch.__version__, "device": f"{recipe.device} {name}"}


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator of one epoch's batches."""
    return np.random.default_rng((seed, epoch))


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The generator of one step's augmentation."""
    drawn = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> np.uint64(1)))


def _threads(recipe: Recipe) -> int:
    return recipe.threads or os.cpu_count() or 1
