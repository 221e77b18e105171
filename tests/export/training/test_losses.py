"""Mining and losses against loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.training.losses import (
    attribute_bce,
    batch_hard,
    conditional_anchors,
    conditional_distances,
    conditional_triplets,
    cosine_distances,
    embedding_penalty,
    mask_penalty,
    positive_weights,
    semi_hard,
    triplet_loss,
)
from transforms.core.errors import UsageError
from transforms.core.metrics.retrieval import attribute_precision, average_precision, retrieval

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


def slow_conditional(
    embeddings: Tensor, masks: Tensor, labels: Tensor, types: Tensor, table: Tensor, margin: float, mining: str
) -> tuple[float, list[int]]:
    """The mean over triplets by loops over conditions, directions, anchors; and the condition of each anchor."""
    losses, used = [], []
    for condition, mask in enumerate(masks):
        vectors = embeddings * mask
        units = vectors / vectors.norm(dim=1, keepdim=True)
        of = [(u, v) for u, v in torch.nonzero(table == condition).tolist()]  # both directions, one where u == v
        for u, v in of:
            for a in range(len(labels)):
                if types[a] != u or labels[a] < 0:
                    continue
                near = {b: 1 - float(units[a] @ units[b]) for b in range(len(labels)) if types[b] == v and b != a}
                positives = [d for b, d in near.items() if labels[b] == labels[a]]
                negatives = [d for b, d in near.items() if labels[b] >= 0 and labels[b] != labels[a]]
                if not positives or not negatives:
                    continue
                used.append(condition)
                if mining == "batch-hard":
                    losses.append(max(0.0, max(positives) - min(negatives) + margin))
                    continue
                for positive in positives:
                    further = [negative for negative in negatives if negative > positive]
                    losses.append(max(0.0, positive - (min(further) if further else max(negatives)) + margin))
    return (sum(losses) / len(losses) if losses else 0.0), used


@st.composite
def conditional_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Embeddings [B, 4], masks [C, 4], labels [B], types [B] and a symmetric table [T, T] with gaps; some are -1."""
    count, kinds = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    embeddings = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    pairs = [(u, v) for u in range(kinds) for v in range(u, kinds)]
    joined = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    table = torch.full((kinds, kinds), -1)
    for number, (u, v) in enumerate(joined):
        table[u, v] = table[v, u] = number
    masks = torch.rand(len(joined), 4, generator=generator, dtype=torch.float64) + 0.01
    masks[:, 0] *= torch.rand(len(joined), generator=generator) > 0.5
    labels = torch.tensor(draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)))
    types = torch.tensor(draw(st.lists(st.integers(-1, kinds - 1), min_size=count, max_size=count)))
    return embeddings, masks, labels, types, table


@settings(deadline=None, max_examples=100)
@given(conditional_batches(), st.sampled_from(["semi-hard", "batch-hard"]))
def test_conditional_triplets_equal_their_definition(
    batch: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], mining: str
) -> None:
    embeddings, masks, labels, types, table = batch
    embeddings.requires_grad_()
    expected, used = slow_conditional(embeddings.detach(), masks, labels, types, table, MARGIN, mining)
    found = conditional_triplets(embeddings, masks, labels, types, table, MARGIN, mining)
    assert found.item() == pytest.approx(expected)
    anchors = conditional_anchors(labels, types, table)
    assert sorted(anchors.condition.tolist()) == sorted(used)
    assert anchors.positive.shape == anchors.negative.shape == (len(used), len(labels))
    penalty = sum(masks[condition].sum().item() for condition in used) / max(1, len(used))
    assert mask_penalty(masks, anchors.condition).item() == pytest.approx(penalty)
    found.backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


@settings(deadline=None, max_examples=100)
@given(batches(), st.sampled_from(["semi-hard", "batch-hard"]))
def test_one_condition_with_a_mask_of_ones_is_the_triplet_loss(batch: tuple[Tensor, Tensor], mining: str) -> None:
    embeddings, labels = batch
    gradients, losses = [], []
    for conditional in (False, True):
        own = embeddings.clone().requires_grad_()
        if conditional:
            masks, types, table = torch.ones(1, 3, dtype=torch.float64), torch.zeros_like(labels), torch.tensor([[0]])
            loss = conditional_triplets(own, masks, labels, types, table, MARGIN, mining)
        else:
            loss = triplet_loss(mining)(cosine_distances(own), labels, MARGIN)
        loss.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        losses.append(loss.item())
        gradients.append(own.grad)
    assert losses[0] == pytest.approx(losses[1])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)


def test_conditional_distances_by_hand() -> None:
    # Two types, joined by condition 1 that sees the first two dimensions; within type 0, condition 0 sees the last.
    table = torch.tensor([[0, 1], [1, -1]])
    masks = torch.tensor([[0.0, 0.0, 2.0], [3.0, 1.0, 0.0]])
    embeddings = torch.tensor([[1.0, 3.0, 5.0], [4.0, 0.0, -1.0], [2.0, 6.0, 7.0]])
    found = conditional_distances(embeddings, masks, torch.tensor([0, 0, 1]), table)
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(2.0)  # 5 against -1 in the last dimension
    # 0 and 2 under condition 1: (3, 3) and (6, 6), the same direction; 1 and 2: (12, 0) and (6, 6), 45 degrees.
    assert found[0, 2].item() == pytest.approx(0.0, abs=1e-6)
    assert found[1, 2].item() == found[2, 1].item() == pytest.approx(1 - math.sqrt(0.5))


def test_a_conditional_batch_without_a_triplet_gives_zero_and_can_be_stepped_on() -> None:
    embeddings, masks = torch.randn(4, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    table = torch.tensor([[-1, 0], [0, -1]])
    labels, types = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1])  # no label on both sides
    loss = conditional_triplets(embeddings, masks, labels, types, table, MARGIN)
    loss = loss + mask_penalty(masks, conditional_anchors(labels, types, table).condition)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    for gradient in (embeddings.grad, masks.grad):
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_penalties_by_hand() -> None:
    masks = torch.tensor([[1.0, 0.5], [2.0, 0.0], [9.0, 9.0]])
    assert mask_penalty(masks, torch.tensor([0, 0, 1])).item() == pytest.approx((1.5 + 1.5 + 2.0) / 3)
    assert embedding_penalty(torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 2.0]])).item() == pytest.approx(
        math.sqrt((25 + 1 + 8) / 3)
    )


def test_unknown_mining_under_conditions_is_named() -> None:
    some = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UsageError, match=r"'hardest'.*semi-hard, batch-hard"):
        conditional_triplets(torch.ones(1, 2), torch.ones(1, 2), some, some, some[None], 0.1, "hardest")


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
