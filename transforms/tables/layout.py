"""Where the tables of a run lie, so that every engine reads all runs as one table::

<out>/<table>/run_id=<id>/part-<shard>.parquet
"""

from __future__ import annotations

from transforms import storage


def folder(out: str, table: str, run_id: str) -> str:
    """Where the part files of ``table`` of one run lie."""
    return storage.join(out, table, f"run_id={run_id}")


def part(shard: int, evaluation_id: str | None = None) -> str:
    """The name of a shard's file; ``evaluation_id`` is that of the evaluation, where a run may have several."""
    return f"part-{shard:05d}.parquet" if evaluation_id is None else f"part-{evaluation_id}-{shard:05d}.parquet"
