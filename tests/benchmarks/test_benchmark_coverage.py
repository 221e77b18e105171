"""The measurement of the intervals' coverage: its catalogues are what it says, and a small run from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.audits import coverage
from benchmarks.audits.coverage import Catalogue, Counted
from transforms.core.records import Float64
from transforms.core.statistics.estimates import Resampling, estimate
from transforms.core.statistics.sampling import position

MANY = np.array([30_000, 40_000, 30_000, 30_000, 30_000, 30_000])


@pytest.fixture(scope="module")
def large() -> Catalogue:
    return coverage.draw(np.random.default_rng(1), MANY)


def test_a_large_catalogue_has_the_expected_ratios(large: Catalogue) -> None:
    found = large.numerators.sum(axis=0) / large.denominators.sum(axis=0)
    assert len(found) == len(coverage.NAMES)
    np.testing.assert_allclose(found, coverage.expected(MANY), atol=0.01)  # 3 standard errors of the smallest group
    assert found[10] == pytest.approx(0.01, abs=0.003)


def correlation(catalogue: Catalogue, at: int, stratum: int) -> float:
    """Inside of queries, by the analysis of variance for groups of unequal size (Donner 1986)."""
    rows = catalogue.stratum == stratum
    sums, counts = catalogue.numerators[rows, at], catalogue.denominators[rows, at]
    pairs, queries = counts.sum(), len(counts)
    between = ((sums / counts - sums.sum() / pairs) ** 2 * counts).sum() / (queries - 1)
    within = (catalogue.squares[rows, at] - sums**2 / counts).sum() / (pairs - queries)
    size = (pairs - (counts**2).sum() / pairs) / (queries - 1)
    return float((between - within) / (between + (size - 1) * within))


@pytest.mark.parametrize("stratum", [0, 4])
def test_pairs_of_a_query_are_as_alike_as_is_said(large: Catalogue, stratum: int) -> None:
    # queries with larger shares have more pairs, which moves the correlation of the shares a little
    assert correlation(large, 0, stratum) == pytest.approx(coverage.ALIKE_SHARE, abs=0.02)
    assert correlation(large, 1, stratum) == pytest.approx(coverage.ALIKE_FLAG, abs=0.02)
    assert correlation(large, 2, stratum) == pytest.approx(coverage.ALIKE_FLAG, abs=0.03)


def by_hand() -> tuple[Catalogue, Float64]:
    """Two of ten queries of a stratum, with the pairs 1, 3 and 5, 5, 5, and their mean's ends over pairs."""
    pairs = np.array([1.0, 3.0, 5.0, 5.0, 5.0])
    half = 1.96 * np.sqrt(((pairs - 3.8) ** 2).sum()) / 5
    column = np.array([[4.0], [15.0]]), np.array([[2.0], [3.0]]), np.array([[10.0], [75.0]])
    return Catalogue(np.zeros(2, np.int64), *column), np.array([[3.8 - half], [3.8 + half]])


def test_the_interval_over_pairs_by_hand() -> None:
    sample, expected = by_hand()
    np.testing.assert_allclose(coverage.naive(sample, np.array([10])), expected)


def test_the_plain_interval_has_the_weights_of_rao_and_wu() -> None:
    # one of two queries is drawn: sums (1 - l) 19 + 2 l 4 over (1 - l) 5 + 2 l 2, l^2 = 0.8, or with the other query
    sample, _ = by_hand()
    shrunk = np.sqrt(0.8)
    low, high = (
        ((1 - shrunk) * 19 + 2 * shrunk * a) / ((1 - shrunk) * 5 + 2 * shrunk * b) for a, b in ((4, 2), (15, 3))
    )
    found = coverage.plain(sample, np.array([10]), 400, 0)
    np.testing.assert_allclose(found, [[low], [high]])


def test_what_is_counted() -> None:
    ends = np.array([[[0.0, np.nan], [1.0, np.nan]], [[0.5, 0.0], [2.0, 4.0]], [[0.2, 0.5], [0.3, 0.5]]])
    found = Counted(ends, np.array([[0.4, 1.0], [0.4, 1.0], [0.4, 1.0]]), np.zeros((3, 2)))
    np.testing.assert_allclose(found.missed, [[1 / 3, 0], [1 / 3, 1 / 3]])
    np.testing.assert_allclose(found.covered, [1 / 3, 1 / 2])  # an interval that is not given covers nothing
    np.testing.assert_allclose(found.width, [2.6 / 3, 2.0])


def test_a_small_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "coverage.md"
    assert coverage.main(["--repetitions", "3", "--resamples", "40", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "python -m benchmarks.audits.coverage --repetitions 3 --resamples 40" in text
    for name in coverage.NAMES:
        assert text.count(f"| {name} ") == 2
    assert "nan" not in text


def test_each_repetition_estimates_what_its_seed_sampled() -> None:
    sizes, taken = np.array([40, 30, 30, 30, 30, 30]), np.array([20, 15, 15, 15, 15, 15])
    found = coverage.repeat(2, 30, sizes=sizes, taken=taken)
    catalogue = coverage.draw(np.random.default_rng([1, 1]), sizes)
    truth = catalogue.numerators.sum(axis=0) / catalogue.denominators.sum(axis=0)
    np.testing.assert_array_equal(found["finite"].truth[1], truth)
    np.testing.assert_array_equal(found["endless"].truth[1], coverage.expected(sizes))
    kept = np.array([position(f"query {n}", 1) for n in range(190)]) < (taken / sizes)[catalogue.stratum]
    assert found["finite"].queries[1, 0] == kept.sum()
    names = [str(place) for place in catalogue.stratum[kept]]
    population = {str(place): int(size) for place, size in enumerate(sizes)}
    sample = catalogue.sampled(kept)
    expected = estimate(
        sample.numerators, sample.denominators, names, population, resampling=Resampling(resamples=30, seed=1)
    )
    np.testing.assert_array_equal(found["finite"].ends[1], coverage.ends_of(expected))
