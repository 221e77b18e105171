"""What a run's tables hold, and the unrelated pairs that its explanations are compared with: of whatever order."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import run_inventory as module
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.run_inventory import UNRELATED_PAIRS, RunInventory, scan_run
from tests.support.tables.rows import explanation, publish
from transforms import tables
from transforms.core.records import content_id
from transforms.core.statistics.sampling import kept, position
from transforms.tables import Row


def explained(query: int, reference: int, method: str = "rise", condition: str | None = None, **more: Any) -> Row:
    """A row whose map holds the number of its reference."""
    pair_id = content_id(f"q{query}", f"r{reference}", condition, letter="p")
    about = {"pair_id": pair_id, "condition": condition, "side": "query", "map": [float(reference)] * 6, **more}
    return explanation(f"q{query}", f"r{reference}", method=method, **about)


def looked(out: Path, rows: list[Row], methods: tuple[str, ...] = ("rise", "lime"), **more: Any) -> RunInventory:
    """What is found in a table of ``rows``, in files of a hundred in that order."""
    files = []
    for shard, first in enumerate(range(0, len(rows), 100)):
        publish(str(out), "explanations", "r", rows[first : first + 100], shard)
        files.append(str(out / "explanations" / "run_id=r" / tables.part(shard)))
    return scan_run(files, methods, EvaluateOptions("tables", "bundle", "e1", **more))


@pytest.mark.parametrize("order", ["by query", "backwards", "mixed"])
def test_unrelated_are_the_first_pairs_of_the_first_queries_in_any_order(tmp_path: Path, order: str) -> None:
    queries = range(3 * UNRELATED_PAIRS)
    rows = [
        explained(query, reference, method)
        for query in queries
        for reference in range(3)
        for method in ("rise", "lime")
    ]
    first = sorted((f"q{query}" for query in queries), key=lambda one: (position(one, 5), one))[:UNRELATED_PAIRS]
    ordered = {"by query": rows, "backwards": rows[::-1], "mixed": random.Random(2).sample(rows, len(rows))}[order]
    found = looked(tmp_path, ordered, seed=5)
    assert [one.query_id for one in found.unrelated] == first
    for one in found.unrelated:
        pairs = {content_id(one.query_id, f"r{reference}", None, letter="p"): reference for reference in range(3)}
        reference = pairs[min(pairs)]
        assert one.maps.keys() == {"rise", "lime"}
        assert all((cells == reference).all() and cells.shape == (2, 3) for cells in one.maps.values())
        assert (one.image("query"), one.image("reference")) == (
            f"/images/{one.query_id}.jpg",
            f"/images/r{reference}.jpg",
        )


def test_rows_pairs_and_queries_are_counted(tmp_path: Path) -> None:
    """Of explanations by two methods and of both sides; those of another method are none."""
    rows = [
        explained(query, reference, method, side=side)
        for query in range(40)
        for reference in range(query % 3 + 1)
        for method in ("rise", "lime", "sbsm")
        for side in ("query", "reference")
    ]
    found = looked(tmp_path, rows, sample=0.5, sampling_seed=3, seed=8)
    sampled = [query for query in range(40) if kept(f"q{query}", 0.5, 3)]
    assert 10 < len(sampled) < 30
    assert sampled != [query for query in range(40) if kept(f"q{query}", 0.5, 8)]
    pairs = sum(query % 3 + 1 for query in sampled)
    assert (found.queries, found.pairs, found.sampled) == (len(sampled), pairs, 4 * pairs)
    assert found.explanations == len(rows) * 2 // 3
    assert (found.frame, found.map_size) == ((12, 16), (2, 3))
    assert looked(tmp_path / "none", [rows[0]], methods=("sbsm",)) == RunInventory(0, 0, 0, 0, (), None, None)


def test_a_pair_stands_for_its_query_on_one_side(tmp_path: Path) -> None:
    """The side that comes first in the alphabet, with the maps of that side alone; or the only one there is."""
    rows = [explained(1, 0, map=[0.0] * 6), explained(1, 0, side="reference", map=[1.0] * 6)]
    rows += [explained(2, 0, method, side="reference", map=[2.0] * 6) for method in ("rise", "lime")]
    for order in (rows, rows[::-1]):
        found = {one.query_id: one for one in looked(tmp_path / str(order is rows), order).unrelated}
        assert {name: (one.side, sorted(one.maps)) for name, one in found.items()} == {
            "q1": ("query", ["rise"]),
            "q2": ("reference", ["lime", "rise"]),
        }
        assert float(found["q1"].maps["rise"].max()) == 0
        assert (found["q2"].explained, found["q2"].counterpart) == ("/images/r0.jpg", "/images/q2.jpg")


def test_what_has_no_map_of_finite_numbers_stands_for_nothing(tmp_path: Path) -> None:
    """It is counted, and the size of maps is that of the others, before it or behind it."""
    without: dict[str, Any] = {"map": [0.0, math.nan, 0.0, 0.0, 0.0, 0.0]}
    rows = [explained(1, 0, **without), explained(1, 1), explained(2, 0, **without)]
    for order in (rows, rows[::-1]):
        found = looked(tmp_path / str(order is rows), order)
        assert (found.explanations, found.pairs, found.queries, found.map_size) == (3, 3, 2, (2, 3))
        assert [(one.query_id, list(one.maps)) for one in found.unrelated] == [("q1", ["rise"])]
    assert looked(tmp_path / "none", [rows[0]]).map_size is None


def test_each_condition_has_unrelated_pairs_of_its_own(tmp_path: Path) -> None:
    conditions = (None, *(f"c{at}" for at in range(30)))
    rows = [explained(query, 0, condition=condition) for query in range(9) for condition in conditions]
    found = looked(tmp_path / "once", rows)
    assert Counter(one.condition for one in found.unrelated) == dict.fromkeys(conditions, 4)
    again = looked(tmp_path / "again", rows[::-1])
    assert [(one.query_id, one.condition) for one in again.unrelated] == [
        (one.query_id, one.condition) for one in found.unrelated
    ]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"controls": (), "metrics": ("insertion",)}, False),
        ({"controls": ("random", "edges"), "metrics": ("insertion",)}, False),
        ({"controls": ("stranger",), "metrics": ("insertion",)}, True),
        ({"controls": (), "metrics": ("shuffled",)}, True),
        ({"controls": (), "metrics": ("stranger",)}, True),
    ],
)
def test_unrelated_pairs_are_kept_where_something_compares_with_them(
    tmp_path: Path, asked: dict[str, Any], wanted: bool
) -> None:
    assert bool(looked(tmp_path, [explained(1, 0)], **asked).unrelated) is wanted


def test_places_are_taken_once_a_query_that_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table has a query's rows together: hashing costs no more than there are queries."""
    taken: Counter[str] = Counter()

    def counted(query_id: str, seed: int) -> float:
        taken[query_id] += 1
        return position(query_id, seed)

    monkeypatch.setattr(module, "position", counted)
    rows = [explained(query, reference) for query in range(2 * UNRELATED_PAIRS) for reference in range(3)]
    assert len(looked(tmp_path, rows).unrelated) == UNRELATED_PAIRS
    assert taken.total() == 2 * UNRELATED_PAIRS
