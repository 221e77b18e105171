"""RISE's regression estimator against plain ridge regression, against the mean that it replaces, and at its edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.imaging.maps import area_average
from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import References
from transforms.core.saliency.grids import Sampling
from transforms.core.saliency.regression import PATCHES, RIDGE, Regression
from transforms.core.saliency.rise import Rise, rise
from transforms.core.saliency.split_half import SplitHalfReliability
from transforms.core.saliency.stopping_rule import StoppingRule
from transforms.core.similarity import similarities

SIZE = (30, 44)


def linear_scores(design: Rise, weights: Float64) -> Float64:
    """Scores [1, N] that are a sum over pixels of what a mask keeps."""
    scores: Float64 = np.einsum("nyx,yx->n", design.masks(0, design.n).astype(np.float64), weights)[None]
    return scores


def smooth(size: tuple[int, int], seed: int = 0) -> Float64:
    """Weights [H, W] that change slowly."""
    rng = np.random.default_rng(seed)
    weights: Float64 = np.kron(rng.normal(size=(3, 4)), np.ones((size[0] // 3, size[1] // 4))).astype(np.float64)
    return weights


def expected_map(weights: Float64, p: float = 0.5, cells: int = 4) -> Float64:
    """Cov(f, M(x)) / p of a linear score by definition: the exact mean over all shifts of the two upsamplings."""
    design = rise(SIZE, masks=1, cells=cells)
    up_y, up_x = (up.astype(np.float64) for up in design._upsampling)
    rows = np.einsum("syc,szc->yz", up_y, up_y) / len(up_y)
    columns = np.einsum("syc,szc->yz", up_x, up_x) / len(up_x)
    wanted: Float64 = (1 - p) * (rows @ weights @ columns.T)
    return wanted


@pytest.mark.parametrize("sampling", ["independent", "sobol", "hadamard"])
def test_both_estimators_find_the_map_of_a_linear_score(sampling: Sampling) -> None:
    weights = smooth(SIZE)
    design = rise(SIZE, masks=6000, cells=4, sampling=sampling, seed=2)
    scores = linear_scores(design, weights)
    wanted = expected_map(weights)
    found = {
        estimator: replace(design, estimator=estimator).estimate(scores, scores[:, 0])[0]
        for estimator in ("regression", "average")
    }
    error = {name: np.abs(one - wanted).max() / np.abs(wanted).max() for name, one in found.items()}
    assert error["average"] < 0.2
    assert error["regression"] < 0.02
    assert error["regression"] < error["average"]


def test_few_masks_with_the_regression_beat_many_without() -> None:
    """What the estimator is for: the noise of a pixel's map is what all other pixels do to the scores."""
    agreement: dict[tuple[str, int], list[float]] = {}
    for seed in range(5):
        weights = smooth(SIZE, seed)
        wanted = expected_map(weights)
        for sampling, estimator, masks in (("hadamard", "regression", 64), ("independent", "average", 512)):
            design = rise(SIZE, masks=masks, cells=4, sampling=sampling, estimator=estimator, seed=seed)  # type: ignore[arg-type]
            (found,) = design.estimate(linear_scores(design, weights), np.zeros(1))
            r = float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])
            agreement.setdefault((estimator, masks), []).append(r)
    assert np.median(agreement["regression", 64]) > np.median(agreement["average", 512])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 99))
def test_slopes_are_those_of_a_plain_ridge_regression(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, score = rng.random((n, k)), rng.normal(size=n)
    centred = features - features.mean(axis=0)
    penalty = RIDGE * np.trace(centred @ centred.T) / n
    # the textbook's form: one least squares problem with a row more for every slope
    stacked = np.vstack([centred, np.sqrt(penalty) * np.eye(k)])
    wanted = np.linalg.lstsq(stacked, np.concatenate([score - score.mean(), np.zeros(k)]), rcond=None)[0]
    np.testing.assert_allclose(Regression.of(features).coefficients(score), wanted, atol=1e-10)
    assert Regression.of(features).primal == (n > k)


def test_features_are_averages_of_the_masks_over_patches() -> None:
    design = rise(SIZE, masks=40, cells=4)
    masks = design.masks(0, 40).astype(np.float64)
    wanted = area_average(masks, (PATCHES * 4, PATCHES * 4)).reshape(40, -1)
    np.testing.assert_allclose(design._features(40), wanted, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["independent", "sobol", "hadamard"]),
    st.integers(1, 90),
    st.integers(1, 5),
    st.integers(1, 6),
    st.data(),
)
def test_a_map_depends_on_its_own_scores_alone_to_the_bit(
    sampling: Sampling, masks: int, cells: int, references: int, data: st.DataObject
) -> None:
    design = rise((7, 11), masks=masks, cells=cells, sampling=sampling)
    n = data.draw(st.integers(1, masks))
    scores = np.random.default_rng(n).normal(0.8, 0.1, (references, n))
    whole = design.estimate(scores, scores[:, 0])
    assert np.isfinite(whole).all()
    order = data.draw(st.permutations(range(references)))
    parts = [
        rise((7, 11), masks=masks, cells=cells, sampling=sampling).estimate(scores[[at]], scores[[at], 0])
        for at in order
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("masks", [1, 2, 50])
def test_equal_scores_and_single_masks_give_zeros(masks: int) -> None:
    design = rise((9, 1), masks=masks, cells=1)
    np.testing.assert_array_equal(design.estimate(np.full((2, masks), 1 / 3), np.zeros(2)), 0)
    np.testing.assert_array_equal(rise((9, 14), masks=1, cells=3).estimate(np.array([[0.7]]), np.zeros(1)), 0)


def test_a_subset_is_the_design_of_its_masks() -> None:
    design = rise((9, 14), masks=40, cells=3)
    rows = np.array([3, 17, 30])
    subset = design.subset(rows)
    np.testing.assert_array_equal(subset.masks(0, 3), design.masks(0, 40)[rows])
    assert subset.key != design.key


def some_embeddings(design: Rise, noise: float) -> tuple[Float32, Float32]:
    """Embeddings [N, 6] that follow the masks and noise, and references [2, 6]."""
    rng = np.random.default_rng(1)
    patches = area_average(design.masks(0, design.n).astype(np.float64), (2, 3)).reshape(design.n, 6)
    embeddings = patches + noise * rng.normal(size=patches.shape)
    return embeddings.astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.02, 0.2, 5.0])
def test_convergence_stops_at_the_first_blocks_whose_halves_agree_whatever_the_batches(noise: float) -> None:
    design = rise((20, 30), masks=512, cells=4, seed=3)  # blocks of 32
    assert design.block == 32
    embeddings, references = some_embeddings(design, noise)
    scores = similarities(references, embeddings, "cosine")
    agreed = [n for n in range(64, 513, 64) if (SplitHalfReliability(design, n).agreement(scores[:, :n]) >= 0.9).all()]
    wanted = agreed[0] if agreed else None
    for batch in (16, 32, 100, 512):
        stopping_rule = StoppingRule(design, "cosine", References(references), 0.9)
        answers = [stopping_rule(embeddings[:stop]) for stop in range(batch, 513, batch)]
        found = [answer for answer in answers if answer is not None]
        assert (found[0] if found else None) == (wanted if batch != 100 or wanted is None or wanted <= 500 else None)
    if noise == 0.02:
        assert wanted is not None
        assert wanted < 512
    if noise == 5.0:
        assert wanted is None


def test_halves_agree_where_nothing_changes_and_not_where_one_half_does() -> None:
    design = rise((20, 30), masks=64, cells=4)
    same = np.full((1, 64), 0.5)
    one_half = same.copy()
    one_half[0, :32] += np.random.default_rng(0).normal(size=32)
    split_half = SplitHalfReliability(design, 64)
    np.testing.assert_array_equal(split_half.agreement(same), [1.0])
    np.testing.assert_array_equal(split_half.agreement(one_half), [0.0])


def test_one_cell_has_constant_maps_which_agree() -> None:
    design = rise((20, 30), masks=64, cells=1)
    scores = np.random.default_rng(0).normal(size=(5, 64))
    np.testing.assert_array_equal(SplitHalfReliability(design, 64).agreement(scores), 1)
