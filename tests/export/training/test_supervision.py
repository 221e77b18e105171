"""Supervision by saliency maps: the losses by hand and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.training.data.augmentation import warp
from export.training.supervision import attribute_smooth_l1, saliency_loss

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def softmax(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    flat = np.asarray(values, np.float64).ravel()
    powers = np.exp(flat - flat.max())
    return np.asarray(powers / powers.sum())


def test_the_nearest_of_the_image_s_own_attributes_counts() -> None:
    evidence = torch.zeros(1, 3, 1, 2)
    evidence[0, :, 0, 0] = torch.tensor([math.log(3), 0.0, math.log(9)])  # shares of the first cell: 3/4, 1/2, 9/10
    maps = torch.zeros(1, 2, 1, 2)
    maps[0, :, 0, 0] = torch.tensor([math.log(9), math.log(4)])  # 9/10 and 4/5
    real = torch.ones(1, 2, dtype=torch.bool)
    has = torch.tensor([[True, True, False]])  # the third, which would fit, is not the image's
    expected = math.sqrt(2) * ((0.9 - 0.75) + (0.8 - 0.75)) / 2
    assert saliency_loss(evidence, maps, real, has).item() == pytest.approx(expected, rel=1e-5)
    alone = saliency_loss(evidence, maps, torch.tensor([[True, False]]), has)
    assert alone.item() == pytest.approx(math.sqrt(2) * 0.15, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(1, 4), st.sampled_from([None, 0.5, 2.0]))
def test_the_loss_is_that_of_a_plain_loop(seed: int, images: int, count: int, temperature: float | None) -> None:
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(images, 4, 3, 2))
    maps = rng.normal(size=(images, count, 6, 4))
    real, has = rng.random((images, count)) < 0.7, rng.random((images, 4)) < 0.5
    distances = []
    for b, k in np.argwhere(real):
        if not has[b].any():
            continue
        small = maps[b, k].reshape(3, 2, 2, 2).mean(axis=(1, 3))
        if temperature is not None:
            small = (small - small.mean()) / small.std() / temperature
        wanted = softmax(small)
        distances.append(min(np.linalg.norm(softmax(evidence[b, a]) - wanted) for a in np.flatnonzero(has[b])))
    expected = float(np.mean(distances)) if distances else 0.0
    tensors = [torch.from_numpy(array) for array in (evidence, maps, real, has)]
    assert saliency_loss(*tensors, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_draws_the_nearest_map_to_the_saliency_and_leaves_the_others() -> None:
    torch.manual_seed(0)
    evidence = torch.randn(1, 3, 4, 3).requires_grad_()
    maps = torch.full((1, 1, 8, 6), -1.0)
    maps[0, 0, :2, 4:] = 1.0
    has = torch.tensor([[True, True, False]])
    before = evidence.detach().clone()
    optimiser = torch.optim.Adam([evidence], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        saliency_loss(evidence, maps, torch.ones(1, 1, dtype=torch.bool), has, temperature=0.5).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    moved = (evidence - before).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.sum() == 1
    assert has[0, moved].all()
    assert evidence[0, moved].flatten().argmax() == 2  # the upper right cell


def test_maps_move_with_their_images() -> None:
    torch.manual_seed(1)
    image_map = torch.rand(1, 1, 4, 6)
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    evidence, real, has = (
        torch.randn(1, 2, 4, 6),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 2, dtype=torch.bool),
    )
    turned = saliency_loss(evidence, image_map, real, has, affine=mirror)
    assert turned.item() == pytest.approx(saliency_loss(evidence, image_map.flip(-1), real, has).item(), abs=1e-6)
    torch.testing.assert_close(warp(image_map, mirror), image_map.flip(-1))


def test_a_flat_map_and_no_map_give_a_finite_loss_and_slope() -> None:
    evidence = torch.zeros(1, 2, 2, 3).requires_grad_()
    has = torch.ones(1, 2, dtype=torch.bool)
    for maps, real in (
        (torch.zeros(1, 1, 4, 6), torch.ones(1, 1, dtype=torch.bool)),
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)),
    ):
        loss = saliency_loss(evidence, maps, real, has, temperature=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(0, abs=1e-5)
        assert evidence.grad is not None
        assert torch.isfinite(evidence.grad).all()


def test_smooth_l1_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0, 4.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    known = torch.tensor([[True, True, True, False], [True, True, True, True], [True, True, True, True]])
    first = [(0.25 - 0.5) ** 2 / 2, 0, 0.25**2 / 2]  # the softmax of what is known: 1/4, 1/2, 1/4
    second = [0.25**2 / 2] * 3 + [0.75**2 / 2]
    expected = np.mean([*first, *second])  # the third has no attribute
    assert attribute_smooth_l1(logits, targets, known).item() == pytest.approx(expected, rel=1e-6)
    assert attribute_smooth_l1(logits[2:], targets[2:], known[2:]).item() == 0
