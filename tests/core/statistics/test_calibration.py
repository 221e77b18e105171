"""The scales of the ranking's parts and the search of phi, against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from transforms.core.attributes.ranking import IDENTITY, Phi, Ranking, Scale, Scales
from transforms.core.metrics.removal import Oracle, judge
from transforms.core.records import Float64
from transforms.core.statistics.calibration import (
    KINDS,
    KNOTS,
    TILT,
    Evidence,
    Kind,
    fit_scales,
    held_out,
    isotonic,
    quantile,
    search_phi,
    simplex,
    standard,
)


def test_standard_is_the_z_score() -> None:
    values = np.random.default_rng(0).gamma(2, size=(7, 5))
    np.testing.assert_allclose(standard(values)(values), (values - values.mean()) / values.std(), atol=1e-12)


def test_quantile_by_hand() -> None:
    # of five values one is below 2 and 2 itself is there twice, which counts once: (1 + 2 / 2) / 5
    scale = quantile(np.array([2.0, 5.0, 1.0, 2.0, 9.0]))
    np.testing.assert_allclose(scale([1, 2, 5, 9]), [0.1, 0.4, 0.7, 0.9], atol=2 * TILT)
    np.testing.assert_allclose(scale([1.5, 7]), [0.25, 0.8], atol=2 * TILT)
    assert 0.1 - 2 * TILT <= scale(-3.0) < scale(1.0)
    assert scale(9.0) < scale(17.0) <= 0.9 + 4 * TILT


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3000))
def test_quantile_is_the_empirical_distribution(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.beta(0.3, 2, count).round(int(rng.integers(1, 6)))
    scale = quantile(values)
    knots = np.array(scale.values)[1:-1] if scale is not IDENTITY else np.zeros(0)
    assert set(knots.tolist()) <= set(values.tolist())
    by_definition = [((values < knot).mean() + (values <= knot).mean()) / 2 for knot in knots]
    np.testing.assert_allclose(scale(knots), by_definition, atol=2 * TILT)
    # between knots no more than the step and the ties at its ends
    if len(knots):
        found = np.array([((values < value).mean() + (values <= value).mean()) / 2 for value in np.unique(values)])
        assert np.abs(scale(np.unique(values)) - found).max() <= 2 / (KNOTS - 3) + 2 * TILT


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.integers(1, 40))
def test_isotonic_is_sklearns_at_the_knots(seed: int, count: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, distinct + 1, count) / 7
    hits = (rng.random(count) < np.clip(values / 4 + rng.normal(), 0, 1)).astype(np.float64)
    scale = isotonic(values, hits)
    if len(np.unique(values)) < 2:
        assert scale is IDENTITY
        return
    oracle = IsotonicRegression().fit(values, hits)
    at = np.array(scale.values)[1:-1]
    np.testing.assert_allclose(scale(at), oracle.predict(at), atol=2 * TILT)
    np.testing.assert_allclose(scale(values), oracle.predict(values), atol=2 * TILT)


def test_many_steps_become_few_knots_close_to_them() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(200_000)
    hits = (rng.random(200_000) < values**2).astype(np.float64)
    scale = isotonic(values, hits)
    fitted = IsotonicRegression().fit(values, hits)
    assert len(fitted.X_thresholds_) > KNOTS >= len(scale.values)
    at = np.array(scale.values)[1:-1]
    np.testing.assert_allclose(scale(at), fitted.predict(at), atol=2 * TILT)
    points = np.linspace(values.min(), values.max(), 5000)
    assert np.abs(scale(points) - fitted.predict(points)).max() <= 1 / 48 + 2 * TILT


def test_what_says_nothing_of_the_oracle_has_no_weight() -> None:
    values = np.linspace(0, 1, 50)
    scale = isotonic(values, (values < 0.5).astype(np.float64))  # the higher, the rarer
    assert float(scale(1.0) - scale(0.0)) == pytest.approx(TILT)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_every_scale_keeps_the_order_strictly(kind: Kind, seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    part, drops = rng.normal(size=(40, 3)).round(decimals), rng.normal(size=(40, 3))
    scale = fit_scales(kind, Evidence(part, part), Oracle(drops)).match
    points = np.unique(np.concatenate([part.ravel(), rng.uniform(-6, 6, 30).round(6)]))
    assert (np.diff(scale(points)) > 0).all()
    assert len(scale.values) <= KNOTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_without_differences_stays_as_it_is(kind: Kind) -> None:
    same, other = np.full((4, 3), 0.1), np.random.default_rng(0).random((4, 3))
    drops = np.arange(12.0).reshape(4, 3)
    scales = fit_scales(kind, Evidence(same, other, np.full(3, 0.7)), Oracle(drops))
    assert scales.confidence is scales.prior is IDENTITY
    assert scales.match is not IDENTITY
    assert fit_scales(kind, Evidence(same, other), Oracle(drops)).prior is IDENTITY
    nothing = fit_scales(kind, Evidence(same, same), Oracle(np.full((4, 3), np.nan)))
    assert nothing == Scales()


def test_isotonic_looks_at_what_is_judged_only() -> None:
    drops = np.array([[0.5, 0.0, np.nan], [-1.0, 0.0, 0.0], [0.0, 0.3, 0.0]])
    part = np.array([[0.8, 0.2, 5.0], [7.0, 7.0, 7.0], [0.2, 0.8, 0.5]])
    scale = fit_scales("isotonic", Evidence(part, part), Oracle(drops)).confidence
    # 0.2: 0 of 2, 0.5: 0 of 1, 0.8: 2 of 2; the pair that is not judged and the NaN have no part in it
    np.testing.assert_allclose(scale([0.2, 0.5, 0.65, 0.8, 7.0]), [0, 0, 0.5, 1, 1], atol=20 * TILT)
    prior = fit_scales("isotonic", Evidence(part, part, np.array([0.1, 0.2, 0.3])), Oracle(drops)).prior
    assert prior(0.1) < prior(0.3)  # 1 of 2, 1 of 2 and 0 of 1: 0.4 throughout, but for the tilt
    np.testing.assert_allclose(prior([0.1, 0.2, 0.3]), 0.4, atol=2 * TILT)


@pytest.mark.parametrize(("prior", "count"), [(False, 21), (True, 231)])
def test_the_grid_is_the_simplex(prior: bool, count: int) -> None:
    grid = simplex(prior)
    assert len(set(grid)) == len(grid) == count
    assert all(sum(phi) == pytest.approx(1) and min(phi) >= 0 for phi in grid)
    assert prior or not any(third for _, _, third in grid)
    assert (0.25, 0.75, 0.0) in grid


def planted(phi: Phi, pairs: int = 400) -> tuple[Evidence, Oracle]:
    """Parts of which the drops are the ranking with ``phi``, in the mean: its first attribute is the oracle."""
    rng = np.random.default_rng(3)
    evidence = Evidence(rng.random((pairs, 9)), rng.uniform(-1, 1, (pairs, 9)), rng.random(9))
    score = Ranking(phi, priors=tuple(np.asarray(evidence.prior))).scores(evidence.confidence, evidence.match)
    return evidence, Oracle(score - score.min() + 0.1)


@pytest.mark.parametrize("phi", [(0.3, 0.2, 0.5), (0.0, 1.0, 0.0), (0.8, 0.2, 0.0), (0.15, 0.25, 0.6)])
def test_a_planted_phi_is_found(phi: Phi) -> None:
    evidence, oracle = planted(phi)
    found = search_phi(evidence, oracle, Scales())
    assert found.best.phi == pytest.approx(phi)
    assert (found.best.removal, found.best.top1, found.best.top5) == (1.0, 1.0, 1.0)
    assert len(found.grid) == 231
    assert search_phi(evidence, oracle, Scales()) == found


def test_the_grid_has_what_an_audit_would_score() -> None:
    evidence, oracle = planted((0.3, 0.2, 0.5), pairs=30)
    scales = Scales(Scale((0, 1), (0, 3)), Scale((-1, 0, 1), (0, 0.2, 2)), Scale((0, 0.5, 1), (0, 2, 3)))
    for point in search_phi(evidence, oracle, scales).grid:
        ranking = Ranking(point.phi, scales, tuple(np.asarray(evidence.prior).tolist()))
        judged = judge(ranking.scores(evidence.confidence, evidence.match), oracle.drops)
        assert (point.removal, point.top1, point.top5) == (judged.removal, judged.top1, judged.top5)


def test_without_a_prior_its_weight_is_zero() -> None:
    evidence, oracle = planted((0.3, 0.7, 0.0))
    found = search_phi(Evidence(evidence.confidence, evidence.match), oracle, Scales())
    assert found.best.phi == pytest.approx((0.3, 0.7, 0))
    assert len(found.grid) == 21


def test_of_equal_points_the_middle_is_taken() -> None:
    # the first attribute, which is the oracle, is first for phi_1 of 0.4 and more: the middle of 0.4 to 1 is 0.7
    evidence = Evidence(np.array([[1.0, 0.4]]), np.array([[0.6, 0.99]]))
    found = search_phi(evidence, Oracle(np.array([[0.5, 0.0]])), Scales())
    assert found.best.phi == pytest.approx((0.7, 0.3, 0))
    assert sum(point.removal == 1 for point in found.grid) == 13


def test_of_equal_removal_the_most_oracles_win() -> None:
    # two attributes of nearly no difference: equal drops, but only one is the oracle, the first of the vocabulary
    drops: Float64 = np.array([[0.5, 0.5, 0.0]])
    evidence = Evidence(np.array([[0.2, 0.9, 0.0]]), np.array([[0.9, 0.2, 0.0]]))
    found = search_phi(evidence, Oracle(drops), Scales())
    assert {point.removal for point in found.grid} == {1.0}
    assert found.best.phi == pytest.approx((0.25, 0.75, 0))  # phi_1 from 0 to 0.5, where the first comes first


def test_what_cannot_be_searched_is_refused() -> None:
    evidence = Evidence(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="judged pair"):
        search_phi(evidence, Oracle(np.zeros((2, 3))), Scales())
    with pytest.raises(ValueError, match="shape of the parts"):
        fit_scales("standard", evidence, Oracle(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="finite"):
        Evidence(np.full((2, 3), np.nan), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\[P, A\]"):
        Evidence(np.ones((2, 3)), np.ones((2, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_figures_are_of_pairs_that_were_not_fitted(kind: Kind) -> None:
    rng = np.random.default_rng(5)
    evidence = Evidence(rng.random((60, 4)), rng.uniform(-1, 1, (60, 4)), rng.random(4))
    drops = np.where(rng.random((60, 4)) < 0.8, rng.normal(size=(60, 4)), np.nan)
    folds = rng.integers(3, size=60)
    found = held_out(kind, evidence, Oracle(drops), folds)
    for fold in range(3):
        rest, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        some = Evidence(evidence.confidence[rest], evidence.match[rest], evidence.prior)
        scales = fit_scales(kind, some, Oracle(drops[rest]))
        phi = search_phi(some, Oracle(drops[rest]), scales).best.phi
        ranking = Ranking(phi, scales, tuple(np.asarray(evidence.prior).tolist()))
        alone = judge(ranking.scores(evidence.confidence[own], evidence.match[own]), drops[own])
        np.testing.assert_array_equal(found.rank[own], alone.rank)
        np.testing.assert_array_equal(found.first[own], alone.first)
        # whatever its own drops were, they have no part in its ranks but for the oracle that these are of
        other = drops.copy()
        other[own] *= 7
        again = held_out(kind, evidence, Oracle(other), folds)
        np.testing.assert_array_equal(found.rank[own], again.rank[own])


def test_folds_must_leave_something_to_fit() -> None:
    evidence, oracle = planted((0.3, 0.7, 0.0), pairs=6)
    with pytest.raises(ValueError, match="judged pair"):
        held_out("quantile", evidence, oracle, np.zeros(6, np.int64))
    with pytest.raises(ValueError, match="folds"):
        held_out("quantile", evidence, oracle, np.zeros(5, np.int64))
