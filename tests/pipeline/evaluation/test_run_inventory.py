"""The strangers that a run's explanations are compared with: of any order of rows the same, a few of each condition."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import run_inventory as module
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.run_inventory import UNRELATED_PAIRS, scan_run
from transforms.core.records import Pair
from transforms.core.statistics.sampling import position
from transforms.core.target import ExplanationTarget
from transforms.tables.explained import Explained


def explained(query: int, reference: int, method: str = "rise", condition: str | None = None) -> Explained:
    query_id, reference_id = f"q{query}", f"r{reference}"
    pair = Pair(f"p{query}-{reference}-{condition}", query_id, reference_id, query_id, reference_id, condition)
    return Explained(
        ExplanationTarget(pair, "query"), method, "e0", 0.5, (12, 16), np.full((2, 3), reference, np.float32)
    )


def looked(monkeypatch: pytest.MonkeyPatch, rows: list[Explained], **more: Any) -> module.RunInventory:
    monkeypatch.setattr(module, "read", lambda file, methods: iter(rows))
    return scan_run(["file"], ["rise"], EvaluateOptions("tables", "bundle", "e1", **more))


def test_strangers_are_the_first_pairs_of_the_first_queries_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        explained(query, reference, method)
        for query in range(3 * UNRELATED_PAIRS)
        for reference in range(3)
        for method in ("rise", "lime")
    ]
    first = sorted((f"q{query}" for query in range(3 * UNRELATED_PAIRS)), key=lambda one: (position(one, 5), one))
    for order in (rows, rows[::-1], random.Random(2).sample(rows, len(rows))):
        found = looked(monkeypatch, order, seed=5)
        assert [one.query_id for one in found.unrelated] == first[:UNRELATED_PAIRS]
        assert all(one.maps.keys() == {"rise", "lime"} for one in found.unrelated)
        assert all(cells.max() == 0 for one in found.unrelated for cells in one.maps.values())
    assert (found.explanations, found.sampled, found.pairs, found.queries) == (
        len(rows), len(rows), len(rows) // 2, 3 * UNRELATED_PAIRS
    )  # fmt: skip
    assert (found.frame, found.map_size) == ((12, 16), (2, 3))


def test_each_condition_has_strangers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = (None, *(f"c{at}" for at in range(30)))
    rows = [explained(query, 0, condition=condition) for query in range(9) for condition in conditions]
    found = looked(monkeypatch, rows)
    assert Counter(one.condition for one in found.unrelated) == dict.fromkeys(conditions, 4)
    again = looked(monkeypatch, rows[::-1])
    assert [(one.query_id, one.condition) for one in again.unrelated] == [
        (one.query_id, one.condition) for one in found.unrelated
    ]


def test_places_are_taken_once_a_query_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table has a query's rows together: hashing costs no more than there are queries."""
    taken: Counter[str] = Counter()

    def counted(query_id: str, seed: int) -> float:
        taken[query_id] += 1
        return position(query_id, seed)

    monkeypatch.setattr(module, "position", counted)
    rows = [explained(query, reference) for query in range(2 * UNRELATED_PAIRS) for reference in range(3)]
    assert len(looked(monkeypatch, rows).unrelated) == UNRELATED_PAIRS
    assert taken.total() == 2 * UNRELATED_PAIRS
    assert looked(monkeypatch, rows, controls=(), metrics=("insertion",)).unrelated == ()
