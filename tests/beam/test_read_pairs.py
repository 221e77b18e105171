"""The sampling of a manifest's rows in a pipeline: what is left out is counted, what is kept has its weight."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from tests.support.audits import write_csv
from transforms.beam.read_pairs import ReadPairs
from transforms.core.errors import RunError
from transforms.core.records import Failure, Pair
from transforms.core.statistics.sampling import UNREADABLE, SamplingDesign, Stratum
from transforms.inputs import census
from transforms.inputs.sampling import sample
from transforms.inputs.strata import Strata

SEED = 3


def manifest(tmp_path: Path) -> tuple[str, ...]:
    """Two files with 40 queries of 3 rows each; every ninth row has a bad rank, every seventh no query id."""
    rows = [
        {
            "query_id": "" if number % 7 == 6 else f"q{number // 3}",
            "reference_id": f"r{number % 3}",
            "rank": "first" if number % 9 == 8 else "1",
            "condition": "colour" if number % 11 == 10 else "",
        }
        for number in range(120)
    ]
    rows.append(rows[0])  # a duplicate pair
    return tuple(str(write_csv(tmp_path / f"part-{part}.csv", rows[part::2])) for part in range(2))


def catalogue(tmp_path: Path) -> str:
    rows = [
        {"id": f"q{number}", "image": f"{number}.jpg", "kind": ("coat", "hat")[number % 3 == 0]} for number in range(38)
    ]
    return str(write_csv(tmp_path / "catalogue.csv", rows))


def read(transform: ReadPairs, folder: Path) -> list[tuple[str, Any]]:
    """All that comes out of ``transform``, with the name of its output."""
    path = folder / "found"  # a worker's memory is not the test's
    with beam.Pipeline(FnApiRunner()) as pipeline:
        outputs = (pipeline | "Pairs" >> transform)._asdict()
        named = [outputs[name] | name >> beam.Map(lambda item, name=name: (name, item)) for name in outputs]
        assert_that(named | beam.Flatten(), lambda found: path.write_bytes(pickle.dumps(list(found))) and None)
    found: list[tuple[str, Any]] = pickle.loads(path.read_bytes())
    return found


def counts(found: list[tuple[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, item in found:
        if name == "counts":
            total[item[0]] += item[1]
        else:
            total[name] += 1
    return total


@pytest.mark.engine
def test_every_row_is_a_pair_a_failure_or_counted_as_not_sampled(tmp_path: Path) -> None:
    files, strata = manifest(tmp_path), Strata("kind", catalogue(tmp_path))
    with census.take(files, strata=strata, seed=SEED) as counted:
        design = counted.design(0.2, min_queries=5)
    found = read(ReadPairs(files, design=design, strata=strata), tmp_path)
    total = counts(found)
    assert total["rows_read"] == counted.rows == 121
    assert total["pairs"] + total["failures"] + total["pairs_not_sampled"] == 121
    assert 0 < total["pairs_not_sampled"] < 121

    items = [item for name, item in found if name != "counts"]
    assert set(design.strata) == {"coat", "hat", "(none)"}
    sampled = Counter(item.stratum for item in items)
    assert sampled.pop(UNREADABLE) == counted.unreadable == 17
    assert sampled == {name: stratum.sampled_pairs for name, stratum in design.strata.items()}
    assert {item.reason for item in items if isinstance(item, Failure)} == {
        "bad_row",
        "unknown_condition",
        "duplicate_pair",
    }
    for item in items:
        if item.stratum == UNREADABLE:
            assert (item.query_id, item.weight) == (None, 1)
        else:
            assert design.kept(item.query_id, item.stratum)
            assert item.weight == design.weight(item.stratum)
    queries = {(item.query_id, item.stratum) for item in items if item.query_id is not None}
    assert Counter(stratum for _, stratum in queries) == {
        name: stratum.sampled_queries for name, stratum in design.strata.items()
    }


@pytest.mark.engine
def test_without_a_design_nothing_is_left_out(tmp_path: Path) -> None:
    found = read(ReadPairs(manifest(tmp_path)), tmp_path)
    total = counts(found)
    assert total["rows_read"] == total["pairs"] + total["failures"] == 121
    assert "pairs_not_sampled" not in total
    assert {(item.stratum, item.weight) for name, item in found if name != "counts"} == {("all", 1.0)}


@pytest.mark.engine
def test_a_design_without_strata_has_one_stratum(tmp_path: Path) -> None:
    design = SamplingDesign(SEED, {"all": Stratum("all", 40, 20, 103, 51, 0.5)})
    found = read(ReadPairs(manifest(tmp_path), design=design), tmp_path)
    weights = {(item.stratum, item.weight) for name, item in found if name != "counts"}
    assert weights == {("all", 2.0), (UNREADABLE, 1.0)}


def test_a_design_and_its_strata_are_by_one_column() -> None:
    design = SamplingDesign(SEED, {}, "kind")
    with pytest.raises(ValueError, match="the design is by the column 'kind', the strata are by None"):
        ReadPairs(("pairs.csv",), design=design)
    with pytest.raises(ValueError, match="the strata are by 'brand'"):
        ReadPairs(("pairs.csv",), design=design, strata=Strata("brand"))


def test_neighbours_of_a_query_are_decided_each_by_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is hashed once for neighbouring rows, again for another query or stratum."""
    strata = {"a": Stratum("a", 4, 2, 4, 2, 1.0), "b": Stratum("b", 9, 3, 9, 3, 1e-15)}
    design, asked = SamplingDesign(SEED, strata), list[tuple[str, str]]()
    decide = SamplingDesign.kept

    def spy(self: SamplingDesign, query: str, stratum: str) -> bool:
        asked.append((query, stratum))
        return decide(self, query, stratum)

    monkeypatch.setattr(SamplingDesign, "kept", spy)
    names = [("q", "a"), ("q", "a"), ("q", "b"), ("p", "b"), ("q", "a")]
    pairs = [Pair("", query, "r", stratum=name) for query, name in names]
    items = list(sample(pairs, design))
    assert [None if item is None else item.weight for item in items] == [2.0, 2.0, None, None, 2.0]
    assert asked == [("q", "a"), ("q", "b"), ("p", "b"), ("q", "a")]


def test_a_stratum_that_was_not_counted_stops_the_run() -> None:
    with pytest.raises(RunError, match="'new' was not there"):
        list(sample([Pair("", "q", "r", stratum="new")], SamplingDesign(SEED, {})))
