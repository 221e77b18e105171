"""Mining and losses against loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.evaluation import attribute_precision, average_precision, retrieval
from export.losses import (
    attribute_bce,
    batch_hard,
    cosine_distances,
    positive_weights,
    semi_hard,
    triplet_loss,
)
from transforms.core.errors import UsageError

MARGIN = 0.25


def slow_batch_hard(distances: Tensor, labels: Tensor, margin: float) -> float:
    losses = []
    for a in range(len(labels)):
        positives = [distances[a, p].item() for p in range(len(labels)) if p != a and labels[p] == labels[a]]
        negatives = [distances[a, n].item() for n in range(len(labels)) if labels[n] != labels[a]]
        if positives and negatives:
            losses.append(max(0.0, max(positives) - min(negatives) + margin))
    return sum(losses) / len(losses) if losses else 0.0


def slow_semi_hard(distances: Tensor, labels: Tensor, margin: float) -> float:
    losses = []
    for a in range(len(labels)):
        negatives = [distances[a, n].item() for n in range(len(labels)) if labels[n] != labels[a]]
        for p in range(len(labels)):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            positive = distances[a, p].item()
            further = [negative for negative in negatives if negative > positive]
            losses.append(max(0.0, positive - (min(further) if further else max(negatives)) + margin))
    return sum(losses) / len(losses) if losses else 0.0


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    count = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**16))
    embeddings = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return embeddings, torch.tensor(labels)


@settings(deadline=None, max_examples=200)
@given(batches())
def test_mining_equals_its_definition(batch: tuple[Tensor, Tensor]) -> None:
    embeddings, labels = batch
    distances = cosine_distances(embeddings)
    assert batch_hard(distances, labels, MARGIN).item() == pytest.approx(slow_batch_hard(distances, labels, MARGIN))
    assert semi_hard(distances, labels, MARGIN).item() == pytest.approx(slow_semi_hard(distances, labels, MARGIN))


@settings(deadline=None, max_examples=50)
@given(batches(), st.integers(0, 2**16))
def test_mining_does_not_depend_on_the_order_of_the_batch(batch: tuple[Tensor, Tensor], seed: int) -> None:
    embeddings, labels = batch
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for loss in (batch_hard, semi_hard):
        straight = loss(cosine_distances(embeddings), labels, MARGIN)
        shuffled = loss(cosine_distances(embeddings[order]), labels[order], MARGIN)
        assert shuffled.item() == pytest.approx(straight.item())


def test_mining_by_hand() -> None:
    # Labels 0 0 1 1; the two of label 0 are 0.4 apart, one of label 1 lies between them, the other far off.
    distances = torch.tensor([[0.0, 0.4, 0.3, 1.0], [0.4, 0.0, 0.5, 0.9], [0.3, 0.5, 0.0, 0.2], [1.0, 0.9, 0.2, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # Batch-hard: 0.4−0.3, 0.4−0.5, 0.2−0.3, 0.2−0.9, each plus 0.2 and at least 0 → 0.3, 0.1, 0.1, 0.
    assert batch_hard(distances, labels, 0.2).item() == pytest.approx((0.3 + 0.1 + 0.1 + 0.0) / 4)
    # Semi-hard: anchor 0 takes the negative at 1.0 because the one at 0.3 is nearer than the positive → 0.
    assert semi_hard(distances, labels, 0.2).item() == pytest.approx((0.0 + 0.1 + 0.1 + 0.0) / 4)


@pytest.mark.parametrize("loss", [batch_hard, semi_hard])
def test_a_batch_of_one_label_gives_zero_and_can_be_stepped_on(loss: object) -> None:
    embeddings = torch.randn(4, 3, requires_grad=True)
    value = loss(cosine_distances(embeddings), torch.zeros(4, dtype=torch.long), MARGIN)  # type: ignore[operator]
    value.backward()
    assert value.item() == 0.0
    assert embeddings.grad is not None
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_gradient_pulls_the_positive_and_pushes_the_negative() -> None:
    angles = torch.tensor([0.0, 0.8, 0.9], requires_grad=True)
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    batch_hard(cosine_distances(embeddings), torch.tensor([0, 0, 1]), 0.5).backward()  # type: ignore[no-untyped-call]
    assert angles.grad is not None
    step = angles - 0.05 * angles.grad
    assert step[1] < angles[1]
    assert step[2] > angles[2]


def test_cosine_distances_ignore_lengths() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0]])
    expected = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    assert torch.allclose(cosine_distances(embeddings), expected)


def test_unknown_mining_is_named() -> None:
    with pytest.raises(UsageError, match=r"'hardest'.*semi-hard, batch-hard"):
        triplet_loss("hardest")


def test_attribute_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 3.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    known = torch.tensor([[True, True, False], [True, False, True]])
    weight = torch.tensor([3.0, 1.0, 2.0])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = [-3 * math.log(0.5), -math.log(sigmoid(2)), -math.log(1 - sigmoid(1)), -2 * math.log(sigmoid(3))]
    assert attribute_bce(logits, targets, known, weight).item() == pytest.approx(sum(expected) / 4)
    assert attribute_bce(logits, targets, torch.zeros_like(known), weight).item() == 0.0


def test_positive_weights_are_balanced_up_to_the_limit() -> None:
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    known = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert positive_weights(targets, known, 10.0).tolist() == [2.0, 1.0, 4.0]  # 2 to 1, 1 to 3 → 1, 4 to none
    assert positive_weights(targets, known, 1.0).tolist() == [1.0, 1.0, 1.0]


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([True, False, True, False])) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert math.isnan(average_precision(np.zeros(3, dtype=bool)))


def test_retrieval_by_hand() -> None:
    # By angle: 0°, 10° (label 0), 15° (label 1), 80° (label 1), 85° (no label).
    angles = np.radians([0, 10, 15, 80, 85])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 7
    found = retrieval(embeddings, np.array([0, 0, 1, 1, -1]))
    # 0°: nearest 10° hits, AP 1. 10°: nearest 15° misses, 0° second, AP 1/2. 15°: 10°, 0°, then 80°, AP 1/3.
    # 80°: 85° is nearest, then 15°, AP 1/2.
    assert found["queries"] == 4
    assert found["recall@1"] == pytest.approx(1 / 4)
    assert found["map"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["chance"] == pytest.approx(1 / 4)


def test_attribute_precision_leaves_out_what_cannot_be_judged() -> None:
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.2], [0.1, 0.3, 0.1]], dtype=np.float32)
    targets = np.array([[False, True, True], [True, True, True], [True, True, False]])
    known = np.array([[True, True, False], [True, True, True], [True, True, True]])
    summary, precisions = attribute_precision(scores, targets, known)
    # Attribute 0 ranks miss, hit, hit; attribute 1 has no negative; attribute 2 is known of the last two only.
    assert precisions[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(precisions[1])
    assert precisions[2] == pytest.approx(1.0)
    assert summary["attributes"] == 2
    assert summary["map"] == pytest.approx((7 / 12 + 1) / 2)
    assert summary["chance"] == pytest.approx((2 / 3 + 1 / 2) / 2)
