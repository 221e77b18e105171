"""The parts of an attribute training's loss: which there are, and that they are the weighted losses of their module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.training.attribute_objective import attribute_objective
from export.training.data.saliency_maps import SaliencyMaps
from export.training.losses import attribute_bce
from export.training.settings import AttributeTraining, SaliencySupervision
from export.training.supervision import attribute_smooth_l1, saliency_loss
from transforms.core.imaging.images import Resize

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TARGETS = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [0, 0]], np.bool_)
KNOWN = np.array([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], np.bool_)
TRAIN = np.arange(4)
MAPS = SaliencyMaps(np.random.default_rng(0).random((3, 6, 4), np.float32), np.array([0, 1, 1, 1, 3, 3]), {})
INDICES = np.array([3, 1, 0])
EVIDENCE = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 3, 2)).astype(np.float32))
LOGITS = EVIDENCE.mean(dim=(2, 3))


def told(**changed: Any) -> AttributeTraining:
    return AttributeTraining(
        catalogue="c.csv", out=Path("o"), backbone="m:f", resize=Resize((12, 8), "squash"), **changed
    )


def test_without_maps_the_attributes_alone_count() -> None:
    y, known = torch.from_numpy(TARGETS[INDICES]).float(), torch.from_numpy(KNOWN[INDICES])
    for weight_limit, weights in ((1.0, [1.0, 1.0]), (9.0, [2 / 2, 1.0])):
        objective = attribute_objective(told(positive_weight=weight_limit), TARGETS, KNOWN, TRAIN, None)
        parts = objective.loss((LOGITS, EVIDENCE), INDICES, None)
        assert list(parts) == ["attributes"]
        assert torch.equal(parts["attributes"], attribute_bce(LOGITS, y, known, torch.tensor(weights)))
    parts = attribute_objective(told(attribute_loss="smooth-l1"), TARGETS, KNOWN, TRAIN, None).loss(
        (LOGITS, EVIDENCE), INDICES, None
    )
    assert torch.equal(parts["attributes"], attribute_smooth_l1(LOGITS, y, known))


def test_rare_attributes_are_weighed_up_by_the_training_products_alone() -> None:
    rare = np.array([[1, 1], [0, 1], [0, 1], [0, 0], [1, 0]], np.bool_)  # the last one does not train
    objective = attribute_objective(told(positive_weight=9.0), rare, np.ones_like(rare), TRAIN, None)
    y = torch.from_numpy(rare[INDICES]).float()
    expected = attribute_bce(LOGITS, y, torch.ones(3, 2, dtype=torch.bool), torch.tensor([3.0, 1.0]))
    assert torch.equal(objective.loss((LOGITS, EVIDENCE), INDICES, None)["attributes"], expected)


def test_saliency_maps_count_by_their_weight_and_move_with_their_images() -> None:
    mirror = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).repeat(3, 1, 1)
    supervision = SaliencySupervision(("audit",), weight=0.25, temperature=0.5)
    objective = attribute_objective(told(saliency=supervision), TARGETS, KNOWN, TRAIN, MAPS)
    parts = objective.loss((LOGITS, EVIDENCE), INDICES, mirror)
    maps, real = MAPS.of(INDICES)
    has = torch.from_numpy(TARGETS[INDICES])
    expected = saliency_loss(EVIDENCE, maps, real, has, affine=mirror, temperature=0.5)
    assert parts["saliency"].item() == pytest.approx(0.25 * expected.item())
    still = objective.loss((LOGITS, EVIDENCE), INDICES, None)["saliency"]
    assert still.item() != pytest.approx(parts["saliency"].item())


def test_a_weight_of_0_takes_no_part() -> None:
    supervision = SaliencySupervision(("audit",), weight=0.0)
    objective = attribute_objective(told(saliency=supervision), TARGETS, KNOWN, TRAIN, MAPS)
    assert list(objective.loss((LOGITS, EVIDENCE), INDICES, None)) == ["attributes"]
