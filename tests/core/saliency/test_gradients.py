"""Gradient × (input − fill) and integrated gradients against captum, by hand, and where there is nothing to explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from tests.support.models.gradients import (
    NEUTRAL,
    Function,
    HandGradient,
    TorchGradient,
    hand_gradient,
    normalised,
    photograph,
    similarity,
    torch_gradient,
    unit,
)
from transforms.core.records import Float32, Float64
from transforms.core.saliency.gradients import gradient_times_input, integrated_gradients

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZE = (13, 22)
FILLS = {
    "colour": np.array([240.0, 10.0, 90.0]),
    "blurred": gaussian_filter(photograph(SIZE).astype(np.float64), (2, 2, 0))[None],
}


def as_captum_sees_it(gradient: TorchGradient, reference: Float32, shift: Tensor) -> Callable[[Tensor], Tensor]:
    """Inputs [B, 3, H, W] -> similarity [B] of ``network(inputs + shift)`` with one reference."""

    def forward(x: Tensor) -> Tensor:
        embedding = gradient.network(x + shift)
        if gradient.function == "cosine":
            embedding = torch.nn.functional.normalize(embedding, dim=-1)
        return similarity(gradient.function, embedding, torch.tensor(reference, dtype=gradient.dtype))

    return forward


def image_and_fill(gradient: TorchGradient) -> tuple[Tensor, Tensor]:
    """Both as the network's input, [1, 3, H, W]."""
    image, fill = (normalised(torch.tensor(x, dtype=gradient.dtype)) for x in (gradient.images, gradient.fills))
    return image, fill.expand_as(image)


def ends(gradient: TorchGradient, references: Float32) -> tuple[Float64, Float64]:
    """The similarities [R] of the image and of the fill."""
    masks = np.ones((len(references), *gradient.size), np.float32)
    image, fill = (gradient(some, references)[0].astype(np.float64) for some in (masks, 0 * masks))
    return image, fill


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("steps", [1, 20])
def test_integrated_gradients_are_captums(function: Function, fill: str, steps: int) -> None:
    gradient = torch_gradient(SIZE, fill=FILLS[fill], function=function)
    references = unit(3, 5)
    maps = integrated_gradients(gradient, references, steps=steps)
    image, baseline = image_and_fill(gradient)
    for reference, found in zip(references, maps, strict=True):
        forward = as_captum_sees_it(gradient, reference, torch.zeros(()))
        theirs = captum.attr.IntegratedGradients(forward).attribute(image, baseline, n_steps=steps)
        expected = theirs.sum(dim=1)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)


def test_gradient_times_input_is_captums_where_the_fill_is_neutral() -> None:
    gradient = torch_gradient(SIZE, fill=NEUTRAL)
    references = unit(3, 5)
    maps = gradient_times_input(gradient, references)
    image, _ = image_and_fill(gradient)
    for reference, found in zip(references, maps, strict=True):
        forward = as_captum_sees_it(gradient, reference, torch.zeros(()))
        expected = captum.attr.InputXGradient(forward).attribute(image.requires_grad_()).sum(dim=1)[0].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_gradient_times_input_is_captums_for_the_distance_to_any_fill(fill: str) -> None:
    gradient = torch_gradient(SIZE, fill=FILLS[fill])
    references = unit(2, 5)
    maps = gradient_times_input(gradient, references)
    image, baseline = image_and_fill(gradient)
    for reference, found in zip(references, maps, strict=True):
        forward = as_captum_sees_it(gradient, reference, baseline)
        attribution = captum.attr.InputXGradient(forward).attribute((image - baseline).requires_grad_())
        expected = attribution.sum(dim=1)[0].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("fill", FILLS)
def test_integrated_gradients_add_up_to_the_difference(function: Function, fill: str, dtype: torch.dtype) -> None:
    gradient = torch_gradient(SIZE, fill=FILLS[fill], function=function, dtype=dtype)
    references = unit(4, 5)
    image, baseline = ends(gradient, references)
    difference = image - baseline
    assert np.abs(difference).min() > 1e-4  # a sum of 1 % of nothing would say little
    total = integrated_gradients(gradient, references).sum(axis=(1, 2))
    np.testing.assert_allclose(total, difference, rtol=0.01)


def test_a_linear_network_by_hand() -> None:
    """Two pixels in a column, one channel that counts: both methods give weight times (image - fill)."""
    image, fill, weights = (np.zeros((2, 1, 3)) for _ in range(3))
    image[:, 0, 1], fill[:, 0, 1], weights[:, 0, 1] = (5, 3), (1, 4), (0.5, 2)
    gradient = HandGradient(image, fill, weights[None])
    references = np.array([[1], [-2]], np.float32)
    expected = [[[2], [-2]], [[-4], [4]]]
    np.testing.assert_array_equal(gradient_times_input(gradient, references), expected)
    for steps in (1, 2, 7):
        np.testing.assert_allclose(integrated_gradients(gradient, references, steps=steps), expected, rtol=1e-6)


def test_a_square_by_hand() -> None:
    """s = (x1 + x2)^2 from fill (0, 0) to image (1, 2): slopes at a are 6 a, times (1, 2), with the mean 3 a 2."""
    image, fill, weights = (np.zeros((1, 2, 3)) for _ in range(3))
    image[0, :, 0], weights[0, :, 0] = (1, 2), 1
    gradient = HandGradient(image, fill, weights[None], curved=True)
    reference = np.ones((1, 1), np.float32)
    np.testing.assert_allclose(gradient_times_input(gradient, reference), [[[6, 12]]], rtol=1e-6)
    np.testing.assert_allclose(integrated_gradients(gradient, reference, steps=1), [[[3, 6]]], rtol=1e-6)
    np.testing.assert_allclose(integrated_gradients(gradient, reference, steps=9), [[[3, 6]]], rtol=1e-6)


@pytest.mark.parametrize("function", ["cosine", "dot"])
def test_an_image_that_is_its_fill_has_a_map_of_exact_zeros(function: Function) -> None:
    gradient = torch_gradient(SIZE, fill=photograph(SIZE)[None], function=function)
    for maps in (gradient_times_input(gradient, unit(2, 5)), integrated_gradients(gradient, unit(2, 5), steps=4)):
        np.testing.assert_array_equal(maps, np.zeros((2, *SIZE)))


def test_pixels_that_are_the_fill_are_exactly_zero() -> None:
    gradient = torch_gradient(SIZE, fill=200)
    gradient.images[:, 4:9, 3:12] = 200
    for maps in (gradient_times_input(gradient, unit(2, 5)), integrated_gradients(gradient, unit(2, 5), steps=4)):
        np.testing.assert_array_equal(maps[:, 4:9, 3:12], 0)
        assert np.abs(maps[:, :4]).max() > 0


def test_a_query_that_equals_its_reference() -> None:
    """The cosine has its maximum at the image, where no direction raises it; on the way there it does rise."""
    gradient = torch_gradient(SIZE, fill=240)
    references = np.concatenate([gradient.embeddings(), unit(1, 5)])
    local = gradient_times_input(gradient, references)
    assert np.abs(local[0]).max() < 1e-5 * np.abs(local[1]).max()
    image, baseline = ends(gradient, references)
    assert image[0] == pytest.approx(1, abs=1e-6)
    total = integrated_gradients(gradient, references).sum(axis=(1, 2))
    np.testing.assert_allclose(total, image - baseline, rtol=0.01)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_frames_of_one_pixel(size: tuple[int, int]) -> None:
    gradient = torch_gradient(size, fill=240)
    references = unit(2, 5)
    assert np.abs(gradient_times_input(gradient, references)).min() > 0
    maps = integrated_gradients(gradient, references, steps=300)  # one window's kinks are not averaged over a frame
    assert maps.shape == (2, *size)
    image, baseline = ends(gradient, references)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), image - baseline, rtol=0.01)


@pytest.mark.parametrize("method", [gradient_times_input, integrated_gradients])
def test_no_references_give_no_maps(method: Callable[..., Float64]) -> None:
    gradient = hand_gradient((3, 4))
    assert method(gradient, np.zeros((0, 3), np.float32)).shape == (0, 3, 4)
    assert gradient.batches == []


def test_a_thousand_references_in_bounded_batches() -> None:
    gradient, references = hand_gradient((2, 3)), unit(1000, 3)
    maps = integrated_gradients(gradient, references, steps=5)
    assert maps.shape == (1000, 2, 3)
    assert max(gradient.batches) == 64
    assert sum(gradient.batches) == 5 * 1000  # no pass more
    for at in (0, 12, 63, 64, 999):
        alone = integrated_gradients(hand_gradient((2, 3)), references[at : at + 1], steps=5)
        np.testing.assert_array_equal(alone[0], maps[at])
    gradient.batches.clear()
    gradient_times_input(gradient, references)
    assert sum(gradient.batches) == 1000


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 20), st.data())
def test_a_map_depends_on_its_own_reference_alone_to_the_bit(
    rows: int, steps: int, chunk: int, data: st.DataObject
) -> None:
    gradient, references = hand_gradient((3, 5)), unit(rows, 3, seed=rows)
    for method, given_ in ((integrated_gradients, {"steps": steps}), (gradient_times_input, {})):
        make: Any = method
        whole = make(gradient, references, **given_)
        order = data.draw(st.permutations(range(rows)))
        cut = data.draw(st.integers(0, rows))
        parts = [make(gradient, references[some], chunk=chunk, **given_) for some in (order[:cut], order[cut:])]
        np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_impossible_parameters_are_named() -> None:
    gradient = hand_gradient((3, 5))
    with pytest.raises(ValueError, match="steps >= 1, got 0"):
        integrated_gradients(gradient, unit(2, 3), steps=0)
    for method in (integrated_gradients, gradient_times_input):
        with pytest.raises(ValueError, match=r"chunk >= 1.* and 0"):
            method(gradient, unit(2, 3), chunk=0)
        with pytest.raises(ValueError, match=r"references \[R, D\].*\(3,\)"):
            method(gradient, unit(2, 3)[0])
