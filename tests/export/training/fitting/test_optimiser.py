"""Which layers train, and how fast."""

from __future__ import annotations

import pytest
from torch import nn

from export.training.fitting.optimiser import freeze, frozen_layers, make_optimiser, set_learning_rate
from export.training.networks.small_network import network as small_network
from export.training.settings import Recipe


def test_frozen_layers_are_counted_from_the_input() -> None:
    trunk = small_network()
    layers = [layer for layer in trunk.layers if not isinstance(layer, nn.ReLU)]
    assert frozen_layers(trunk, 0.3) == layers[:3]
    assert frozen_layers(trunk, 1.0) == layers
    assert frozen_layers(trunk, 0.0) == []


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0125, 0.25), (0.05, 1.0), (0.05 + 0.95 / 2, 0.5), (0.05 + 0.95 / 4, 0.853553), (1.0, 0)]
)
def test_the_rate_rises_over_a_twentieth_and_falls_along_a_cosine(progress: float, share: float) -> None:
    recipe = Recipe(learning_rate=0.02, trunk_rate=0.5)
    trunk, head = nn.Conv2d(3, 2, 1), nn.Linear(2, 1)
    optimiser = make_optimiser(nn.Sequential(trunk, head), trunk, recipe)
    set_learning_rate(optimiser, recipe, progress)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.02 * share, 0.01 * share], abs=1e-8)
    assert [[id(each) for each in group["params"]] for group in optimiser.param_groups] == [
        [id(each) for each in layer.parameters()] for layer in (head, trunk)
    ]


@pytest.mark.parametrize(("recipe", "frozen"), [({"frozen": 0.5}, 1), ({"trunk_rate": 0.0}, 2), ({}, 0)])
def test_what_is_frozen_is_not_in_the_optimiser(recipe: dict[str, float], frozen: int) -> None:
    told = Recipe(**recipe)  # type: ignore[arg-type]
    trunk, head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)), nn.Linear(2, 1)
    assert freeze(trunk, told) == list(trunk)[:frozen]
    groups = make_optimiser(nn.Sequential(trunk, head), trunk, told).param_groups
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    expected = [head, *list(trunk)[frozen:]]
    assert trained == {id(parameter) for layer in expected for parameter in layer.parameters()}
