"""Which queries are sampled: uniformly, nested in the rate, and the same in every version."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transforms.core.errors import RunError
from transforms.core.statistics.sampling import (
    UNREADABLE,
    SamplingDesign,
    Stratum,
    fingerprint,
    just_above,
    kept,
    position,
    positions,
)

IDS = [f"query-{number}" for number in range(5000)]
RATES = st.floats(0, 1, exclude_min=True)


def test_positions_are_pinned() -> None:
    """From ``sha256sum``: months overlap only while these numbers stay."""
    # printf '8:sampling2:176:q-0001' | sha256sum, the first 14 digits, of 56 bits, without the last 3 bits
    assert position("q-0001", 17) == (0x8B31689B477133 >> 3) / 2**53
    assert position("q-0002", 17) == (0xBAFCF3FFE1D68E >> 3) / 2**53
    assert position("q-0001", -1) == (0x9CDF7D9C97C7B5 >> 3) / 2**53
    assert position("", 0) == (0x97544FBB5F65A6 >> 3) / 2**53
    assert position("café\ud800", 0) == (0x3B27A8133F6EB0 >> 3) / 2**53
    assert position("q-0001", 17) == pytest.approx(0.543722665)  # 0x8b3168 / 2**24


@given(st.text(), st.integers(-(2**70), 2**70))
def test_a_position_is_the_head_of_a_hash(query: str, seed: int) -> None:
    content = b"".join(
        str(len(part)).encode() + b":" + part for part in (b"sampling", str(seed).encode(), query.encode())
    )
    found = position(query, seed)
    assert found == (int(hashlib.sha256(content).hexdigest(), 16) >> (256 - 53)) / 2**53
    assert 0 <= found < 1


def test_positions_are_uniform() -> None:
    for seed in (0, 1, 17):
        positions = [position(query, seed) for query in IDS]
        assert stats.kstest(positions, "uniform").pvalue > 0.01
        assert len(set(positions)) == len(IDS)


def test_two_seeds_are_independent() -> None:
    first, second = (np.array([position(query, seed) for query in IDS]) for seed in (0, 1))
    table, *_ = np.histogram2d(first, second, bins=5, range=[[0, 1], [0, 1]])
    assert stats.chi2_contingency(table).pvalue > 0.01
    assert abs(stats.spearmanr(first, second).statistic) < 0.04  # three standard errors are 0.042


@given(st.text(), RATES, RATES, st.integers(0, 99))
def test_a_larger_rate_keeps_all_that_a_smaller_one_does(query: str, one: float, other: float, seed: int) -> None:
    assert kept(query, min(one, other), seed) <= kept(query, max(one, other), seed)
    assert kept(query, 1.0, seed)


@given(st.text(), st.integers(0, 99))
def test_the_rate_is_the_threshold(query: str, seed: int) -> None:
    place, one = position(query, seed), Stratum("s", 2, 1, 2, 1, 0.0)
    above, at = (SamplingDesign(seed, {"s": replace(one, rate=rate)}) for rate in (np.nextafter(place, 2), place))
    assert above.kept(query, "s")
    assert not at.kept(query, "s")


def test_an_evaluation_draws_anew_what_the_audit_drew() -> None:
    audited = [query for query in IDS if position(query, 0) < 0.25]
    share = np.mean([kept(query, 0.25, 0) for query in audited])
    assert share == pytest.approx(0.25, abs=3 * np.sqrt(0.25 * 0.75 / len(audited)))


def test_the_share_that_is_kept_is_the_rate() -> None:
    for rate in (0.05, 0.3, 0.9):
        share = np.mean([kept(query, rate, seed=3) for query in IDS])
        assert share == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / len(IDS)))


@pytest.mark.parametrize("rate", [0, -0.1, 1.0000001, float("nan"), float("inf")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        kept("q", rate, 0)


@given(st.lists(st.text(), min_size=1), st.integers(0, 99))
def test_a_fingerprint_begins_with_the_position(queries: list[str], seed: int) -> None:
    heads = np.array([int.from_bytes(fingerprint(query, seed)[:8], "big") for query in queries], np.uint64)
    assert positions(heads).tolist() == [position(query, seed) for query in queries]
    assert all(len(fingerprint(query, seed)) == 16 for query in queries)
    assert len({fingerprint(query, seed) for query in queries}) == len(set(queries))


@given(st.text(), st.integers(0, 99))
def test_just_above_is_the_smallest_rate_that_keeps(query: str, seed: int) -> None:
    place = position(query, seed)
    (rate,) = just_above(np.array([place]))
    assert place < rate <= 1
    assert rate - place == 2**-53


def test_just_above_the_last_position_is_one() -> None:
    assert just_above(positions(np.array([2**64 - 1], np.uint64))).tolist() == [1.0]


# Designs

DESIGN = SamplingDesign(
    17,
    {
        "coats": Stratum("coats", queries=10, sampled_queries=4, pairs=33, sampled_pairs=9, rate=0.6),
        "hats": Stratum("hats", queries=3, sampled_queries=0, pairs=3, sampled_pairs=0, rate=0.1),
    },
    "category",
)


def test_a_design_keeps_below_the_rate_of_the_stratum() -> None:
    # the positions of q-0001 and q-0002 are 0.5437 and 0.7304
    assert DESIGN.kept("q-0001", "coats")
    assert not DESIGN.kept("q-0002", "coats")
    assert not DESIGN.kept("q-0001", "hats")


def test_a_weight_is_what_a_kept_query_stands_for() -> None:
    assert DESIGN.weight("coats") == DESIGN.strata["coats"].weight == 2.5
    assert DESIGN.strata["hats"].weight is None


def test_rows_without_a_query_are_always_kept_and_stand_for_themselves() -> None:
    assert DESIGN.kept("q-0002", UNREADABLE)
    assert DESIGN.weight(UNREADABLE) == 1


def test_a_manifest_that_has_changed_is_said() -> None:
    with pytest.raises(RunError, match=r"has changed.*'shoes' was not there"):
        DESIGN.kept("q-0001", "shoes")
    with pytest.raises(RunError, match=r"has changed.*'shoes' was not there"):
        DESIGN.weight("shoes")
    with pytest.raises(RunError, match=r"has changed.*'hats' no query"):
        DESIGN.weight("hats")


def test_a_design_goes_to_workers() -> None:
    assert pickle.loads(pickle.dumps(DESIGN)) == DESIGN
    with pytest.raises(FrozenInstanceError):
        DESIGN.seed = 1  # type: ignore[misc]
