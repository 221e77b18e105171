"""Bootstrap intervals against numbers worked out by hand, and against the resampling of whole queries one by one."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.records import Float64
from transforms.core.statistics import bootstrap as module
from transforms.core.statistics.bootstrap import (
    Interval,
    bootstrap,
    mean,
    mean_by_query,
    means_by_query,
    ratio_by_query,
)

VALUES = st.floats(-1e6, 1e6)
PAIRS = st.lists(st.tuples(st.sampled_from("abcde"), VALUES, st.floats(0.01, 100)), min_size=1, max_size=30)


@pytest.mark.parametrize(("confidence", "low", "high"), [(0.6, 1.0, 4.0), (0.4, 2.0, 2.0)])
def test_the_percentile_interval_of_a_median_of_three(confidence: float, low: float, high: float) -> None:
    # The median of a resample of {1, 2, 4} is 1 where 1 was drawn at least twice: (3 * 2 + 1) / 27 = 0.259 of all; 4
    # likewise; else 2. So the quantiles 0.2 and 0.8 are 1 and 4, and 0.3 and 0.7 are 2 and 2.
    values = np.array([1.0, 2.0, 4.0])
    found = bootstrap(lambda drawn: float(np.median(values[drawn])), 3, resamples=20_000, confidence=confidence)
    assert found == Interval(2.0, low, high)


def test_the_resampled_means_have_their_binomial_shares() -> None:
    # the mean of a resample of {0, 1} of size 2 is 0, 0.5, 1 with 1/4, 1/2, 1/4
    values, drawn_means = np.array([0.0, 1.0]), []

    def statistic(drawn: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        drawn_means.append(values[drawn].mean())
        return float(drawn_means[-1])

    assert bootstrap(statistic, 2, resamples=20_000) == Interval(0.5, 0.0, 1.0)
    shares = [np.mean(np.array(drawn_means[:20_000]) == value) for value in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.02)  # five standard errors are 0.018


def test_an_interval_of_means_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found, half = mean(values), 1.96 * values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(2).random(9)
    assert mean(values, seed=5) == mean(values, seed=5) != mean(values, seed=6)


def test_numbers_that_are_not_finite_and_empty_input_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        mean([1.0, float("nan")])
    with pytest.raises(ValueError, match="at least one unit"):
        mean([])


def test_text() -> None:
    assert Interval(1.0125, 0.99, 1.25).text(2) == "1.01 (0.99 to 1.25)"
    assert Interval(0.0125, -0.01, 0.02).text(1, factor=100) == "1.2 (-1.0 to 2.0)"
    assert Interval(0.0125, math.nan, math.nan).text(1, factor=100) == "1.2 (too few queries: no interval)"


# a has two pairs of 0 and b one of 1: a resample is aa, ab, ba or bb, and the means over its pairs are 0, 1/3, 1/3, 1
HAND = np.array([0.0, 1.0, 0.0]), ["a", "b", "a"]


@pytest.mark.parametrize(("confidence", "low", "high"), [(0.95, 0.0, 1.0), (0.4, 1 / 3, 1 / 3)])
def test_a_query_is_drawn_with_all_of_its_pairs(confidence: float, low: float, high: float) -> None:
    found = mean_by_query(*HAND, confidence=confidence)
    assert (found.estimate, found.low, found.high) == pytest.approx((1 / 3, low, high))


def test_a_weight_is_that_of_as_many_pairs() -> None:
    # aa, ab, bb: 0, 3 / (2 + 3), 1
    found = mean_by_query(*HAND, weights=np.array([1.0, 3.0, 1.0]), confidence=0.4)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))
    assert mean_by_query(*HAND, weights=np.array([1.0, 3.0, 1.0])) == mean_by_query(
        np.array([0.0, 1.0, 1.0, 1.0, 0.0]), ["a", "b", "b", "b", "a"]
    )


def test_a_ratio_is_one_of_sums() -> None:
    # a: 1 + 2 over 4 + 0; b: 3 over 2. The ratios of aa, ab, bb are 3/4, 6/6, 3/2
    parts = np.array([1.0, 3.0, 2.0]), np.array([4.0, 2.0, 0.0]), ["a", "b", "a"]
    found = ratio_by_query(*parts)
    assert (found.estimate, found.low, found.high) == (1.0, 0.75, 1.5)
    assert ratio_by_query(*parts, confidence=0.4) == Interval(1.0, 1.0, 1.0)


def test_a_curve_has_an_interval_at_each_point() -> None:
    estimate, low, high = means_by_query(np.array([[0.0, 5.0], [1.0, 5.0], [0.0, 5.0]]), HAND[1])
    np.testing.assert_allclose(np.stack([estimate, low, high]), np.array([[1 / 3, 5], [0, 5], [1, 5]]), rtol=1e-15)


def some_pairs(queries: int = 7, pairs: int = 40) -> tuple[Float64, Float64, list[str]]:
    rng = np.random.default_rng(5)
    return rng.normal(size=(pairs, 3)), rng.random(pairs) + 0.1, [f"q{n}" for n in rng.integers(0, queries, pairs)]


@pytest.mark.parametrize("counts", [1, 64, 1 << 20])
def test_each_interval_is_that_of_resampling_one_query_after_the_other(
    monkeypatch: pytest.MonkeyPatch, counts: int
) -> None:
    monkeypatch.setattr(module, "_COUNTS", counts)
    values, weights, queries = some_pairs()
    ids = sorted(set(queries))
    members = [np.flatnonzero(np.array(queries) == query) for query in ids]

    def oracle(numerators: Float64, denominators: Float64) -> Interval:
        def statistic(drawn: module.Index) -> float:
            rows = np.concatenate([members[place] for place in drawn])
            return float(numerators[rows].sum() / denominators[rows].sum())

        return bootstrap(statistic, len(ids), resamples=300, confidence=0.8, seed=9)

    def check(found: Interval, expected: Interval) -> None:
        assert (found.estimate, found.low, found.high) == pytest.approx(
            (expected.estimate, expected.low, expected.high)
        )

    one = values[:, 0]
    check(mean_by_query(one, queries, resamples=300, confidence=0.8, seed=9), oracle(one, np.ones(40)))
    check(
        mean_by_query(one, np.array(queries), weights=weights, resamples=300, confidence=0.8, seed=9),
        oracle(one * weights, weights),
    )
    check(ratio_by_query(one, weights, queries, resamples=300, confidence=0.8, seed=9), oracle(one, weights))
    curves = means_by_query(values, queries, weights=weights, resamples=300, confidence=0.8, seed=9)
    for t, column in enumerate(values.T):
        check(Interval(*(float(part[t]) for part in curves)), oracle(column * weights, weights))


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_pairs_leaves_no_trace(pairs: list[tuple[str, float, float]], random: object) -> None:
    other = list(pairs)
    random.shuffle(other)  # type: ignore[attr-defined]
    results = []
    for rows in (pairs, other):
        queries = [query for query, _, _ in rows]
        values, weights = (np.array([row[at] for row in rows]) for at in (1, 2))
        curves = means_by_query(np.column_stack([values, values**2]), queries, weights=weights, resamples=50)
        singles = [
            mean_by_query(values, queries, resamples=50),
            mean_by_query(values, queries, weights=weights, resamples=50),
            ratio_by_query(values, weights, queries, resamples=50),
        ]
        results.append(np.array([*np.ravel(curves), *((one.estimate, one.low, one.high) for one in singles)], object))
    assert repr(results[0].tolist()) == repr(results[1].tolist())  # to the bit, NaN included


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_a_mean_and_its_interval_lie_among_the_values(pairs: list[tuple[str, float, float]]) -> None:
    queries = [query for query, _, _ in pairs]
    values, weights = np.array([value for _, value, _ in pairs]), np.array([weight for _, _, weight in pairs])
    found = mean_by_query(values, queries, weights=weights, resamples=50)
    slack = 1e-9 * np.abs(values).max()
    assert found.estimate == pytest.approx(np.average(values, weights=weights), abs=slack + 1e-300)
    assert math.isnan(found.low) == math.isnan(found.high) == (len(set(queries)) == 1)
    if len(set(queries)) > 1:
        assert values.min() - slack <= found.low <= found.high <= values.max() + slack


def test_one_query_has_no_interval() -> None:
    found = mean_by_query(np.array([1.0, 2.0]), ["a", "a"])
    assert found.estimate == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    estimate, low, high = means_by_query(np.array([[1.0, 2.0]]), ["a"])
    np.testing.assert_array_equal([estimate, low, high], [[1, 2], [math.nan] * 2, [math.nan] * 2])


def test_queries_without_weight_count_for_nothing() -> None:
    values, queries = np.array([0.0, 1.0, 0.0, 9.0]), ["a", "c", "a", "b"]
    assert mean_by_query(values, queries, weights=np.array([1.0, 1.0, 1.0, 0.0])) == mean_by_query(*HAND)
    # with b gone, one query is left: its numbers alone are no interval
    assert math.isnan(mean_by_query(values[2:], queries[2:], weights=np.array([1.0, 0.0])).low)


def test_ids_are_told_apart_as_they_are() -> None:
    """An array of strings would drop the null at the end, and with it one query of two."""
    assert mean_by_query(HAND[0], ["a", "a\0", "a"]) == mean_by_query(*HAND)
    assert mean_by_query(HAND[0], ["\ud800", "\ud801", "\ud800"]) == mean_by_query(*HAND)


def test_an_interval_over_queries_covers_the_truth_and_one_over_pairs_does_not() -> None:
    rng, covered = np.random.default_rng(3), np.zeros(2)
    for trial in range(300):
        values = np.repeat(rng.normal(size=40), 8) + 0.2 * rng.normal(size=320)  # the truth is 0
        queries = [str(n) for n in np.repeat(np.arange(40), 8)]
        for at, units in enumerate((queries, [str(n) for n in range(320)])):
            found = mean_by_query(values, units, resamples=400, seed=trial)
            covered[at] += found.low <= 0 <= found.high
    by_query, by_pair = covered / 300
    assert 0.9 <= by_query <= 0.98  # 0.95 less the small sample's loss; three standard errors are 0.038
    assert by_pair < 0.7


def test_the_seed_decides_the_draws_of_queries() -> None:
    values, _, queries = some_pairs()
    assert mean_by_query(values[:, 0], queries, seed=5) == mean_by_query(values[:, 0], queries, seed=5)
    assert mean_by_query(values[:, 0], queries, seed=5) != mean_by_query(values[:, 0], queries, seed=6)


def test_all_points_of_a_curve_are_of_the_same_resamples() -> None:
    values, weights, queries = some_pairs()
    _, low, high = means_by_query(np.column_stack([values[:, 0], -values[:, 0]]), queries, weights=weights)
    np.testing.assert_allclose(low, -high[::-1], rtol=1e-12)


@pytest.mark.parametrize(("broken", "weighted"), list(product([math.nan, math.inf, -math.inf], [False, True])))
def test_what_is_not_finite_is_refused(broken: float, weighted: bool) -> None:
    values, weights = np.ones(3), np.ones(3)
    (weights if weighted else values)[1] = broken
    with pytest.raises(ValueError, match="all finite"):
        mean_by_query(values, HAND[1], weights=weights)
    with pytest.raises(ValueError, match="all finite"):
        ratio_by_query(values, weights, HAND[1])
    with pytest.raises(ValueError, match="all finite"):
        means_by_query(values[:, None], HAND[1], weights=weights)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for queries in (["a", "b"], ["a"] * 4):
        with pytest.raises(ValueError, match="as there are pairs"):
            mean_by_query(np.ones(3), queries)
    with pytest.raises(ValueError, match="one weight for each pair"):
        mean_by_query(np.ones(3), ["a"] * 3, weights=np.ones(2))
    with pytest.raises(ValueError, match="as there are pairs"):
        ratio_by_query(np.ones(3), np.ones(2), ["a"] * 3)
    with pytest.raises(ValueError, match="as there are pairs"):
        mean_by_query(np.ones((3, 2)), ["a"] * 3)
    with pytest.raises(ValueError, match="as there are pairs"):
        means_by_query(np.ones(3), ["a"] * 3)
    with pytest.raises(ValueError, match="at least one pair"):
        mean_by_query(np.zeros(0), [])
    with pytest.raises(ValueError, match="at least one pair"):
        means_by_query(np.zeros((0, 5)), [])


def test_weights_that_give_no_mean_are_refused() -> None:
    for weights in ([0.0, 0.0, 0.0], [1.0, -1.0, 1.0]):
        with pytest.raises(ValueError, match="are 0 or more"):
            mean_by_query(*HAND, weights=np.array(weights))
    with pytest.raises(ValueError, match="of a resample are all 0"):
        ratio_by_query(np.array([1.0, 1.0]), np.array([0.0, 1.0]), ["a", "b"])


@pytest.mark.parametrize(("resamples", "confidence"), [(0, 0.95), (10, 0.0), (10, 1.0), (10, math.nan)])
def test_what_is_no_bootstrap_is_refused(resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="0 < confidence < 1"):
        mean_by_query(*HAND, resamples=resamples, confidence=confidence)
