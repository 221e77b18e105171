"""One training loop for both networks: schedule, validation, early stopping, progress, and the same result by seed.

A training that was killed goes on from its last state to the same weights, to the bit: the order of the data is drawn
from the seed and the epoch, the augmentation from the seed, the epoch and the step, and the state holds the weights,
the optimiser and torch's own generators, from which dropout draws.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.training.data import Augmentation, Dataset, Echo, Indices, augment, to_pixels
from export.training.networks.backbones import Normalisation
from export.training.resume import Checkpoints
from transforms.core.errors import DeviceError, RunError, UsageError

_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How to train.

    ``learning_rate`` is AdamW's peak: it rises over the first twentieth of the steps and falls to zero along a cosine.
    ``trunk_rate`` multiplies it for the backbone. ``frozen`` is the share of the backbone's layers, counted from the
    input, that keep their weights and batch statistics: 0 trains all; a ``trunk_rate`` of 0 freezes all. Early layers
    are the slow ones and change least. ``patience`` is the number of epochs without a better validation after which
    training stops. ``threads`` 0 takes all cores; the result is the same to the bit for the same seed, threads and
    machine.
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    trunk_rate: float = 1.0
    frozen: float = 0.0
    weight_decay: float = 1e-4
    patience: int = 10
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("patience", 1), ("threads", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.trunk_rate >= 0 or not self.weight_decay >= 0:
            raise UsageError(
                f"learning rate > 0, trunk rate >= 0 and weight decay >= 0 are needed; got {self.learning_rate}, "
                f"{self.trunk_rate} and {self.weight_decay}"
            )
        if not 0 <= self.frozen <= 1:
            raise UsageError(f"frozen is a share of the backbone's layers in [0, 1], got {self.frozen}")


@dataclass(frozen=True)
class TrainingTask:
    """What is trained: a network with its trunk, the batches of an epoch, a loss and a validation.

    ``batches(rng)`` lists the indices of one epoch's batches; ``loss(output, indices, affine)`` names the
    weighted parts of the loss, scalars of what the network made of them, whose sum is minimised; ``affine`` [B, 2, 3]
    is how augmentation moved the images (``export.training.data.warp``), or None;
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


def machine(recipe: Recipe) -> dict[str, Any]:
    """What of the machine the weights depend on to the bit: threads, torch's version, and the device by its name."""
    on_cpu = recipe.device == "cpu"
    name = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(recipe.device)
    return {"threads": _threads(recipe), "torch": torch.__version__, "device": f"{recipe.device} {name}"}


def _threads(recipe: Recipe) -> int:
    return recipe.threads or os.cpu_count() or 1


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


def fit(
    task: TrainingTask,
    dataset: Dataset,
    normalisation: Normalisation,
    recipe: Recipe,
    echo: Echo,
    checkpoints: Checkpoints | None = None,
) -> tuple[Epoch, ...]:
    """Trains the network in place, leaves it with the weights of its best epoch, and returns the curve.

    ``checkpoints`` says where the state is kept, and whether to go on from one that is there.
    """
    # Channels last is 1.5 times as fast on a CPU for these networks, for depthwise convolutions most of all.
    network = task.network.to(recipe.device).to(memory_format=torch.channels_last)
    frozen = frozen_layers(task.trunk, recipe.frozen if recipe.trunk_rate else 1.0)
    optimiser = _optimiser(task, recipe, frozen)
    run = _Run(network, optimiser, best_state=copy.deepcopy(network.state_dict()))
    if checkpoints is not None and (state := checkpoints.read()) is not None:
        try:
            run.restore(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UsageError(
                f"{checkpoints.path} is no whole state of a training ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'damaged'}): remove it, or leave --resume out"
            ) from None
        echo(f"going on at epoch {run.epoch}, batch {run.step + 1}")
    started = time.monotonic() - run.seconds
    said = written = time.monotonic()

    def keep() -> None:
        nonlocal written
        if checkpoints is not None:
            run.seconds = time.monotonic() - started
            checkpoints.write(run.state())
            written = time.monotonic()

    while run.epoch <= recipe.epochs and not run.stopped:
        epoch = run.epoch
        batches = task.batches(np.random.default_rng((recipe.seed, epoch)))
        network.train()
        for layer in frozen:
            layer.training = False  # eval() would reach the layers within that are to train
        for step in range(run.step, len(batches)):
            indices = batches[step]
            _set_rate(optimiser, recipe, (epoch - 1 + (step + 0.5) / len(batches)) / recipe.epochs)
            pixels = to_pixels(dataset.images[indices], recipe.device)
            pixels, affine = augment(pixels, recipe.augmentation, _generator(recipe.seed, epoch, step))
            parts = task.loss(network(normalisation.apply(pixels)), indices, affine)
            loss = torch.stack(list(parts.values())).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            run.losses.append({"loss": loss.item(), **{name: part.item() for name, part in parts.items()}})
            run.step = step + 1
            if checkpoints is not None and time.monotonic() - written >= checkpoints.seconds:
                keep()
            if (now := time.monotonic()) - said > 20:
                echo(f"  epoch {epoch}, batch {step + 1} of {len(batches)}, loss {run.mean('loss'):.4f}")
                said = now
        if not np.isfinite([row["loss"] for row in run.losses]).all():
            raise RunError(f"the loss is not finite in epoch {epoch}; lower the learning rate ({recipe.learning_rate})")
        figures = {name: float(value) for name, value in task.validate().items()}
        seconds = time.monotonic() - started
        parts_of_epoch = {name: run.mean(name) for name in run.losses[0] if name != "loss"}
        run.curve.append(Epoch(epoch, run.mean("loss"), round(seconds, 2), figures, parts_of_epoch))
        # Of equals the later epoch, which has converged further; the last one where validation gives NaN.
        better = not figures[task.metric] < run.best
        if better:
            run.best, run.best_state = figures[task.metric], copy.deepcopy(network.state_dict())
        since = epoch - _best(run.curve, task.metric)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name in (task.metric, "map"))
        left = seconds / epoch * (recipe.epochs - epoch)
        echo(
            f"epoch {epoch:>3}/{recipe.epochs}  loss {run.curve[-1].loss:.4f}  {shown}{'  *' if better else ''}  "
            f"{_duration(seconds)} gone, at most {_duration(left)} to go"
        )
        said = time.monotonic()
        if since >= recipe.patience and epoch < recipe.epochs:
            echo(f"no better {task.metric} for {since} epochs: stopped")
            run.stopped = True
        run.epoch, run.step, run.losses = epoch + 1, 0, []
        keep()
    network.load_state_dict(run.best_state)
    network.eval()
    return tuple(run.curve)


@dataclass
class _Run:
    """Where a training stands: the next step of the running epoch, and all that the rest depends on."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    best_state: dict[str, Any]
    best: float = -math.inf
    epoch: int = 1
    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    curve: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False

    def mean(self, part: str) -> float:
        """The mean of a part of the loss over the epoch's steps so far."""
        return float(np.mean([row[part] for row in self.losses]))

    def state(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best_state": self.best_state,
            "generators": [torch.get_rng_state(), *cuda],
            "curve": [asdict(row) for row in self.curve],
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best_state = state["best_state"]
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) > 1 and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        self.curve = [Epoch(**row) for row in state["curve"]]
        for name in _PLAIN:
            setattr(self, name, state[name])


_PLAIN = ("best", "epoch", "step", "losses", "seconds", "stopped")


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The generator of one step's augmentation."""
    drawn = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> np.uint64(1)))


def predict(
    network: nn.Module, dataset: Dataset, indices: Indices, normalisation: Normalisation, device: str = "cpu"
) -> torch.Tensor:
    """The network's output, the first one where there are several, for images of the data set, without augmentation."""
    network.eval()
    outputs = []
    with torch.inference_mode():
        for first in range(0, len(indices), _EVALUATION_BATCH):
            images = dataset.images[indices[first : first + _EVALUATION_BATCH]]
            output = network(normalisation.apply(to_pixels(images, device)))
            outputs.append((output[0] if isinstance(output, tuple) else output).cpu())
    return torch.cat(outputs)


def frozen_layers(trunk: nn.Module, share: float) -> list[nn.Module]:
    """The first ``share`` of the trunk's layers that hold weights, in the order in which they were defined."""
    layers = [layer for layer in trunk.modules() if next(layer.parameters(recurse=False), None) is not None]
    return layers[: round(share * len(layers))]


def _optimiser(task: TrainingTask, recipe: Recipe, frozen: list[nn.Module]) -> torch.optim.AdamW:
    for layer in frozen:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    trunk = [parameter for parameter in task.trunk.parameters() if parameter.requires_grad]
    known = {id(parameter) for parameter in task.trunk.parameters()}
    head = [parameter for parameter in task.network.parameters() if id(parameter) not in known]
    groups = [{"params": head, "share": 1.0}, {"params": trunk, "share": recipe.trunk_rate}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )


def _set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    warm = 0.05
    share = progress / warm if progress < warm else 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * group["share"] * share


def _best(curve: list[Epoch], metric: str) -> int:
    values = [-math.inf if math.isnan(row.validation[metric]) else row.validation[metric] for row in curve]
    return curve[int(np.argmax(values))].epoch


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
