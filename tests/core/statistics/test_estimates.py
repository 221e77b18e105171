"""Estimates from a sample of queries: by hand, against the textbook's variances, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from transforms.core.records import Float64
from transforms.core.statistics import estimates as module
from transforms.core.statistics.bootstrap import Interval
from transforms.core.statistics.collapsed_strata import CollapsedStrata, collapse_strata
from transforms.core.statistics.estimates import Resampling, estimate

# 2 of the 6 queries of a, 3 of the 30 of b
HAND_STRATA = ["a", "a", "b", "b", "b"]
HAND_POPULATION = {"a": 6, "b": 30}
HAND_A = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [4.0, 0.0], [1.0, 1.0]])
HAND_B = np.array([[2.0, 0.0], [4.0, 0.0], [5.0, 5.0], [5.0, 1.0], [2.0, 2.0]])


def ends(intervals: list[Interval]) -> Float64:
    """[T, 3]."""
    return np.array([[one.estimate, one.low, one.high] for one in intervals])


def columns(*values: list[float]) -> Float64:
    return np.array(values, np.float64).T


def test_a_ratio_by_hand() -> None:
    # weights 3 and 10: (3 * 3 + 10 * 5) / (3 * 6 + 10 * 12), and of b alone 4 / 8
    found = estimate(HAND_A, HAND_B, HAND_STRATA, HAND_POPULATION)
    assert [one.estimate for one in found] == pytest.approx([59 / 138, 4 / 8])
    assert all(one.low < one.estimate < one.high for one in found)


def nested(seed: int, sizes: Mapping[str, int], spread: float = 1.0) -> tuple[Float64, list[str]]:
    """Values [Q] of the sampled queries of each stratum, another mean in each, and the strata."""
    rng = np.random.default_rng(seed)
    strata = [name for name, size in sizes.items() for _ in range(size)]
    means = {name: rng.normal(0, 3) for name in sizes}
    return np.array([means[name] for name in strata]) + spread * rng.normal(size=len(strata)), strata


@pytest.mark.parametrize("finite", [True, False])
def test_the_width_is_that_of_the_textbooks_variance(finite: bool) -> None:
    """Of a stratified mean: sum (Q_h / Q)^2 (1 - f_h) s_h^2 / q_h, Cochran 1977, equation 5.12."""
    drawn, population = {"a": 60, "b": 80, "c": 100}, {"a": 90, "b": 1000, "c": 100}
    values, strata = nested(4, drawn)
    total, variance, parts = sum(population.values()), 0.0, []
    for name, size in drawn.items():
        of = values[[stratum == name for stratum in strata]]
        rest = 1 - size / population[name] if finite else 1.0
        part = (population[name] / total) ** 2 * rest * of.var(ddof=1) / size
        variance += part
        parts.append(part**2 / (size - 1))
    found = estimate(
        values[:, None], np.ones((240, 1)), strata, population, finite=finite, resampling=Resampling(resamples=40_000)
    )[0]
    expected = sum(values[[one == name for one in strata]].mean() * population[name] for name in drawn) / total
    assert found.estimate == pytest.approx(expected)
    width = 2 * stats.t.ppf(0.975, variance**2 / sum(parts)) * math.sqrt(variance)
    assert found.high - found.low == pytest.approx(width, rel=0.03)  # of 40,000 resamples, and a little skewness


def test_the_resampled_ratios_have_the_weights_of_rao_and_wu() -> None:
    # q = 2 of Q = 8 values 0 and 1: one is drawn, lambda^2 = 3/4, so w* / w is 1 - lambda (+ 2 lambda if drawn)
    found = estimate(
        columns([0.0, 1.0]), np.ones((2, 1)), ["a", "a"], {"a": 8}, resampling=Resampling(resamples=400, confidence=0.5)
    )
    shrunk = math.sqrt(3 / 4)
    assert ends(found)[0] == pytest.approx([0.5, (1 - shrunk) / 2, (1 + shrunk) / 2])


def test_a_population_taken_whole_is_certain() -> None:
    found = estimate(HAND_A, HAND_B, HAND_STRATA, {"a": 2, "b": 3})
    assert found == [Interval(8 / 18, 8 / 18, 8 / 18), Interval(0.5, 0.5, 0.5)]
    seen = estimate(HAND_A, HAND_B, HAND_STRATA, {"a": 2, "b": 3}, finite=False)
    assert seen[0].estimate == pytest.approx(8 / 18)
    assert seen[0].low < 8 / 18 < seen[0].high
    one = np.array([[0.0, 3.0]]), np.array([[4.0, 4.0]]), ["a"], {"a": 1}
    assert estimate(*one) == [Interval(0.0, 0.0, 0.0), Interval(0.75, 0.75, 0.75)]
    assert np.isnan(ends(estimate(*one, finite=False))[:, 1:]).all()


def test_a_stratum_taken_whole_adds_no_uncertainty() -> None:
    values, strata = nested(2, {"a": 5, "b": 40})
    own = columns([float(name == "a") for name in strata], [1.0] * 45)
    part, both = estimate(values[:, None] * own, own, strata, {"a": 5, "b": 400})
    assert part.low == part.estimate == part.high == pytest.approx(values[:5].mean())
    alone = estimate(values[5:, None], np.ones((40, 1)), strata[5:], {"b": 400})[0]
    # 5 queries are known, and of 400 the mean has the spread that it has alone
    assert both.high - both.low == pytest.approx((alone.high - alone.low) * 400 / 405)


def some(queries: int = 40) -> tuple[Float64, Float64, list[str], dict[str, int], list[str]]:
    rng = np.random.default_rng(8)
    strata = [str(one) for one in rng.choice(["x", "y", "z"], queries)]
    b = rng.integers(0, 4, (queries, 3)).astype(np.float64)
    population = {name: 3 * strata.count(name) for name in ("x", "y", "z")}
    return rng.normal(size=(queries, 3)) * b, b, strata, population, [f"q{place}" for place in range(queries)]


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(40)), st.booleans())
def test_the_order_of_rows_leaves_no_trace(order: list[int], named: bool) -> None:
    a, b, strata, population, ids = some()
    a[3:6], b[3:6] = a[7], b[7]  # equal rows, of one or another stratum
    expected = estimate(a, b, strata, population, queries=ids if named else None, resampling=Resampling(resamples=50))
    found = estimate(
        a[order],
        b[order],
        [strata[at] for at in order],
        dict(reversed(population.items())),
        queries=[ids[at] for at in order] if named else None,
        resampling=Resampling(resamples=50),
    )
    assert repr(found) == repr(expected)  # to the bit, NaN included


def test_with_ids_a_quantity_is_the_same_whatever_stands_beside_it() -> None:
    a, b, strata, population, ids = some()
    together = estimate(a, b, strata, population, queries=ids)
    alone = [estimate(a[:, [t]], b[:, [t]], strata, population, queries=ids)[0] for t in range(3)]
    np.testing.assert_allclose(ends(together), ends(alone), rtol=1e-12)


@pytest.mark.parametrize("counts", [1, 100])
def test_the_memory_that_is_used_changes_nothing(monkeypatch: pytest.MonkeyPatch, counts: int) -> None:
    a, b, strata, population, ids = some()
    expected = ends(estimate(a, b, strata, population, queries=ids, resampling=Resampling(resamples=60)))
    monkeypatch.setattr(module, "_COUNTS", counts)
    np.testing.assert_allclose(
        ends(estimate(a, b, strata, population, queries=ids, resampling=Resampling(resamples=60))), expected
    )


def test_the_seed_decides_the_draws() -> None:
    a, b, strata, population, _ = some()
    assert estimate(a, b, strata, population, resampling=Resampling(seed=1)) == estimate(
        a, b, strata, population, resampling=Resampling(seed=1)
    )
    assert estimate(a, b, strata, population, resampling=Resampling(seed=1)) != estimate(
        a, b, strata, population, resampling=Resampling(seed=2)
    )


@settings(deadline=None, max_examples=40)
@given(st.floats(-50, 50).filter(lambda one: abs(one) > 1e-3), st.floats(-20, 20))
def test_an_interval_moves_with_its_values(scale: float, shift: float) -> None:
    a, b, strata, population, ids = some()
    before = ends(estimate(a, b, strata, population, queries=ids, resampling=Resampling(resamples=200)))
    after = ends(
        estimate(scale * a + shift * b, b, strata, population, queries=ids, resampling=Resampling(resamples=200))
    )
    np.testing.assert_allclose(after[:, 0], scale * before[:, 0] + shift, atol=1e-9)
    if scale > 0:
        np.testing.assert_allclose(after, scale * before + shift, atol=1e-7)


def test_a_mean_of_skewed_values_has_the_longer_arm_on_their_side() -> None:
    values = np.random.default_rng(3).exponential(size=(30, 1))
    found = estimate(values, np.ones((30, 1)), ["a"] * 30, {"a": 3000})[0]
    assert found.high - found.estimate > 1.2 * (found.estimate - found.low)


@pytest.mark.parametrize("others", [0, 30])
def test_the_quantiles_are_those_of_students_t(others: int) -> None:
    """Of symmetric values BCa corrects nothing; queries without the group tell nothing of its spread."""
    values = np.array([-7.0, -4.0, -2.0, -0.5, 0.5, 2.0, 4.0, 7.0])
    a, b = np.r_[values, np.zeros(others)][:, None], np.r_[np.ones(8), np.zeros(others)][:, None]
    found = estimate(a, b, ["a"] * len(a), {"a": 99}, finite=False, resampling=Resampling(resamples=40_000))[0]
    drawn = np.random.default_rng(7).integers(0, len(a), (40_000, len(a) - 1))
    tail = stats.norm.cdf(stats.t.ppf(0.025, 7))
    tops, bottoms = a[drawn].sum(axis=(1, 2)), b[drawn].sum(axis=(1, 2))
    expected = np.quantile(tops[bottoms > 0] / bottoms[bottoms > 0], [tail, 1 - tail])
    np.testing.assert_allclose([found.low, found.high], expected, rtol=0.04)  # 7 % to the normal deviate's
    assert found.estimate == 0


@pytest.mark.parametrize("confidence", [0.01, 0.1, 0.99])
def test_an_interval_holds_its_estimate(confidence: float) -> None:
    values = np.random.default_rng(3).exponential(size=(12, 4)) ** 3
    for one in estimate(
        values, np.ones((12, 4)), ["a"] * 12, {"a": 3000}, resampling=Resampling(confidence=confidence)
    ):
        assert one.low <= one.estimate <= one.high


def test_no_zero_is_negative() -> None:
    found = estimate(-0.0 * HAND_B, HAND_B, HAND_STRATA, HAND_POPULATION)[0]
    assert repr(found).startswith("Interval(estimate=0.0, low=0.0, high=0.")


# of a group


def test_a_group_with_few_queries_has_an_estimate_and_no_interval() -> None:
    b = np.zeros((50, 5))
    for t, having in enumerate([0, 1, 2, 3, 10]):
        b[:having, t] = 2.0
    a = b * np.random.default_rng(1).random((50, 1))
    found = ends(estimate(a, b, ["a"] * 50, {"a": 500}))
    assert np.isnan(found[0, 0])
    np.testing.assert_allclose(found[1:, 0], a[:, 1:].sum(axis=0) / b[:, 1:].sum(axis=0))
    # a resample of 49 draws none of 2 of 50 queries in 0.96^49 = 14 % of all cases, of 3 in 4.8 %
    assert np.isnan(found[:, 1]).tolist() == np.isnan(found[:, 2]).tolist() == [True, True, True, False, False]


def test_a_group_of_a_stratum_taken_whole_is_never_empty() -> None:
    b = np.zeros((32, 1))
    b[[0, 2]] = 1.0  # one query of the two of a, and one of b
    a = b * columns([0.2] * 2 + [0.6] * 30)
    found = estimate(a, b, ["a"] * 2 + ["b"] * 30, {"a": 2, "b": 60})[0]
    assert found.estimate == pytest.approx((0.2 + 2 * 0.6) / 3)
    assert 0.2 <= found.low < found.estimate < found.high <= 0.6
    assert math.isnan(estimate(a, b, ["a"] * 2 + ["b"] * 30, {"a": 4, "b": 60})[0].low)


def test_resamples_without_the_group_count_for_nothing() -> None:
    """5 % of them draw none of the three; of a finite catalogue these would have the estimate itself as their ratio."""
    b = columns([1.0, 2.0, 5.0] + [0.0] * 97)
    a = b * columns([1.0, 2.0, 9.0] + [0.0] * 97)
    rows = a, b, ["a"] * 100
    for confidence in (0.02, 0.05, 0.1):
        nearly = estimate(*rows, {"a": 10**12}, resampling=Resampling(resamples=20_000, confidence=confidence))
        endless = estimate(
            *rows, {"a": 10**12}, finite=False, resampling=Resampling(resamples=20_000, confidence=confidence)
        )
        np.testing.assert_allclose(ends(nearly), ends(endless), rtol=1e-4)


# rates without cases


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_a_rate_without_a_case_has_the_exact_bound(confidence: float) -> None:
    tail = (1 - confidence) / 2
    b = np.ones((25, 2))
    a = np.column_stack([np.zeros(25), np.ones(25)])
    none, all_ = estimate(a, b, ["a"] * 25, {"a": 10_000}, finite=False, resampling=Resampling(confidence=confidence))
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(stats.beta.ppf(1 - tail, 1, 25))
    assert (all_.estimate, all_.high) == (1.0, 1.0)
    assert all_.low == pytest.approx(stats.beta.ppf(tail, 25, 1))


def test_the_exact_bound_is_of_the_effective_number_of_queries() -> None:
    # weights times pairs: 3 * 2, 3 * 4, 10 * 5, 10 * 5, 10 * 2
    counts = np.array([6.0, 12.0, 50.0, 50.0, 20.0])
    found = estimate(0 * HAND_B, HAND_B, HAND_STRATA, HAND_POPULATION, finite=False)[0]
    assert found.high == pytest.approx(stats.beta.ppf(0.975, 1, counts.sum() ** 2 / (counts**2).sum()))
    # many pairs of one query are one observation
    assert estimate(0 * HAND_B, 9 * HAND_B, HAND_STRATA, HAND_POPULATION, finite=False)[0].high == found.high


@pytest.mark.parametrize(("drawn", "queries"), [(20, 40), (30, 33), (10, 1000)])
def test_the_bound_of_a_finite_catalogue_holds_all_cases_that_may_be_missed(drawn: int, queries: int) -> None:
    """Without replacement D cases are all missed with a hypergeometric probability; where it is 2.5 %, D may be."""
    possible = max(
        cases for cases in range(queries - drawn + 1) if stats.hypergeom.pmf(0, queries, cases, drawn) >= 0.025
    )
    found = estimate(np.zeros((drawn, 1)), np.ones((drawn, 1)), ["a"] * drawn, {"a": queries})[0]
    assert possible / queries <= found.high <= (possible + 1.6) / queries
    assert found.high < stats.beta.ppf(0.975, 1, drawn)


def test_what_was_taken_whole_has_no_unseen_case() -> None:
    strata = ["a"] * 10 + ["b"] * 30
    own = columns([1.0] * 10 + [0.0] * 30, [0.0] * 10 + [1.0] * 30, [1.0] * 40)
    whole, part, both = estimate(0 * own, own, strata, {"a": 10, "b": 90})
    assert whole == Interval(0.0, 0.0, 0.0)
    assert part.high > 0.05
    assert both.high == pytest.approx(part.high * 90 / 100)


def test_other_constants_have_no_width() -> None:
    found = estimate(0.25 * HAND_B, HAND_B, HAND_STRATA, HAND_POPULATION)[0]
    assert (found.low, found.estimate, found.high) == pytest.approx((0.25,) * 3, rel=1e-12)


# what it is for


def test_an_interval_over_queries_covers_the_catalogue_and_one_over_pairs_does_not() -> None:
    rng, covered = np.random.default_rng(5), np.zeros(2)
    sizes, drawn = {"a": 60, "b": 800}, {"a": 20, "b": 60}
    trials = 300
    for trial in range(trials):
        a, b, strata, truth = [], [], [], np.zeros(2)
        squares = 0.0
        for name, size in sizes.items():
            pairs = rng.integers(2, 13, size).astype(np.float64)
            level = rng.normal(2.0 if name == "a" else 3.0, 1.0, size)
            truth += [(level * pairs).sum(), pairs.sum()]
            kept = rng.permutation(size)[: drawn[name]]
            a.append((level * pairs)[kept])
            b.append(pairs[kept])
            strata += [name] * drawn[name]
        tops, bottoms = np.concatenate(a)[:, None], np.concatenate(b)[:, None]
        found = estimate(tops, bottoms, strata, sizes, resampling=Resampling(resamples=300, seed=trial))[0]
        value = truth[0] / truth[1]
        weights = np.array([[sizes[name] / drawn[name]] for name in strata])
        squares = float((weights**2 * bottoms * (tops / bottoms - found.estimate) ** 2).sum())
        half = 1.96 * math.sqrt(squares) / float((weights * bottoms).sum())
        covered += [found.low <= value <= found.high, abs(value - found.estimate) <= half]
    by_query, by_pair = covered / trials
    assert 0.9 < by_query < 0.99
    assert by_pair < 0.8


# merged strata


def test_a_query_of_a_merged_stratum_keeps_its_weight() -> None:
    """One query of 1000 and one of 10: what the first shows is true of 1000 / 1010 of the catalogue, not of half."""
    sampled, population = {"large": 1, "small": 1}, {"large": 1000, "small": 10}
    merged = collapse_strata(sampled, population)
    weights = merged.weights(sampled, population)
    assert weights == {"large": 1000.0, "small": 10.0}
    strata = [merged.names[name] for name in weights]
    known = merged.population(population)
    assert known == {"large + small": 1010}
    found = estimate(np.eye(2), np.ones((2, 2)), strata, known, weights=list(weights.values()))
    assert [one.estimate for one in found] == pytest.approx([1000 / 1010, 10 / 1010])
    assert all(0 <= one.low < one.estimate < one.high <= 1 for one in found)


def test_others_of_the_group_stand_for_a_stratum_of_which_nothing_was_drawn() -> None:
    # 20 of 30 seen queries are b's, and so are 20 of 30 of the 15 that were not
    sampled, population = {"a": 1, "b": 4, "d": 2}, {"a": 10, "b": 20, "c": 15, "d": 99}
    merged = collapse_strata(sampled, population)
    assert merged.merged == ("a", "b", "c")
    assert merged.weights(sampled, population) == pytest.approx({"a": 10 * 1.5, "b": 5 * 1.5, "d": 49.5})


DRAWN = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 4), st.integers(0, 900)), min_size=1)


@settings(deadline=None, max_examples=60)
@given(DRAWN, st.integers(0, 99), st.booleans())
def test_what_is_merged_leaves_the_estimate_alone(counts: dict[str, tuple[int, int]], seed: int, finite: bool) -> None:
    sampled = {name: drawn for name, (drawn, _) in counts.items()}
    population = {name: drawn + rest for name, (drawn, rest) in counts.items()}
    merged = collapse_strata(sampled, population)
    strata = [name for name, drawn in sampled.items() for _ in range(drawn)]
    rng = np.random.default_rng(seed)
    b = rng.integers(1, 5, (len(strata), 2)).astype(np.float64)
    a = rng.normal(size=b.shape) * b
    weight = merged.weights(sampled, population)
    found = estimate(
        a,
        b,
        [merged.names[name] for name in strata],
        merged.population(population),
        weights=[weight[name] for name in strata],
        finite=finite,
        resampling=Resampling(resamples=20),
    )
    w = np.array([[population[name] / sampled[name]] for name in strata])
    np.testing.assert_allclose(ends(found)[:, 0], (w * a).sum(axis=0) / (w * b).sum(axis=0), rtol=1e-9)
    assert all(not one.high < one.estimate and not one.low > one.estimate for one in found)


def test_without_merged_strata_their_weights_change_no_bit() -> None:
    a, b, strata, population, ids = some()
    weights = [population[name] / strata.count(name) for name in strata]
    for finite in (True, False):
        expected = estimate(a, b, strata, population, queries=ids, finite=finite, resampling=Resampling(resamples=50))
        assert (
            estimate(
                a,
                b,
                strata,
                population,
                weights=weights,
                queries=ids,
                finite=finite,
                resampling=Resampling(resamples=50),
            )
            == expected
        )


def test_the_order_of_merged_rows_leaves_no_trace() -> None:
    # weight times content is the same for the first two rows, their lambda is not
    a, b, weights = columns([2.0, 1.0, 0.0, 5.0]), columns([4.0, 2.0, 8.0, 5.0]), [4.0, 8.0, 4.0, 8.0]
    expected = estimate(a, b, ["g"] * 4, {"g": 24}, weights=weights)
    for order in ([1, 0, 2, 3], [3, 2, 1, 0]):
        own = [weights[at] for at in order]
        assert estimate(a[order], b[order], ["g"] * 4, {"g": 24}, weights=own) == expected


def test_a_resample_of_merged_strata_draws_queries_with_their_weights() -> None:
    # of weights 4 and 12, values 0 and 1, one is drawn: w* is w (1 - lambda_i), or w (1 + lambda_i) where it was
    arguments = columns([0.0, 1.0]), np.ones((2, 1)), ["g", "g"], {"g": 16}
    found = estimate(*arguments, weights=[4.0, 12.0], resampling=Resampling(resamples=400, confidence=0.5))
    one, other = math.sqrt(3 / 4), math.sqrt(11 / 12)
    low = 12 * (1 - other) / (12 * (1 - other) + 4 * (1 + one))
    high = 12 * (1 + other) / (12 * (1 + other) + 4 * (1 - one))
    assert ends(found)[0] == pytest.approx([12 / 16, low, high])


def test_the_width_of_merged_strata_is_that_of_collapsed_ones() -> None:
    """q / (q - 1) sum (z_i - z)^2, Cochran 1977, section 5A.12, of z_i = lambda_i w_i (a_i - R b_i)."""
    rng = np.random.default_rng(6)
    population = {f"s{at:03}": int(size) for at, size in enumerate(rng.integers(2, 60, 300))}
    sampled = dict.fromkeys(population, 1)
    merged, w = collapse_strata(sampled, population), np.array(list(population.values()), np.float64)
    values = rng.normal(size=300)
    found = estimate(
        values[:, None],
        np.ones((300, 1)),
        [merged.names[name] for name in population],
        merged.population(population),
        weights=w.tolist(),
        resampling=Resampling(resamples=20_000),
    )[0]
    z = np.sqrt(1 - 1 / w) * w * (values - (w @ values) / w.sum())
    width = 2 * stats.t.ppf(0.975, 299) * math.sqrt(300 * z.var(ddof=1)) / w.sum()
    assert found.high - found.low == pytest.approx(width, rel=0.03)


def test_a_query_that_stands_for_itself_hides_no_case_and_is_never_undrawn() -> None:
    own = columns([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [1.0] * 4)
    found = estimate(0 * own, own, ["g"] * 4, {"g": 61}, weights=[1.0, 20.0, 20.0, 20.0])
    only, part, both = found
    assert math.isnan(only.high)  # one query alone
    assert both.high == pytest.approx(part.high * 60 / 61)
    shared = columns([1.0, 1.0, *[0.0] * 20])
    rows = shared * columns([0.25, 0.75, *[0.0] * 20]), shared, ["g"] * 22, {"g": 421}
    assert estimate(*rows, weights=[1.0] + [20.0] * 21)[0].low >= 0.25
    assert math.isnan(estimate(*rows)[0].low)


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ([3.0, 3.0, 10.0, 10.0], "each of 5 rows"),
        ([3.0, math.nan, 10.0, 10.0, 10.0], "a finite weight"),
        ([3.0, 3.0, 10.0, 10.0, 11.0], "add up to the population"),
        ([0.5, 5.5, 10.0, 10.0, 10.0], "weights of 1 or more"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        estimate(HAND_A, HAND_B, HAND_STRATA, HAND_POPULATION, weights=weights)


# what is refused


@pytest.mark.parametrize(
    ("population", "what"),
    [
        ({"a": 6}, "stratum 'b' has 3 sampled queries and 0 in all"),
        ({"a": 6, "b": 2}, "stratum 'b' has 3 sampled queries and 2 in all"),
        ({"a": 6, "b": 30, "c": 1}, "stratum 'c' has 0 sampled queries and 1 in all; merge"),
    ],
)
def test_strata_that_do_not_fit_are_refused(population: dict[str, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        estimate(HAND_A, HAND_B, HAND_STRATA, population)


def test_a_stratum_with_one_query_is_to_be_merged() -> None:
    parts = HAND_A[1:], HAND_B[1:], HAND_STRATA[1:]
    with pytest.raises(ValueError, match="stratum 'a' has one sampled query, which has no spread: merge it"):
        estimate(*parts, {"a": 6, "b": 30})
    with pytest.raises(ValueError, match="merge it"):
        estimate(*parts, {"a": 1, "b": 30}, finite=False)
    assert estimate(*parts, {"a": 1, "b": 30})[0].low > 0  # it is known
    alone = estimate(HAND_A[:1], HAND_B[:1], ["a"], {"a": 6})[0]
    assert alone.estimate == 0.5
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_a_stratum_without_queries_is_none() -> None:
    assert estimate(HAND_A, HAND_B, HAND_STRATA, {**HAND_POPULATION, "c": 0}) == estimate(
        HAND_A, HAND_B, HAND_STRATA, HAND_POPULATION
    )


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[Q, T\]"):
        estimate(HAND_A[:, 0], HAND_B[:, 0], HAND_STRATA, HAND_POPULATION)
    with pytest.raises(ValueError, match=r"\(5, 2\), \(5, 1\) and 5"):
        estimate(HAND_A, HAND_B[:, :1], HAND_STRATA, HAND_POPULATION)
    with pytest.raises(ValueError, match=r"Q strata; got .* and 4"):
        estimate(HAND_A, HAND_B, HAND_STRATA[1:], HAND_POPULATION)
    with pytest.raises(ValueError, match="Q at least 1"):
        estimate(HAND_A[:0], HAND_B[:0], [], {})
    for broken in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="finite"):
            estimate(HAND_A, np.where(HAND_B == 4, broken, HAND_B), HAND_STRATA, HAND_POPULATION)
    with pytest.raises(ValueError, match="finite numerators"):
        estimate(np.where(HAND_A == 4, math.nan, HAND_A), HAND_B, HAND_STRATA, HAND_POPULATION)
    with pytest.raises(ValueError, match="0 in both"):
        estimate(HAND_A + 1, HAND_B, HAND_STRATA, HAND_POPULATION)


@pytest.mark.parametrize("ids", [["1", "2", "1", "2", "1"], ["1", "2", "1", "2"]])
def test_a_query_has_one_row_in_a_stratum(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="one row for each query"):
        estimate(HAND_A, HAND_B, HAND_STRATA, HAND_POPULATION, queries=ids)


@pytest.mark.parametrize(("resamples", "confidence"), [(0, 0.95), (10, 0.0), (10, 1.0), (10, math.nan)])
def test_what_is_no_bootstrap_is_refused(resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="0 < confidence < 1"):
        estimate(
            HAND_A,
            HAND_B,
            HAND_STRATA,
            HAND_POPULATION,
            resampling=Resampling(resamples=resamples, confidence=confidence),
        )


# merging


def test_strata_in_which_enough_was_drawn_stay() -> None:
    assert collapse_strata({"a": 2, "b": 3}, {"a": 9, "b": 9}) == CollapsedStrata({"a": "a", "b": "b"}, ())
    assert collapse_strata({}, {}) == CollapsedStrata({}, ())


def test_small_strata_are_put_together() -> None:
    found = collapse_strata({"a": 1, "b": 3, "c": 1, "d": 5}, {"a": 9, "b": 9, "c": 30, "d": 5, "e": 4})
    assert found.merged == ("a", "c", "e")  # e has queries, and none was drawn
    assert found.names == {"a": "a + c + e", "b": "b", "c": "a + c + e", "d": "d", "e": "a + c + e"}


def test_the_smallest_other_stratum_joins_what_is_still_too_small() -> None:
    found = collapse_strata({"a": 1, "b": 3, "c": 5, "d": 2}, {"a": 90, "b": 40, "c": 20, "d": 20})
    assert found == CollapsedStrata({"a": "a + c", "b": "b", "c": "a + c", "d": "d"}, ("a", "c"))
    assert collapse_strata({"b": 3}, {"a": 90, "b": 40}).merged == ("a", "b")


def test_where_nothing_can_be_merged_nothing_is() -> None:
    assert collapse_strata({"a": 1}, {"a": 90}) == CollapsedStrata({"a": "a"}, ())
    assert collapse_strata({"a": 1}, {"a": 90, "b": 1}) == CollapsedStrata({"a": "a + b", "b": "a + b"}, ("a", "b"))
    assert collapse_strata({"a": 2}, {"a": 90, "b": 0}) == CollapsedStrata({"a": "a", "b": "b"}, ())


def test_a_long_name_is_cut() -> None:
    names = [f"category {place:02d}" for place in range(9)]
    found = collapse_strata({}, dict.fromkeys(names, 5))
    assert set(found.names.values()) == {"category 00 + category 01 + category 02 + category 03 and 5 more"}
    assert collapse_strata({}, {"x" * 99: 1, "y": 1}).names["y"] == "x" * 99 + " and 1 more"


def test_a_group_has_a_name_of_its_own() -> None:
    found = collapse_strata({"a + b": 2}, {"a": 1, "b": 1, "a + b": 3, "a + b (merged)": 0})
    assert found.names["a"] == "a + a + b + b"  # too few of a and b: "a + b" joins
    found = collapse_strata({"a": 1, "b": 1, "a + b": 2}, {"a": 1, "b": 1, "a + b": 3, "a + b (merged)": 0})
    assert found.names["a"] == "a + b (merged) (merged)"
    assert found.names["a + b"] == "a + b"


@pytest.mark.parametrize("sampled", [{"a": 3}, {"b": 1}, {"a": -1}])
def test_more_cannot_be_drawn_than_there_is(sampled: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="queries, and"):
        collapse_strata(sampled, {"a": 2})


COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=8)


@given(COUNTS)
def test_merged_strata_can_be_estimated(counts: dict[str, tuple[int, int]]) -> None:
    sampled = {name: drawn for name, (drawn, _) in counts.items()}
    population = {name: drawn + rest for name, (drawn, rest) in counts.items()}
    found = collapse_strata(sampled, population)
    assert set(found.names) == set(population)
    drawn: dict[str, int] = {}
    for name, group in found.names.items():
        drawn[group] = drawn.get(group, 0) + sampled[name]
    if sum(sampled.values()) >= 2:
        assert all(drawn[found.names[name]] >= 2 for name in population if population[name])
    # the fewest possible: without the last that joined, too few
    joined = [name for name in found.merged if sampled[name] >= 2]
    assert len(joined) <= 1
    if joined:
        assert sum(sampled[name] for name in found.merged) - sampled[joined[0]] < 2
    assert all((found.names[name] == name) == (name not in found.merged) for name in population)
    assert found.merged == tuple(sorted(found.merged))
