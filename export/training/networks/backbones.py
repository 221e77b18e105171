"""Backbones by name: from ``resnet18`` or ``module:factory`` to a trunk that ends in the last feature map.

A trunk is a module ``float32 [B, 3, H, W] -> float32 [B, C, h, w]``: pooling and classifier are cut off, because the
embedding and the attribute network put their own heads there, and the attribute network needs the map itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from export.training.networks.weights import load_weights
from transforms.core.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Where torchvision's classifiers begin: the names, in its families, of the first child behind the last feature map.
_HEADS = ("avgpool", "classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")
_FEATURE_METHODS = ("forward_features", "extract_features", "features")


@dataclass(frozen=True)
class Normalisation:
    """What turns RGB pixels 0 to 255 into a network's input: ``(x * scale - mean) / std``, channel by channel."""

    scale: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in (self.scale, *self.std)):
            raise UsageError(
                f"a normalisation has scale > 0, three means and three standard deviations > 0; "
                f"got scale {self.scale}, mean {self.mean}, std {self.std}"
            )

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], 0 to 255, as the network's float32 input."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() * self.scale - mean) / std


def backbone(spec: str, weights: str | None) -> nn.Module:
    """The trunk that ``spec`` names: a torchvision model, or ``module:factory``, a callable that returns a module.

    ``weights`` is "default" (torchvision's own, downloaded or from its cache), the path of a checkpoint (a state dict
    in torch's or the safetensors format), or None: as the factory made them, or random. A factory's module is used by
    its ``forward_features``, ``extract_features`` or ``features``, else by its ``forward``. A module may carry
    ``normalisation``, a :class:`Normalisation` or its fields as a mapping: training then uses it by default.
    Raises UsageError for an unknown name, a module without a feature map and a checkpoint that does not fit.
    """
    trunk = _factory(spec, weights) if ":" in spec else _torchvision(spec, weights)
    if weights is not None and weights != "default":
        load_weights(trunk, Path(weights), within=_Features.PREFIX, heads=_HEADS)
    return trunk


def feature_shape(trunk: nn.Module, size: tuple[int, int], *, name: str = "the backbone") -> tuple[int, int, int]:
    """(C, h, w) of the trunk's feature map for an input of ``size`` (H, W); UsageError where it has none."""
    training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            features = trunk(torch.zeros(1, 3, *size))
    except Exception as error:  # a user's own module may raise anything
        raise UsageError(f"{name} cannot take an input [1, 3, {size[0]}, {size[1]}]: {error}") from None
    finally:
        trunk.train(training)
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[2] * features.shape[3] == 0:
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UsageError(
            f"{name} gives {shape} for an input [1, 3, {size[0]}, {size[1]}]; a backbone gives a feature map "
            "[1, C, h, w]. Name a convolutional network, or a factory whose forward returns its last feature map."
        )
    return int(features.shape[1]), int(features.shape[2]), int(features.shape[3])


def normalisation_of(trunk: nn.Module) -> Normalisation:
    """What the trunk says of its input, else ImageNet's mean and standard deviation."""
    said = getattr(trunk, "normalisation", None)
    if said is None:
        return Normalisation()
    if isinstance(said, Normalisation):
        return said
    try:
        return Normalisation(float(said["scale"]), tuple(said["mean"]), tuple(said["std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the backbone's normalisation {said!r} has no scale, mean and std: {error!r}") from None


class _Features(nn.Module):
    """A factory's module, used by one of its methods."""

    PREFIX = "inner."

    def __init__(self, inner: nn.Module, method: str) -> None:
        super().__init__()
        self.inner = inner
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, getattr(self.inner, self.method)(x))


def _torchvision(name: str, weights: str | None) -> nn.Module:
    if name not in models.list_models(module=models):
        raise UsageError(
            f"torchvision has no image classifier {name!r}. Take one of "
            "torchvision.models.list_models(module=torchvision.models), for example resnet18 or efficientnet_b0, "
            "or name your own as module:factory."
        )
    try:
        network = models.get_model(name, weights="DEFAULT" if weights == "default" else None)
    except (URLError, OSError, RuntimeError) as error:
        raise UsageError(
            f"the default weights of {name} cannot be had: {error}. Put the file into "
            f"{torch.hub.get_dir()}/checkpoints, or give its path instead of 'default'."
        ) from None
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for child, module in network.named_children():
        if child in _HEADS:
            break
        # MaxViT keeps its stages in a list that its forward walks through.
        body[child] = nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module
    if not body or len(body) == len(list(network.named_children())):
        raise UsageError(f"{name} is no image classifier that ends in a feature map and a head; take another")
    if name.startswith("densenet"):
        body["relu"] = nn.ReLU()  # DenseNet applies its last activation in forward, behind `features`
    trunk = nn.Sequential(body)
    if getattr(network, "transform_input", False):
        # GoogLeNet and Inception turn ImageNet's normalisation into this one before their first layer.
        trunk.normalisation = Normalisation(1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # type: ignore[assignment]
    return trunk


def _factory(spec: str, weights: str | None) -> nn.Module:
    if weights == "default":
        raise UsageError(f"'default' weights are torchvision's; {spec} brings its own: leave --weights out")
    module_name, _, attribute = spec.partition(":")
    make = _import(module_name, attribute, spec)
    made = make()
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} returned {type(made).__name__}, expected a torch.nn.Module")
    for method in _FEATURE_METHODS:
        if callable(getattr(made, method, None)):
            wrapped = _Features(made, method)
            if hasattr(made, "normalisation"):
                wrapped.normalisation = made.normalisation
            return wrapped
    return made


def _import(module_name: str, attribute: str, spec: str) -> Callable[[], object]:
    # A console script has no working directory on its path, and a user's factory most often lies there.
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise UsageError(f"{spec}: cannot import {module_name!r}: {error}") from None
    finally:
        if added:
            sys.path.remove(here)
    if not callable(make):
        raise UsageError(f"{spec}: {module_name} has no callable {attribute!r}")
    return cast(Callable[[], object], make)
