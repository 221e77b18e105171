"""Settings that make no sense are refused when they are made, before a catalogue is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.training.settings import AttributeTraining, Recipe, SaliencySupervision, SimilarityTraining
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize

SHARED: dict[str, Any] = {
    "catalogue": "absent.csv",
    "out": Path("absent"),
    "backbone": "absent:absent",
    "resize": Resize((12, 8), "squash"),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"epochs": 0}, "epochs is at least 1, got 0"), ({"frozen": 1.5}, "frozen"), ({"learning_rate": 0.0}, "rate > 0")],
)
def test_recipes_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding": 0}, "got 0, 4, 0.2"),
        ({"per_label": 1}, "got 128, 1, 0.2"),
        ({"margin": float("nan")}, "got 128, 4, nan"),
        ({"min_pairs": 0}, "--min-pairs must be at least 1, not 0"),
        ({"mining": "easy"}, "no triplet mining 'easy'; take one of semi-hard, batch-hard"),
        ({"checkpoint_seconds": -1.0}, "--checkpoint-seconds is a finite number of at least 0, not -1.0"),
    ],
)
def test_similarity_trainings_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimilarityTraining(**SHARED, similar_by=("colour",), **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attribute_loss": "l2"}, "no attribute loss 'l2'; take one of bce, smooth-l1"),
        ({"checkpoint_seconds": float("inf")}, "--checkpoint-seconds is a finite number of at least 0, not inf"),
    ],
)
def test_attribute_trainings_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AttributeTraining(**SHARED, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tables": ()}, "needs the folder of an audit's tables"),
        ({"weight": -0.1}, "got -0.1 and 20"),
        ({"limit": 0}, "got 0.005 and 0"),
        ({"temperature": 0.0}, "temperature is above 0, got 0.0"),
    ],
)
def test_supervisions_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SaliencySupervision(**{"tables": ("audit",), **changed})
