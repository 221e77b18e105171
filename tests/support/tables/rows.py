"""Rows of the tables, for tests that need some: complete, with what matters to a test given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from transforms import storage, tables
from transforms.core.records import content_id
from transforms.tables.parquet import to_parquet

STARTED = datetime(2026, 10, 1, 12, tzinfo=UTC)


def publish(out: str, table: str, run_id: str, rows: Sequence[tables.Row], shard: int = 0) -> None:
    """Writes one file of ``table`` as a run does."""
    address = storage.join(tables.folder(out, table, run_id), tables.part(shard))
    storage.publish(address, to_parquet(tables.to_arrow(table, rows)))


def run(*, explained: int, failed: int, minutes: int = 0) -> tables.Row:
    """The row of a run that started ``minutes`` after noon."""
    started = STARTED + timedelta(minutes=minutes)
    return {
        "started": started,
        "finished": started + timedelta(minutes=1),
        "whymatch_version": "0",
        "versions": "{}",
        "configuration": "{}",
        "model_id": "m0",
        "explainer_ids": ["e0"],
        "rows_read": explained + failed,
        "pairs_explained": explained,
        "pairs_failed": failed,
        "pairs_not_sampled": 0,
        "explanations": explained,
        "queries": 1,
        "images": 2,
        "forward_passes": 10,
    }


def failure(query_id: str, reference_id: str, reason: str) -> tables.Row:
    """A failed pair."""
    return {
        "pair_id": content_id(query_id, reference_id, letter="p"),
        "query_id": query_id,
        "reference_id": reference_id,
        "stage": "load",
        "reason": reason,
        "message": "nothing there",
        "retryable": False,
        "stratum": "all",
        "weight": 1.0,
    }


def explanation(
    query_id: str, reference_id: str, *, top: Sequence[tuple[str, float]] | None = None, **given: Any
) -> tables.Row:
    """An explained pair with a map of 2 x 3 cells; ``top`` are names and scores of its attributes."""
    return {
        "pair_id": content_id(query_id, reference_id, letter="p"),
        "query_id": query_id,
        "reference_id": reference_id,
        "query": f"/images/{query_id}.jpg",
        "reference": f"/images/{reference_id}.jpg",
        "method": "rise",
        "explainer_id": "e0",
        "model_id": "m0",
        "similarity": 0.75,
        "top": None if top is None else [attribute(name, score) for name, score in top],
        "map": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        "map_height": 2,
        "map_width": 3,
        "input_height": 12,
        "input_width": 16,
        "original_height": 80,
        "original_width": 60,
        "crop_top": 0.0,
        "crop_left": 0.0,
        "crop_height": 80.0,
        "crop_width": 60.0,
        "peak_row": 11,
        "peak_column": 15,
        "border_share": 0.5,
        "border_area": 0.25,
        "background_share": 0.5,
        "background_area": 0.25,
        "entropy": 0.5,
        "fill": "auto",
        "passes": 10,
        "provider": "CPUExecutionProvider",
        "stratum": "all",
        "weight": 1.0,
        **given,
    }


def attribute(name: str, score: float, *, on_reference: bool | None = True) -> dict[str, Any]:
    """One entry of the column ``top``."""
    return {
        "name": name,
        "score": score,
        "confidence": 0.9,
        "match": 0.6,
        "prior": None,
        "on_query": True,
        "on_reference": on_reference,
        "reference_confidence": 0.8,
    }
