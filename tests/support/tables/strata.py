"""A run of two strata that can be counted by hand, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.results.summary.summarise import RunSummary, summarise_run
from tests.support.tables.rows import explanation, publish, run
from transforms.tables import Row, runs


def stratum(name: str, queries: int, sampled: int, pairs_a_query: int = 1) -> Row:
    """A row of the table strata."""
    return {
        "stratum": name,
        "queries": queries,
        "sampled_queries": sampled,
        "pairs": queries * pairs_a_query,
        "rate": sampled / queries,
        "sampled_pairs": sampled * pairs_a_query,
        "weight": queries / sampled if sampled else None,
    }


def write(
    out: Path,
    explanations: Sequence[Row],
    strata: Sequence[Row],
    failures: Sequence[Row] = (),
    products: Mapping[str, Sequence[str]] | None = None,
    **about: Any,
) -> str:
    """The tables of a run "r" under ``out``."""
    row = {**run(explained=len(explanations), failed=len(failures)), "stratified_by": "kind", "sampling_seed": 0}
    publish(str(out), "runs", "r", [{**row, **about}])
    publish(str(out), "explanations", "r", explanations)
    publish(str(out), "failures", "r", failures)
    publish(str(out), "strata", "r", strata)
    rows = [{"product_id": one, "image": "i", "attributes": has} for one, has in (products or {}).items()]
    publish(str(out), "products", "r", rows)
    return str(out)


def summary(out: Path | str, **given: Any) -> RunSummary:
    return summarise_run(runs.find(str(out), None), **given)


def shirts_and_shoes() -> tuple[list[Row], list[Row]]:
    """Of shirts 2 of 4 queries, with 2 and 1 pairs, all explained; of shoes 2 of 16, a pair each, one explained."""
    told = {"query-0": (2, True), "query-1": (1, True), "query-2": (1, True), "query-3": (1, False)}
    rows = [
        explanation(
            query,
            f"r{pair}",
            stratum="shirts" if query < "query-2" else "shoes",
            explained=well,
            similarity=0.5 + at / 8,
        )
        for at, (query, (pairs, well)) in enumerate(told.items())
        for pair in range(pairs)
    ]
    return rows, [stratum("shirts", 4, 2, 2), stratum("shoes", 16, 2)]
