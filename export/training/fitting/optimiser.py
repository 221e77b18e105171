"""AdamW with a rate of its own for the trunk, its schedule, and the layers that keep their weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from export.training.settings import Recipe

_WARM_UP = 0.05
"""The share of all steps in which the learning rate rises."""


def frozen_layers(trunk: nn.Module, share: float) -> list[nn.Module]:
    """The first ``share`` of the trunk's layers that hold weights, in the order in which they were defined."""
    layers = [layer for layer in trunk.modules() if next(layer.parameters(recurse=False), None) is not None]
    return layers[: round(share * len(layers))]


def freeze(trunk: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """Takes the gradient from the trunk's frozen layers and returns them."""
    frozen = frozen_layers(trunk, recipe.frozen if recipe.trunk_rate else 1.0)
    for layer in frozen:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return frozen


def make_optimiser(network: nn.Module, trunk: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW for all that trains: the trunk at its part of the learning rate, what lies outside of it at the whole."""
    trained = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    of_trunk = {id(parameter) for parameter in trunk.parameters()}
    head = [parameter for parameter in network.parameters() if id(parameter) not in of_trunk]
    groups = [{"params": head, "share": 1.0}, {"params": trained, "share": recipe.trunk_rate}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    """Sets the rate after the share ``progress`` of all steps: a linear rise to the peak, then a cosine to zero."""
    if progress < _WARM_UP:
        share = progress / _WARM_UP
    else:
        share = 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * group["share"] * share
