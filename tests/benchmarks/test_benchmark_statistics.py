"""The benchmarks' statistics, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cost import overhead
from benchmarks.cost.contenders import Setting
from benchmarks.saliency.banks import grouped_variance, in_border, shared_variance
from benchmarks.support.statistics import balanced_orders, median_of_ratios
from transforms.core.imaging.maps import map_statistics
from transforms.core.statistics.bootstrap import Interval


def test_the_median_is_taken_over_the_rounds_ratios_not_over_their_parts() -> None:
    # ratios 2, 1, 3; the ratio of the medians would be 20 / 10, of the means 130 / 111
    found = median_of_ratios([20.0, 100.0, 3.0], [10.0, 100.0, 1.0])
    assert found.estimate == 2.0
    found = median_of_ratios([20.0, 100.0, 3.0, 8.0], [10.0, 100.0, 1.0, 1.0])
    assert found.estimate == 2.5  # of 1, 2, 3, 8


def test_equal_ratios_have_an_interval_of_no_width() -> None:
    assert median_of_ratios([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize(("n", "rounds"), [(6, 18), (5, 12), (1, 3), (2, 5)])
def test_every_item_stands_once_in_every_place_of_a_block(n: int, rounds: int) -> None:
    items = "abcdef"[:n]
    orders = balanced_orders(items, rounds, seed=3)
    assert len(orders) == rounds
    assert all(sorted(order) == list(items) for order in orders)
    for start in range(0, rounds - n + 1, n):
        block = np.array(orders[start : start + n])
        assert all(sorted(block[:, place]) == list(items) for place in range(n))


def test_orders_are_shuffled_and_seeded() -> None:
    assert balanced_orders("abcdef", 12, seed=1) == balanced_orders("abcdef", 12, seed=1)
    assert balanced_orders("abcdef", 12, seed=1) != balanced_orders("abcdef", 12, seed=2)
    first, second = balanced_orders("abcdef", 12, seed=1)[:6], balanced_orders("abcdef", 12, seed=1)[6:]
    assert first != second


def test_the_error_of_a_mean_map_by_hand() -> None:
    # two banks, three queries, one pixel; the variance of two values is half of their squared difference
    maps = np.array([[[0.0], [0.0], [3.0]], [[2.0], [4.0], [3.0]]])
    one, own, two = (np.array(groups) for groups in ([0, 0, 0], [0, 1, 2], [1, 1, 0]))
    np.testing.assert_allclose(grouped_variance(maps, one), [2.0])  # means 1 and 3
    np.testing.assert_allclose(grouped_variance(maps, own), [(2 + 8 + 0) / 9])
    np.testing.assert_allclose(grouped_variance(maps, two), [4 / 9 * 4.5 + 0])  # means 0 and 3 of the first two
    # s² + e²/3 = 2 and (s² + e²)/3 = 10/9, so s² = (2 - 10/9) * 3/2
    assert shared_variance(maps) == pytest.approx(4 / 3)


@pytest.mark.parametrize("count", [1, 4, 24])
def test_the_error_is_that_of_audits_with_as_many_banks(count: int) -> None:
    """Draws audits whose queries are spread over ``count`` banks and compares their scatter with the formula's."""
    rng, queries, pixels = np.random.default_rng(4), 24, 3
    groups = np.arange(queries) % count

    def audit(of: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Maps [Q, P]: each bank errs by 2 for all of its queries, each query by 3 on its own."""
        return 2 * rng.normal(size=(queries, pixels))[of] + 3 * rng.normal(size=(queries, pixels))

    scatter = np.var([audit(groups).mean(axis=0) for _ in range(6000)], axis=0).mean()
    assert scatter == pytest.approx(4 / count + 9 / queries, rel=0.08)
    # what is estimated from explaining all queries with the same four banks, many times over
    together = np.zeros(queries, np.int64)
    estimates = [grouped_variance(np.stack([audit(together) for _ in range(4)]), groups).mean() for _ in range(400)]
    assert np.mean(estimates) == pytest.approx(scatter, rel=0.1)


@pytest.mark.parametrize("size", [(16, 24), (13, 7)])
def test_the_border_is_that_of_the_tables(size: tuple[int, int]) -> None:
    inside = np.array([[in_border(row, column, size) for column in range(size[1])] for row in range(size[0])])
    statistics = map_statistics(inside.astype(np.float64), np.zeros(size, bool))
    assert inside.mean() == pytest.approx(statistics.border_area)
    assert statistics.border_share == pytest.approx(1.0)


def test_the_page_on_overhead_judges_the_lower_end_of_a_ratio() -> None:
    floor = [1.0, 2.0, 4.0]
    factors = {
        "floor, again": 1.0,
        "whymatch, 1 reference": 1.04,
        "whymatch, 8 references": 1.04 * 1.2,
        "torch loop, 1 reference": 5.2,
        "torch loop, 8 references": 5.2,
    }
    times = {"floor": floor, **{name: [factor * time for time in floor] for name, factor in factors.items()}}
    ratios = {label: median_of_ratios(times[above], times[below]) for label, above, below, _ in overhead.RATIOS}
    memory = dict.fromkeys(overhead.CONTENDERS, (64 * 2**20, 2**30))
    page = overhead.report(Setting(masks=99, threads=1), 3, times, ratios, memory)
    assert "| whymatch, 1 reference / floor       | 1.040 (1.040 to 1.040) | 1.05: met         |" in page
    assert "| whymatch, 8 references / 1          | 1.200 (1.200 to 1.200) | 1.10: missed      |" in page
    assert "| torch loop / whymatch, 1 reference  | 5.000 (5.000 to 5.000) |" in page
    assert (
        "| floor                    | 2.000            | 50              | 64                    | 1,024     |" in page
    )
    assert "100 forward passes an explanation" in page
