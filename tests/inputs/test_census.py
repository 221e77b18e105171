"""The census of a manifest and the samples that it designs, against definitions in sets and loops."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms.core.errors import RunError, UsageError
from transforms.core.records import Failure, Pair
from transforms.core.statistics.sampling import NONE, UNREADABLE, SamplingDesign, position
from transforms.inputs import census, manifest
from transforms.inputs.sampling import sample
from transforms.inputs.strata import Strata

SETTINGS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEED = 5
BY_KIND = Strata("kind")

Row = tuple[str, str, str, str]
"""query id, reference id, rank, kind; no text where the cell is empty."""
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", *(f"q{number}" for number in range(12))]),
        st.sampled_from(["r1", "r2", ""]),
        st.sampled_from(["1", "", "first"]),
        st.sampled_from(["coat", "hat", "bag", ""]),
    ),
    min_size=1,
    max_size=40,
)
RATES = st.floats(0.01, 1)


@pytest.fixture(autouse=True)
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that queries have several records although the manifests are small, and the files are few."""
    monkeypatch.setattr(census, "_HELD_QUERIES", 7)
    monkeypatch.setattr(census, "_BUCKET_BITS", 2)


def write(path: Path, rows: Sequence[Row]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("query_id", "reference_id", "rank", "kind"), *rows])
    return str(path)


@contextmanager
def taken(folder: Path, rows: Sequence[Row], strata: Strata = BY_KIND, parts: int = 1) -> Iterator[census.Census]:
    files = [write(folder / f"part-{part}.csv", rows[part::parts]) for part in range(parts)]
    with census.take(files, strata=strata, seed=SEED) as counted:
        yield counted


def naive(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """By stratum the rows of each query."""
    found: dict[str, Counter[str]] = {}
    for query, _, _, kind in rows:
        if query:
            found.setdefault(kind or NONE, Counter())[query] += 1
    return found


def naive_floor(queries: Counter[str], min_queries: int) -> float:
    places = sorted(position(query, SEED) for query in queries)
    if min_queries == 0:
        return 0.0
    return 1.0 if len(places) <= min_queries else places[min_queries - 1] + 2**-53


def naive_passes(strata: dict[str, Counter[str]], rates: dict[str, float], query: int, pair: int) -> int:
    kept = [
        count for name, queries in strata.items() for one, count in queries.items() if position(one, SEED) < rates[name]
    ]
    return query * len(kept) + pair * sum(kept)


# The census


@SETTINGS
@given(rows=ROWS, parts=st.integers(1, 3))
def test_a_census_counts_what_sets_count(tmp_path: Path, rows: list[Row], parts: int) -> None:
    expected = naive(rows)
    with taken(tmp_path, rows, parts=parts) as counted:
        assert (counted.rows, counted.unreadable) == (len(rows), sum(not row[0] for row in rows))
        assert dict(zip(counted.names, counted.queries.tolist(), strict=True)) == {
            name: len(queries) for name, queries in expected.items()
        }
        assert dict(zip(counted.names, counted.pairs.tolist(), strict=True)) == {
            name: queries.total() for name, queries in expected.items()
        }


def test_many_queries_are_counted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "_HELD_QUERIES", 100)
    rows = [(f"q{number % 700}", "r", "", "coat" if number % 2 else "hat") for number in range(2100)]
    with taken(tmp_path, rows) as counted:
        assert sorted(zip(counted.names, counted.queries.tolist(), counted.pairs.tolist(), strict=True)) == [
            ("coat", 350, 1050),
            ("hat", 350, 1050),
        ]


def test_long_ids_are_not_held_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "_HELD_QUERIES", 10**9)
    monkeypatch.setattr(census, "_HELD_CHARACTERS", 1000)
    stored: list[int] = []
    store = census._Counting._store

    def spy(counting: Any) -> None:
        stored.append(sum(len(query) for query, _ in counting._held))
        store(counting)

    monkeypatch.setattr(census._Counting, "_store", spy)
    with taken(tmp_path, [(f"{number:0300d}", "r", "", "coat") for number in range(10)]) as counted:
        assert counted.queries.tolist() == [10]
    assert stored == [1200, 1200, 600]


def test_a_query_in_two_strata_is_one_of_each(tmp_path: Path) -> None:
    with taken(tmp_path, [("q1", "r1", "", "coat"), ("q1", "r2", "", "hat"), ("q1", "r3", "", "hat")]) as counted:
        strata = counted.design().strata
    assert [(s.name, s.queries, s.pairs) for s in strata.values()] == [("coat", 1, 1), ("hat", 1, 2)]


def test_without_a_column_there_is_one_stratum(tmp_path: Path) -> None:
    with taken(tmp_path, [("q1", "r1", "", "coat"), ("q2", "r1", "", "hat"), ("", "r1", "", "")], Strata()) as counted:
        design = counted.design()
    assert design.column is None
    (stratum,) = design.strata.values()
    assert (stratum.name, stratum.queries, stratum.pairs, stratum.rate, stratum.weight) == ("all", 2, 2, 1.0, 1.0)


def test_a_manifest_without_a_query_has_no_strata(tmp_path: Path) -> None:
    with taken(tmp_path, [("", "r1", "", "coat")]) as counted:
        design = counted.design(0.5, min_queries=2, budget=1)
        assert (counted.rows, counted.unreadable) == (1, 1)
    assert design == SamplingDesign(SEED, {}, "kind")
    assert design.kept("", UNREADABLE)


def test_a_column_with_a_value_a_row_is_no_stratum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_STRATA", 4)
    four = [("q", "r", "", f"kind {number % 4}") for number in range(9)]
    with taken(tmp_path, four) as counted:
        assert len(counted.names) == 4
    with (
        pytest.raises(
            UsageError, match="--stratify 'kind': the column has more than 4 values, such as 'kind 0', 'kind"
        ),
        taken(tmp_path, [*four, ("q", "r", "", "kind 5")]),
    ):
        raise AssertionError("a census of five strata")
    assert census.MAX_STRATA == 4


def test_the_folder_is_private_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with taken(tmp_path, [("secret-product", "r1", "", "coat")]):
        (folder,) = tmp_path.glob("whymatch-census-*")
        assert folder.stat().st_mode & 0o077 == 0
        assert all(b"secret" not in file.read_bytes() for file in folder.iterdir())
    assert not folder.exists()
    with pytest.raises(UsageError), census.take([str(tmp_path / "absent.csv")], seed=0):
        raise AssertionError("a census of nothing")
    assert not list(tmp_path.glob("whymatch-census-*"))


def test_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(RunError, match=r"absent: No such file.*Set TMPDIR"), taken(tmp_path, [("q", "r", "", "")]):
        raise AssertionError("a census without a folder")


# Designs


@SETTINGS
@given(rows=ROWS, rate=RATES, min_queries=st.integers(0, 4), parts=st.integers(1, 3), order=st.randoms())
def test_a_design_does_not_depend_on_the_order(
    tmp_path: Path, rows: list[Row], rate: float, min_queries: int, parts: int, order: Any
) -> None:
    rows = [*rows, ("always", "r1", "", "coat")]
    with taken(tmp_path, rows) as counted, taken(tmp_path, order.sample(rows, len(rows)), parts=parts) as other:
        assert counted.design(rate, max(min_queries, 1)) == other.design(rate, max(min_queries, 1))


@SETTINGS
@given(rows=ROWS, rate=RATES, min_queries=st.integers(0, 4))
def test_a_sample_is_what_the_definition_says(tmp_path: Path, rows: list[Row], rate: float, min_queries: int) -> None:
    """At least ``min_queries`` of each stratum that has them, all of one that has not, else the rate."""
    expected = naive(rows)
    rates = {name: max(rate, naive_floor(queries, min_queries)) for name, queries in expected.items()}
    with taken(tmp_path, rows) as counted:
        if expected and naive_passes(expected, rates, 1, 0) == 0:
            with pytest.raises(UsageError, match="keeps none of the"):
                counted.design(rate, min_queries)
            return
        design = counted.design(rate, min_queries)
    assert {name: stratum.rate for name, stratum in design.strata.items()} == rates
    assert list(design.strata) == sorted(design.strata)
    for name, queries in expected.items():
        stratum = design.strata[name]
        kept = [query for query in queries if design.kept(query, name)]
        assert stratum.sampled_queries == len(kept) >= min(min_queries, len(queries))
        assert stratum.sampled_pairs == sum(queries[query] for query in kept)
        assert all(position(query, SEED) >= rate for query in kept[min_queries:]) or len(kept) >= min_queries
        if kept:
            assert design.weight(name) == len(queries) / len(kept)


@pytest.mark.parametrize("min_queries", [1, 3, 5, 7, 8])
def test_min_queries_are_kept_exactly_where_the_rate_keeps_fewer(tmp_path: Path, min_queries: int) -> None:
    rows = [(f"{kind}{number}", "r", "", kind) for kind, size in (("coat", 5), ("hat", 300)) for number in range(size)]
    with taken(tmp_path, rows) as counted:
        design = counted.design(1e-9, min_queries)
    kept = {name: stratum.sampled_queries for name, stratum in design.strata.items()}
    assert kept == {"coat": min(5, min_queries), "hat": min_queries}
    smallest = sorted(range(300), key=lambda number: position(f"hat{number}", SEED))[:min_queries]
    assert {number for number in range(300) if design.kept(f"hat{number}", "hat")} == set(smallest)


def test_more_queries_than_there_are_and_than_an_integer_holds(tmp_path: Path) -> None:
    with taken(tmp_path, [("q1", "r", "", "coat"), ("q2", "r", "", "hat")]) as counted:
        assert counted.design(1e-9, 10**30).strata == counted.design().strata


@SETTINGS
@given(rows=ROWS, rates=st.tuples(RATES, RATES), min_queries=st.integers(1, 4))
def test_a_larger_rate_keeps_what_a_smaller_one_does(
    tmp_path: Path, rows: list[Row], rates: tuple[float, float], min_queries: int
) -> None:
    with taken(tmp_path, rows) as counted:
        less, more = (counted.design(rate, min_queries) for rate in sorted(rates))
    for query, _, _, kind in rows:
        if query:
            assert less.kept(query, kind or NONE) <= more.kept(query, kind or NONE)


@SETTINGS
@given(first=ROWS, second=ROWS, rates=st.tuples(RATES, RATES), min_queries=st.integers(1, 3))
def test_two_months_keep_what_lies_below_both_rates(
    tmp_path: Path, first: list[Row], second: list[Row], rates: tuple[float, float], min_queries: int
) -> None:
    designs = []
    for rows, rate in zip((first, second), rates, strict=True):
        with taken(tmp_path, rows) as counted:
            designs.append(counted.design(rate, min_queries))
    for name, queries in naive(first).items():
        for query in queries & naive(second).get(name, Counter()):
            both = all(design.kept(query, name) for design in designs)
            assert both == (position(query, SEED) < min(design.strata[name].rate for design in designs))


@SETTINGS
@given(
    rows=ROWS,
    rate=RATES,
    min_queries=st.integers(0, 2),
    budget=st.integers(1, 250),
    costs=st.sampled_from([(10, 1), (1, 0), (0, 3), (7, 2)]),
)
def test_a_budget_is_kept_and_used(
    tmp_path: Path, rows: list[Row], rate: float, min_queries: int, budget: int, costs: tuple[int, int]
) -> None:
    """The base rate is the largest that fits: by trying every rate at which the sample changes."""
    expected = naive(rows)
    floors = {name: naive_floor(queries, min_queries) for name, queries in expected.items()}
    places = {position(query, SEED) for queries in expected.values() for query in queries}

    def at(base: float) -> dict[str, float]:
        return {name: max(base, floor) for name, floor in floors.items()}

    bases = [base for base in {0.0, rate, *(place for place in places if place < rate)}]
    fitting = [base for base in bases if naive_passes(expected, at(base), *costs) <= budget]
    with taken(tmp_path, rows) as counted:

        def design() -> SamplingDesign:
            return counted.design(rate, min_queries, budget, passes_per_query=costs[0], passes_per_pair=costs[1])

        if not fitting:
            with pytest.raises(
                UsageError, match=f"--budget-passes {budget} is not enough: --min-queries {min_queries}"
            ):
                design()
        elif expected and naive_passes(expected, at(max(fitting)), 1, 0) == 0:
            with pytest.raises(UsageError, match=r"leaves no query at all|keeps none of the"):
                design()
        else:
            found = design()
            assert {name: stratum.rate for name, stratum in found.strata.items()} == at(max(fitting))
            spent = sum(
                costs[0] * stratum.sampled_queries + costs[1] * stratum.sampled_pairs
                for stratum in found.strata.values()
            )
            assert spent <= budget


def test_a_budget_by_hand(tmp_path: Path) -> None:
    """Three queries with 1, 2 and 3 pairs in the order of their positions."""
    queries = sorted(["q1", "q2", "q3"], key=lambda query: position(query, SEED))
    rows = [(query, f"r{number}", "", "coat") for count, query in enumerate(queries, 1) for number in range(count)]
    with taken(tmp_path, rows) as counted:

        def kept(budget: int, min_queries: int = 0) -> int:
            design = counted.design(1.0, min_queries, budget, passes_per_query=100, passes_per_pair=1)
            return design.strata["coat"].sampled_queries

        assert [kept(budget) for budget in (101, 202, 203, 305, 306, 10**30)] == [1, 1, 2, 2, 3, 3]
        with pytest.raises(UsageError) as none:
            kept(100)
        with pytest.raises(UsageError) as few:
            kept(202, min_queries=2)
    assert (
        "--budget-passes 100 leaves no query at all: the first one, with its 1 pairs, is 101 forward passes (100 a "
        in (str(none.value))
    )
    assert "--min-queries 2 takes 2 queries with 3 pairs, which is 203 forward passes (100 a query and 1 a pair)" in (
        str(few.value)
    )


@pytest.mark.parametrize("rate", [0, -1, 1.5, float("nan")])
def test_what_is_no_rate_is_refused(tmp_path: Path, rate: float) -> None:
    with taken(tmp_path, [("q1", "r", "", "")]) as counted, pytest.raises(ValueError, match="above 0 and at most 1"):
        counted.design(rate)


@pytest.mark.parametrize("costs", [(0, 0), (-1, 2), (2, -1)])
def test_what_costs_nothing_is_refused(tmp_path: Path, costs: tuple[int, int]) -> None:
    with taken(tmp_path, [("q1", "r", "", "")]) as counted, pytest.raises(ValueError, match="no budget can be kept"):
        counted.design(1.0, 0, 10, passes_per_query=costs[0], passes_per_pair=costs[1])


# What workers make of a design


@SETTINGS
@given(rows=ROWS, rate=RATES, min_queries=st.integers(1, 3))
def test_workers_keep_what_the_census_said(tmp_path: Path, rows: list[Row], rate: float, min_queries: int) -> None:
    """Rows read = pairs + failures + rows not sampled, in every stratum; failures are sampled as pairs are."""
    with taken(tmp_path, rows) as counted:
        design = counted.design(rate, min_queries)
        read = list(manifest.read(str(tmp_path / "part-0.csv"), strata=BY_KIND))
    items = list(sample(read, design))
    assert len(items) == len(rows) == counted.rows
    kept = Counter(item.stratum for item in items if item is not None)
    assert kept.pop(UNREADABLE, 0) == counted.unreadable
    assert kept == Counter({name: s.sampled_pairs for name, s in design.strata.items() if s.sampled_pairs})
    for row, before, item in zip(rows, read, items, strict=True):
        query, reference, rank, kind = row
        good = bool(query and reference and rank != "first")
        assert isinstance(before, Pair if good else Failure)
        assert before.stratum == ((kind or NONE) if query else UNREADABLE)
        assert (item is not None) == (not query or design.kept(query, kind or NONE))
        if item is not None:
            assert type(item) is type(before)
            assert item.weight == (design.weight(kind or NONE) if query else 1)


def test_weights_add_up_to_the_queries(tmp_path: Path) -> None:
    rows = [(f"q{number}", "r1", "", ("coat", "hat")[number % 3 == 0]) for number in range(90)]
    with taken(tmp_path, rows) as counted:
        design = counted.design(0.3, min_queries=4)
        items = list(sample(manifest.read(str(tmp_path / "part-0.csv"), strata=BY_KIND), design))
    for name, queries in (("coat", 60), ("hat", 30)):
        weights = [item.weight for item in items if item is not None and item.stratum == name]
        assert 4 <= len(weights) < queries
        assert sum(weights) == pytest.approx(queries)
