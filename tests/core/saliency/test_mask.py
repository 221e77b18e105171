"""Mask against a plain torch loop, its parts against torch and finite differences, and what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models.gradients import HandGradient, TorchGradient, hand_gradient, photograph, torch_gradient, unit
from transforms.core.records import Float32, Float64
from transforms.core.saliency.mask import MaskSettings, optimise, optimise_both, penalty_gradient, upsampling

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZE = (13, 22)
QUICK = MaskSettings(steps=50, factor=4)


def total_variation(cells: Tensor, beta: float) -> Tensor:
    """``mean |d row|^beta + mean |d column|^beta`` of one mask [h, w]; a mean over nothing is 0."""
    parts = [(cells[1:] - cells[:-1]).abs().pow(beta), (cells[:, 1:] - cells[:, :-1]).abs().pow(beta)]
    return torch.stack([part.mean() if part.numel() else cells.sum() * 0 for part in parts]).sum()


def penalties(cells: Tensor, settings: MaskSettings) -> Tensor:
    """The two penalties of one mask [h, w]."""
    return settings.l1 * (1 - cells).abs().mean() + settings.tv * total_variation(cells, settings.tv_beta)


def upsample(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """One mask [h, w] as torch upsamples it to [H, W]."""
    return F.interpolate(cells[None, None], size, mode="bilinear", align_corners=True)[0, 0]


def noises(size: tuple[int, int], settings: MaskSettings, stream: int = 0) -> Iterator[Tensor]:
    """The noise [H, W, 3] of each step, as the module promises to draw it."""
    rng = np.random.default_rng([settings.seed, stream])
    while True:
        yield torch.tensor(rng.standard_normal((1, *size, 3), dtype=np.float32) * np.float32(settings.noise))[
            0
        ].double()


@dataclass
class Loop:
    """One mask, torch's own Adam and one row of a TorchGradient, as anybody would write it down."""

    gradient: TorchGradient
    row: int
    settings: MaskSettings
    stream: int = 0

    def __post_init__(self) -> None:
        cells = [math.ceil(side / self.settings.factor) for side in self.gradient.size]
        self.cells = torch.ones(*cells, dtype=torch.float64, requires_grad=True)
        self.adam = torch.optim.Adam([self.cells], lr=self.settings.learning_rate)
        self.noise = noises(self.gradient.size, self.settings, self.stream)

    def compare(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity under the mask and noise of this step, and the embedding [D]."""
        image = torch.tensor(self.gradient.images[self.row % len(self.gradient.images)]).double()
        fill = torch.tensor(self.gradient.fills[self.row % len(self.gradient.fills)]).double()
        mask = upsample(self.cells, self.gradient.size)
        value, embedding = self.gradient.similarity(mask, image, fill, next(self.noise), reference)
        return value, embedding

    def step(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.cells.data.clamp_(0, 1)

    def descend(self, reference: Tensor) -> Tensor:
        value, embedding = self.compare(reference)
        self.step(value + penalties(self.cells, self.settings))
        return embedding.detach()

    def map(self) -> Float64:
        return np.asarray((1 - upsample(self.cells, self.gradient.size)).detach())


def plain_optimise(gradient: TorchGradient, references: Float32, settings: MaskSettings) -> Float64:
    """:func:`optimise` as torch loops, one reference after the other."""
    maps = []
    for row, reference in enumerate(torch.tensor(references).double()):
        loop = Loop(gradient, row, settings)
        for _ in range(settings.steps):
            loop.descend(reference)
        maps.append(loop.map())
    return np.stack(maps)


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_the_optimum_is_that_of_a_plain_torch_loop(function: Any) -> None:
    gradient, references = torch_gradient(SIZE, fill=240, function=function), unit(3, 5)
    maps = optimise(gradient, references, QUICK)
    expected = plain_optimise(gradient, references, QUICK)
    assert expected.max() > 0.9  # the masks have gone somewhere
    assert len(np.unique(expected.round(3))) > 50
    np.testing.assert_allclose(maps, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "changed", [{"noise": 0.0}, {"l1": 0.0, "tv": 1.5}, {"tv_beta": 1.0, "l1": 0.3}, {"factor": 1, "seed": 3}]
)
def test_every_setting_does_what_it_does_in_a_torch_loop(changed: dict[str, Any]) -> None:
    gradient, references = torch_gradient((9, 14), fill=240), unit(1, 5)
    settings = replace(QUICK, steps=20, **changed)
    maps = optimise(gradient, references, settings)
    np.testing.assert_allclose(maps, plain_optimise(gradient, references, settings), atol=1e-6, rtol=0)
    assert np.abs(maps - optimise(gradient, references, replace(QUICK, steps=20))).max() > 0.01


def test_both_images_are_masked_as_in_torch_loops_that_take_turns() -> None:
    query = torch_gradient(SIZE, fill=240)
    reference = torch_gradient((13, 22), fill=240, images=3, seed=20)
    embeddings = reference.embeddings()
    settings = replace(QUICK, steps=30)
    half = replace(settings, l1=settings.l1 / 2, tv=settings.tv / 2)
    ours, theirs = optimise_both(query, reference, embeddings, settings)
    for row, embedding in enumerate(torch.tensor(embeddings).double()):
        one, other = Loop(query, row, half), Loop(reference, row, half, stream=1)
        known = embedding
        for _ in range(settings.steps):
            known = other.descend(one.descend(known))
        np.testing.assert_allclose(ours[row], one.map(), atol=1e-6, rtol=0)
        np.testing.assert_allclose(theirs[row], other.map(), atol=1e-6, rtol=0)


def test_taking_turns_finds_what_one_loss_over_both_masks_finds() -> None:
    """SANE's own form: both masks in one loss, both take their step at once. Compared by the loss they reach."""
    settings = replace(QUICK, steps=60, noise=0.0)
    half = replace(settings, l1=settings.l1 / 2, tv=settings.tv / 2)
    query = torch_gradient(SIZE, fill=240, function="dot")
    reference = torch_gradient(SIZE, fill=240, function="dot", seed=20)
    ours, theirs = optimise_both(query, reference, reference.embeddings(), settings)
    one, other = Loop(query, 0, half), Loop(reference, 0, half, stream=1)

    def loss() -> Tensor:
        _, embedding = other.compare(torch.zeros(5).double())
        value, _ = one.compare(embedding)
        return value + penalties(one.cells, half) + penalties(other.cells, half)

    start = loss().item()
    for _ in range(settings.steps):
        one.adam.zero_grad()
        other.step(loss())
        one.adam.step()
        one.cells.data.clamp_(0, 1)
    joint = loss().item()
    for found, loop in ((ours, one), (theirs, other)):
        assert np.corrcoef(found.ravel(), loop.map().ravel())[0, 1] > 0.98
        loop.cells.data = cells_of(found[0], loop)
    assert loss().item() < joint + 0.02 * (start - joint)


def cells_of(found: Float64, loop: Loop) -> Tensor:
    """The cells whose upsampled mask is 1 - ``found`` [H, W], by least squares."""
    (height, width), (h, w) = loop.gradient.size, loop.cells.shape
    rows, columns = np.linalg.pinv(upsampling(height, h)), np.linalg.pinv(upsampling(width, w))
    return torch.tensor(rows @ (1 - found) @ columns.T)


@pytest.mark.parametrize("sides", [(1, 1), (2, 1), (9, 2), (13, 4), (22, 22), (224, 28)])
def test_upsampling_is_torchs(sides: tuple[int, int]) -> None:
    side, cells = sides
    drawn = np.random.default_rng(side).normal(size=cells)
    expected = upsample(torch.tensor(drawn)[:, None], (side, 1))[:, 0]
    np.testing.assert_allclose(upsampling(side, cells) @ drawn, expected, atol=1e-14)


def test_upsampling_by_hand() -> None:
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_array_equal(upsampling(5, 3), expected)


@st.composite
def drawn_cells(draw: st.DrawFn) -> Float64:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    return np.random.default_rng(draw(st.integers(0, 99))).random(shape)


@hypothesis(deadline=None, max_examples=40)
@given(drawn_cells(), st.sampled_from([1.0, 2.0, 2.5, 3.0]))
def test_the_penalties_slope_is_torchs_and_that_of_finite_differences(cells: Float64, beta: float) -> None:
    settings = MaskSettings(l1=0.3, tv=0.7, tv_beta=beta)
    slope = penalty_gradient(cells, settings)
    for mask, found in zip(cells, slope, strict=True):
        values = torch.tensor(mask, requires_grad=True)
        penalties(values, settings).backward()  # type: ignore[no-untyped-call]
        assert values.grad is not None
        np.testing.assert_allclose(found, values.grad, atol=1e-14)
        if beta > 1:  # no kinks
            for at in np.ndindex(*mask.shape):
                step = np.zeros_like(mask)
                step[at] = 1e-6
                up, down = (penalties(torch.tensor(mask + sign * step), settings).item() for sign in (1, -1))
                assert found[at] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_the_penalties_slope_is_zero_at_the_start_as_torchs() -> None:
    cells = np.ones((2, 3, 4))
    values = torch.ones(3, 4, requires_grad=True)
    penalties(values, MaskSettings()).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    np.testing.assert_array_equal(values.grad, 0)
    np.testing.assert_array_equal(penalty_gradient(cells, MaskSettings()), 0)


def test_two_steps_by_hand() -> None:
    """Adam's step is the learning rate where a slope is constant, and a mask cannot rise above 1."""
    image, fill, weights = (np.zeros((1, 3, 3)) for _ in range(3))
    image[0, :, 0], weights[0, :, 0] = 1, (4, -4, 0)
    gradient = HandGradient(image, fill, weights[None])
    settings = MaskSettings(steps=2, factor=1, noise=0, l1=0, tv=0)
    maps = optimise(gradient, np.array([[1], [-0.5]], np.float32), settings)
    np.testing.assert_allclose(maps, [[[0.2, 0, 0]], [[0, 0.2, 0]]], atol=1e-7)
    assert maps[0, 0, 1] == maps[0, 0, 2] == 0


def test_a_price_above_what_it_brings_keeps_a_cell() -> None:
    """Two cells that bring 0.2 and 0.02 each, at a price of l1 / 2 = 0.1 for either: the second comes back."""
    image, fill, weights = (np.zeros((1, 2, 3)) for _ in range(3))
    image[0, :, 0], weights[0, :, 0] = 1, (0.2, 0.02)
    gradient = HandGradient(image, fill, weights[None])
    maps = optimise(gradient, np.ones((1, 1), np.float32), MaskSettings(steps=300, factor=1, l1=0.2, tv=0))
    assert maps[0, 0, 0] == 1
    assert maps[0, 0, 1] < 0.2  # it swings about the kink at 1, by no more than a few steps


def test_the_map_is_where_the_similarity_comes_from() -> None:
    rng = np.random.default_rng(0)
    weights = np.zeros((1, 40, 88, 3))
    weights[:, 5:13, 64:74] = 0.01
    gradient = HandGradient(rng.random((40, 88, 3)) + 0.5, np.zeros((40, 88, 3)), weights)
    found = optimise(gradient, np.ones((1, 1), np.float32), replace(QUICK, steps=80))[0]
    assert found[6:12, 65:73].min() > 0.9
    assert found[:, :44].max() < 0.05  # five cells from the box, which is how wide a flank is
    assert found[:, :36].max() == 0


def test_float32_networks_agree_with_float64() -> None:
    references = unit(2, 5)
    double = optimise(torch_gradient(SIZE, fill=240), references, QUICK)
    single = optimise(torch_gradient(SIZE, fill=240, dtype=torch.float32), references, QUICK)
    assert np.abs(single - double).max() < 1e-4


def test_an_image_that_is_its_fill_has_a_map_of_exact_zeros() -> None:
    gradient = torch_gradient(SIZE, fill=photograph(SIZE)[None])
    np.testing.assert_array_equal(optimise(gradient, unit(2, 5), QUICK), np.zeros((2, *SIZE)))
    ours, theirs = optimise_both(gradient, gradient, gradient.embeddings(), QUICK)
    np.testing.assert_array_equal(ours, np.zeros((1, *SIZE)))
    np.testing.assert_array_equal(theirs, np.zeros((1, *SIZE)))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_query_that_equals_its_reference_has_a_map(noise: float) -> None:
    """At the start the cosine is at its maximum, where its slope is rounding; the first step leaves it."""
    gradient = torch_gradient(SIZE, fill=240)
    maps = optimise(gradient, gradient.embeddings(), replace(QUICK, noise=noise, l1=0.0))
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert 0.5 < maps.max() <= 1


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1), (3, 5)])
def test_frames_of_one_pixel_and_of_less_than_a_cell(size: tuple[int, int]) -> None:
    gradient, references = torch_gradient(size, fill=240), unit(2, 5)
    for settings in (replace(QUICK, factor=8, steps=10), replace(QUICK, factor=2, steps=10)):
        maps = optimise(gradient, references, settings)
        np.testing.assert_allclose(maps, plain_optimise(gradient, references, settings), atol=1e-6, rtol=0)


def test_no_references_give_no_maps() -> None:
    gradient = hand_gradient((3, 4))
    nothing = np.zeros((0, 3), np.float32)
    assert optimise(gradient, nothing).shape == (0, 3, 4)
    assert [maps.shape for maps in optimise_both(gradient, hand_gradient((5, 2)), nothing)] == [(0, 3, 4), (0, 5, 2)]
    assert gradient.batches == []


def test_a_thousand_references_in_bounded_batches() -> None:
    gradient, references = hand_gradient((4, 6)), unit(1000, 3)
    settings = MaskSettings(steps=4, factor=2)
    maps = optimise(gradient, references, settings)
    assert maps.shape == (1000, 4, 6)
    assert max(gradient.batches) == 64
    assert sum(gradient.batches) == 4 * 1000
    for at in (0, 63, 64, 999):
        alone = optimise(hand_gradient((4, 6)), references[at : at + 1], settings)
        np.testing.assert_array_equal(alone[0], maps[at])


@hypothesis(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(1, 9), st.sampled_from([1.0, 2.5, 3.0]), st.data())
def test_a_map_depends_on_its_own_reference_alone_to_the_bit(
    rows: int, chunk: int, beta: float, data: st.DataObject
) -> None:
    gradient, references = hand_gradient((5, 7)), unit(rows, 3, seed=rows)
    settings = MaskSettings(steps=6, factor=2, tv_beta=beta)
    whole = optimise(gradient, references, settings)
    order = data.draw(st.permutations(range(rows)))
    cut = data.draw(st.integers(0, rows))
    parts = [optimise(gradient, references[some], settings, chunk=chunk) for some in (order[:cut], order[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_maps_of_real_frames_depend_on_their_own_reference_alone_to_the_bit() -> None:
    """At 224 pixels a product is large enough for a library to block it, and to split it between threads."""
    gradient, references = hand_gradient((224, 160)), unit(5, 3)
    settings = MaskSettings(steps=3)
    whole = optimise(gradient, references, settings)
    alone = [optimise(gradient, references[at : at + 1], settings)[0] for at in range(5)]
    np.testing.assert_array_equal(alone, whole)


def test_both_maps_of_a_pair_depend_on_that_pair_alone_to_the_bit() -> None:
    query, references = hand_gradient((5, 7)), [hand_gradient((5, 7), seed=seed) for seed in (1, 2, 3)]
    embeddings, settings = unit(3, 3), MaskSettings(steps=8, factor=2)
    ours, theirs = optimise_both(query, Rows(references), embeddings, settings)
    for at, reference in enumerate(references):
        one, other = optimise_both(query, reference, embeddings[at : at + 1], settings)
        np.testing.assert_array_equal(one[0], ours[at])
        np.testing.assert_array_equal(other[0], theirs[at])


@dataclass(frozen=True)
class Rows:
    """Several HandGradients, one a row."""

    each: list[HandGradient]

    @property
    def size(self) -> tuple[int, int]:
        return self.each[0].size

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        answers = [
            gradient(masks[at : at + 1], references[at : at + 1], noise) for at, gradient in enumerate(self.each)
        ]
        value, slope, embedding = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return value, slope, embedding


def test_the_sides_take_turns() -> None:
    """The first step compares with the given embeddings; each later one with what the other side last gave."""
    asked: list[tuple[str, Float32, Float32]] = []

    def listening(name: str, gradient: HandGradient) -> Any:
        class Listening:
            size = gradient.size

            def __call__(self, masks: Float32, references: Float32, noise: Any = None) -> Any:
                answer = gradient(masks, references, noise)
                asked.append((name, references, answer[2]))
                return answer

        return Listening()

    embeddings = unit(2, 3)
    query, reference = listening("query", hand_gradient((5, 7))), listening("reference", hand_gradient((4, 9), seed=1))
    optimise_both(query, reference, embeddings, MaskSettings(steps=3, factor=2))
    assert [name for name, _, _ in asked] == ["query", "reference"] * 3
    known = embeddings
    for _, references, answer in asked:
        np.testing.assert_array_equal(references, known)
        known = answer


def test_noise_is_new_in_every_step_and_the_same_for_every_chunk() -> None:
    gradient = hand_gradient((20, 30))
    optimise(gradient, unit(5, 3), MaskSettings(steps=3), chunk=3)
    drawn = np.array(gradient.noises)
    assert drawn.shape == (6, 1, 20, 30, 3)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn[:3], drawn[3:])
    assert len({step.tobytes() for step in drawn[:3]}) == 3
    values = drawn[:3].size
    assert abs(float(drawn[:3].std()) - 0.2) < 5 * 0.2 / math.sqrt(2 * values)
    assert abs(float(drawn[:3].mean())) < 5 * 0.2 / math.sqrt(values)


def test_noise_comes_from_the_seed_and_the_side() -> None:
    drawn: Callable[[HandGradient], bytes] = lambda gradient: np.array(gradient.noises).tobytes()  # noqa: E731
    streams = []
    for seed in (0, 1):
        query, reference = hand_gradient((4, 6)), hand_gradient((4, 6))
        optimise_both(query, reference, unit(1, 3), MaskSettings(steps=2, seed=seed))
        streams += [drawn(query), drawn(reference)]
        alone = hand_gradient((4, 6))
        optimise(alone, unit(1, 3), MaskSettings(steps=2, seed=seed))
        assert drawn(alone) == streams[-2]
    assert len(set(streams)) == 4


def test_without_noise_none_is_passed_on() -> None:
    gradient = hand_gradient((4, 6))
    optimise(gradient, unit(1, 3), MaskSettings(steps=2, noise=0))
    assert gradient.noises == [None, None]


def test_a_cell_is_eight_pixels() -> None:
    settings = MaskSettings()
    assert settings.cells((224, 224)) == (28, 28)
    assert settings.cells((112, 113)) == (14, 15)
    assert settings.cells((1, 8)) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"factor": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"l1": -0.1},
        {"tv": float("nan")},
        {"tv_beta": 0.5},
        {"noise": float("inf")},
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"Mask needs.* >= .*got.*{name}={value}"):
        MaskSettings(**wrong)


def test_references_that_do_not_fit_are_refused() -> None:
    gradient = hand_gradient((4, 6))
    with pytest.raises(ValueError, match=r"references \[R, D\].*\(3,\)"):
        optimise(gradient, unit(1, 3)[0])
    with pytest.raises(ValueError, match=r"references \[R, D\].*\(3,\)"):
        optimise_both(gradient, gradient, unit(1, 3)[0])
    with pytest.raises(ValueError, match=r"chunk >= 1.* and 0"):
        optimise(gradient, unit(1, 3), chunk=0)
