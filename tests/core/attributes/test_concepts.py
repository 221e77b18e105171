"""Concept vectors, derivatives and tests: closed forms, autograd, captum's TCAV, scipy's Welch test."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from export.bundling.gradient import similarity as torch_similarity
from export.ranking.priors.concept_vectors import concept_vector
from transforms.core.attributes.concepts import (
    concept_sets,
    generator,
    move,
    pooled,
    random_sets,
    settle_priors,
    tcav_scores,
    welch,
)
from transforms.core.errors import BundleError
from transforms.core.records import Float32, Float64
from transforms.core.similarity import SimilarityFunction

FUNCTIONS: tuple[SimilarityFunction, ...] = ("cosine", "dot", "euclidean")
C, H, W, D = 3, 2, 5, 4

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def units(rng: np.random.Generator, count: int, size: int) -> Float64:
    vectors = rng.normal(size=(count, size))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


# Derivatives


def slope(u: Float64, change: Float64, r: Float64, function: SimilarityFunction) -> float:
    """The derivative of the similarity of ``u`` and ``r`` when ``u`` moves by ``change``, in closed form."""
    if function == "dot":
        return float(change @ r)
    if function == "euclidean":
        return float(-(u - r) @ change / np.linalg.norm(u - r))
    unit, other = u / np.linalg.norm(u), r / np.linalg.norm(r)
    return float((change @ other - (unit @ other) * (unit @ change)) / np.linalg.norm(u))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    function=st.sampled_from(FUNCTIONS),
    axis=st.integers(0, 2),
    conditioned=st.booleans(),
    rows=st.integers(1, 9),
)
def test_a_linear_tail_in_closed_form(
    seed: int, function: SimilarityFunction, axis: int, conditioned: bool, rows: int
) -> None:
    """f(h) = mean over positions of W h + b: a step of v at every position changes the embedding by W v."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(D, C)), rng.normal(size=D)
    shape = [H, W]
    shape.insert(axis, C)
    values = rng.normal(1, 1, shape).astype(np.float32)
    vectors, references = units(rng, 5, C), rng.normal(size=(3, D)).astype(np.float32)
    mask = rng.uniform(0, 2, D) if conditioned else np.ones(D)

    def tail(block: Float32) -> Float32:
        means = np.moveaxis(block, 1 + axis, 1).reshape(len(block), C, -1).mean(axis=2, dtype=np.float64)
        return np.asarray(means @ weights.T + bias, np.float32)

    moved = move(tail, values, vectors, axis=axis, share=0.001, rows=rows)
    found = moved.derivatives(references, function, tuple(mask) if conditioned else None)
    u = tail(values[None])[0].astype(np.float64) * mask
    expected = [
        [slope(u, weights @ v * mask, r * mask, function) for r in references.astype(np.float64)] for v in vectors
    ]
    assert found.shape == (5, 3)
    lengths = np.linalg.norm(references * mask, axis=1).min(), np.linalg.norm(u)
    apart = np.linalg.norm(u - references * mask, axis=1).min()
    assume(min(*lengths, apart) > 0.2)  # where a similarity bends within a step, a difference is not its slope
    np.testing.assert_allclose(found, expected, atol=2e-3 * max(1.0, float(np.abs(expected).max())))


def test_by_hand() -> None:
    """Two channels, one row of three positions; the embedding is the channels' sums, the similarity their product."""
    values = np.array([[[1, 2, 3]], [[0, 0, 4]]], np.float32)  # [2, 1, 3], of length sqrt(30)
    blocks = []

    def tail(block: Float32) -> Float32:
        blocks.append(block)
        return np.asarray(block.sum(axis=(2, 3)))

    moved = move(tail, values, np.array([[1.0, 0.0], [0.6, -0.8]]), axis=0, share=0.5)
    # half of the length, spread over three positions: each moves by 0.5 sqrt(30 / 3)
    assert moved.step == pytest.approx(0.5 * np.sqrt(10))
    np.testing.assert_allclose(blocks[0][0] - values, [[[moved.step] * 3], [[0.0] * 3]], rtol=1e-6)
    np.testing.assert_allclose(blocks[0][3], values - moved.step * np.array([0.6, -0.8])[:, None, None], rtol=1e-6)
    references = np.array([[1, 0], [2, 5]], np.float32)
    np.testing.assert_allclose(moved.derivatives(references, "dot"), [[3.0, 6.0], [1.8, 3.6 - 12]], rtol=1e-5)
    np.testing.assert_allclose(moved.derivatives(references, "dot", (1, 0.5)), [[3.0, 6.0], [1.8, 0.6]], rtol=1e-5)


def test_each_step_is_a_share_of_the_activations_length() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(W, C)).astype(np.float32)
    blocks: list[Float32] = []

    def tail(block: Float32) -> Float32:
        blocks.append(block - values)
        return block[:, :2, 0]

    move(tail, values, units(rng, 7, C), axis=1, share=0.03, rows=4)
    lengths = np.sqrt(np.square(np.concatenate(blocks)).sum(axis=(1, 2)))
    np.testing.assert_allclose(lengths, 0.03 * np.sqrt(np.square(values).sum()), rtol=1e-4)
    assert [len(block) for block in blocks] == [4, 4, 4, 2]  # both ways of two vectors at once


def test_activations_of_zero_do_not_move() -> None:
    moved = move(lambda block: block.reshape(len(block), -1), np.zeros((2, 3), np.float32), np.eye(2), axis=0)
    assert moved.step == 0
    np.testing.assert_array_equal(moved.derivatives(np.ones((4, 6), np.float32), "cosine"), np.zeros((2, 4)))


class Network(nn.Module):
    """A trunk and a bent tail, for non-square frames."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.AvgPool2d(2))
        self.behind = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.GELU())
        self.head = nn.Linear(8, D)

    def tail(self, values: Tensor) -> Tensor:
        embedding: Tensor = self.head(self.behind(values).mean(dim=(2, 3)))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.trunk(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_against_autograd(function: SimilarityFunction) -> None:
    """The bent tail in float32 against the gradient in float64; signs agree but for the flattest."""
    torch.manual_seed(3)
    network = Network().eval()
    exact = Network().eval().double()
    exact.load_state_dict(network.state_dict())
    rng = np.random.default_rng(0)
    vectors, found, expected = units(rng, 40, 6), [], []

    def tail(block: Float32) -> Float32:
        with torch.no_grad():
            return np.asarray(network.tail(torch.from_numpy(block)).numpy())

    for _ in range(5):
        with torch.no_grad():
            values = network.trunk(torch.rand(1, 3, 12, 20))
            references = network(torch.rand(4, 3, 12, 20))
        if function == "cosine":
            references = F.normalize(references)
        moved = move(tail, values[0].numpy(), vectors, axis=0)
        found.append(moved.derivatives(references.numpy(), function))
        h = values.double().requires_grad_(True)
        gradients = [
            torch.autograd.grad(torch_similarity(exact.tail(h), r[None], function)[0].sum(), h)[0].sum(dim=(0, 2, 3))
            for r in references.double()
        ]
        expected.append(vectors @ torch.stack(gradients).T.numpy())
    ours, theirs = np.concatenate(found, axis=1), np.concatenate(expected, axis=1)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99999
    agree = (ours > 0) == (theirs > 0)
    assert agree.mean() > 0.99
    assert np.all(np.abs(theirs[~agree]) < 0.01 * np.abs(theirs).mean())
    np.testing.assert_allclose(ours, theirs, atol=1e-2 * float(np.abs(theirs).max()))


# Scores and tests


def test_scores_by_hand() -> None:
    positive = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], np.bool_)
    np.testing.assert_allclose(tcav_scores(positive), [0.6, 0])
    np.testing.assert_allclose(tcav_scores(positive, np.array([0, 1, 1, 1, 1], np.bool_)), [0.5, 0])
    with pytest.raises(ValueError, match="a pair"):
        tcav_scores(positive, np.zeros(5, np.bool_))


samples = hnp.arrays(np.float64, st.integers(2, 12), elements=st.integers(0, 20).map(lambda n: n / 20))


@given(samples, samples)
def test_welch_is_scipys(scores: Float64, others: Float64) -> None:
    assume(np.ptp(scores) > 0 or np.ptp(others) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a side without variance
        expected = stats.ttest_ind(scores, others, equal_var=False).pvalue
    assert welch(scores, others) == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert welch(others, scores) == pytest.approx(welch(scores, others))


@pytest.mark.parametrize(("other", "expected"), [(0.1, 1.0), (0.3, 0.0)])
def test_welch_without_any_variance(other: float, expected: float) -> None:
    """0.1 ten times has a variance of 2e-34 in floating point."""
    assert welch(np.full(10, 0.1), np.full(7, other)) == expected


def test_welch_needs_two_of_each() -> None:
    with pytest.raises(ValueError, match="two scores"):
        welch(np.ones(1), np.ones(3))


def test_priors_by_hand() -> None:
    """Four are tested, so significant is below 0.05 / 4: 0.0125 is not."""
    found = settle_priors(np.array([0.9, 0.2, 0.6, np.nan, 0.1]), np.array([0.001, 0.0125, 0.3, np.nan, 0.0124]), 0.05)
    np.testing.assert_array_equal(found.significant, [True, False, False, False, True])
    np.testing.assert_allclose(found.priors, [0.9, 0.5, 0.5, 0.5, 0.1])
    assert (found.replacement, found.every) == (0.5, False)


def test_priors_where_nothing_is_significant() -> None:
    found = settle_priors(np.array([0.9, 0.5, np.nan]), np.array([0.5, 0.9, np.nan]), 0.05)
    np.testing.assert_allclose(found.priors, [0.7, 0.7, 0.7])
    assert found.every
    with pytest.raises(ValueError, match="no attribute"):
        settle_priors(np.array([np.nan]), np.array([np.nan]), 0.05)


@given(
    hnp.arrays(np.float64, 6, elements=st.floats(0, 1)), hnp.arrays(np.float64, 6, elements=st.floats(0, 1)),
    st.floats(0.001, 0.999),
)  # fmt: skip
def test_priors_are_scores_or_their_mean(scores: Float64, p_values: Float64, alpha: float) -> None:
    found = settle_priors(scores, p_values, alpha)
    assert scores.min() - 1e-12 <= found.priors.min() <= found.priors.max() <= scores.max() + 1e-12
    kept = p_values < alpha / 6
    np.testing.assert_array_equal(found.priors[kept], scores[kept])
    assert len(np.unique(found.priors[~kept])) <= 1
    # the mean of all priors is that of the significant scores: replacing shifts nothing
    assert found.priors.mean() == pytest.approx(scores[kept].mean() if kept.any() else scores.mean())


# Sets


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_sets(ours: int, others: int, sets: int, size: int, seed: int) -> None:
    positives, negatives = np.arange(ours), np.arange(100, 100 + others)
    drawn = concept_sets(positives, negatives, sets=sets, size=size, rng=generator(seed, "a"))
    assert len(drawn) == sets
    for examples, counter in drawn:
        assert len(examples) == len(counter) == min(size, ours, others)
        assert len(set(examples)) == len(examples)
        assert len(set(counter)) == len(counter)
        assert set(examples) <= set(positives)
        assert set(counter) <= set(negatives)
        np.testing.assert_array_equal(examples, drawn[0][0])
    again = concept_sets(positives, negatives, sets=sets + 2, size=size, rng=generator(seed, "a"))
    for pair, same in zip(drawn, again, strict=False):
        np.testing.assert_array_equal(pair, same)


@given(st.integers(2, 40), st.integers(1, 12))
def test_random_sets(count: int, size: int) -> None:
    drawn = random_sets(np.arange(count), sets=5, size=size, rng=generator(0, "random"))
    for examples, counter in drawn:
        assert len(examples) == len(counter) == min(size, count // 2)
        assert not set(examples) & set(counter)
    if count > 20:
        assert len({tuple(examples) for examples, _ in drawn}) > 1


def test_each_concept_has_a_stream_of_its_own() -> None:
    streams = [generator(0, "a"), generator(1, "a"), generator(0, "b"), generator(0, "a", "b")]
    draws = {tuple(stream.integers(0, 1000, 4)) for stream in streams}
    assert len(draws) == 4
    assert generator(5, "colour=red").random() == generator(5, "colour=red").random()


def test_pooling_by_hand() -> None:
    values = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(pooled(values, 1), [[2.5, 8.5]])
    np.testing.assert_allclose(pooled(values, 2), [[4, 7]])
    np.testing.assert_allclose(pooled(values, 3), [[4.5, 5.5, 6.5]])
    np.testing.assert_allclose(pooled(values.reshape(1, 12), 1), np.arange(12)[None])


# Concept vectors


def test_a_planted_direction_is_found() -> None:
    rng = np.random.default_rng(0)
    planted = units(rng, 1, 20)[0]
    base = rng.normal(size=(90, 20))
    vector, accuracy = concept_vector(base[:40] + 3 * planted + 100, base[40:80] - 3 * planted + 100)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector @ planted > 0.9
    assert accuracy > 0.95
    opposite, _ = concept_vector(base[40:80] - 3 * planted, base[:40] + 3 * planted)
    np.testing.assert_allclose(opposite, -vector, atol=1e-3)


def test_the_scale_of_the_activations_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    ours, others = rng.normal(0.3, 1, (30, 8)), rng.normal(0, 1, (30, 8))
    vector, accuracy = concept_vector(ours, others)
    scaled, same = concept_vector(1e4 * ours - 7, 1e4 * others - 7)
    np.testing.assert_allclose(scaled, vector, atol=1e-3)
    assert accuracy == same
    again, _ = concept_vector(ours, others)
    np.testing.assert_array_equal(again, vector)


def test_the_accuracy_is_that_of_unseen_examples() -> None:
    """More dimensions than examples: any labels can be learnt, and mean nothing."""
    rng = np.random.default_rng(2)
    accuracies = [concept_vector(*rng.normal(size=(2, 30, 200)))[1] for _ in range(20)]
    assert 0.35 < np.mean(accuracies) < 0.65


def test_activations_that_are_all_the_same() -> None:
    with pytest.raises(BundleError, match="the same for products with and without"):
        concept_vector(np.ones((12, 4)), np.ones((12, 4)))


class Similarity(nn.Module):
    """What captum differentiates: the cosine of each image with a reference of its own, as one class [B, 1].

    Concepts' images, of which captum takes the trunk's values alone, have no reference.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, references: Tensor | None = None) -> Tensor:
        embeddings = self.network(x)
        return F.cosine_similarity(embeddings, embeddings if references is None else references)[:, None]


def test_a_score_is_captums(tmp_path: Path) -> None:
    """The share of positive derivatives along given vectors, the same at every position."""
    from captum.attr import LayerGradientXActivation
    from captum.concept import TCAV, Concept
    from captum.concept._utils.classifier import Classifier

    torch.manual_seed(0)
    network = Network().eval()
    images, others = torch.rand(2, 30, 3, 12, 20)
    with torch.no_grad():
        values, references = network.trunk(images), network(others)
    vectors = units(np.random.default_rng(4), 6, 6)

    class Given(Classifier):  # type: ignore[misc]
        """No classifier: the vector of one concept, and its opposite for the other."""

        def __init__(self, vector: Float64) -> None:
            self.normal = torch.from_numpy(vector).float()[:, None, None].expand(values.shape[1:]).flatten()

        def train_and_eval(self, dataloader: Any, **_: Any) -> dict[str, Any]:
            return {"accs": torch.tensor(1.0)}

        def weights(self) -> Tensor:
            return torch.stack([-self.normal, self.normal])

        def classes(self) -> list[int]:
            return [0, 1]

    def captum(number: int, vector: Float64) -> tuple[float, float]:
        model = Similarity(network)
        tcav = TCAV(
            model,
            ["network.trunk"],
            classifier=Given(vector),
            layer_attr_method=LayerGradientXActivation(model, network.trunk, multiply_by_inputs=False),
            save_path=str(tmp_path / str(number)),
        )
        pair = [Concept(index, name, [images[:1]]) for index, name in enumerate(("without", "with"))]
        found = tcav.interpret(images, [pair], target=0, additional_forward_args=references)
        against, in_favour = found["0-1"]["network.trunk"]["sign_count"].tolist()
        return against, in_favour

    def tail(block: Float32) -> Float32:
        with torch.no_grad():
            return np.asarray(network.tail(torch.from_numpy(block)).numpy())

    pairs = zip(values.numpy(), references.numpy(), strict=True)
    positive = np.concatenate(
        [move(tail, value, vectors, axis=0).derivatives(reference[None], "cosine") > 0 for value, reference in pairs],
        axis=1,
    )
    expected = np.array([captum(number, vector) for number, vector in enumerate(vectors)])
    np.testing.assert_allclose(tcav_scores(positive), expected[:, 1], atol=1e-6)
    np.testing.assert_allclose(tcav_scores(~positive), expected[:, 0], atol=1e-6)
    assert 0.1 < expected[:, 1].min() < expected[:, 1].max() < 0.9
