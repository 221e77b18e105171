"""What a run's tables hold, looked at once before an evaluation starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.options import EvaluateOptions
from transforms.core.sampling import kept, position
from transforms.measuring import STRANGER, Stranger
from transforms.read_explanations import Explained, read

STRANGERS = 64
"""Queries whose pairs others are compared with."""


@dataclass(frozen=True)
class Found:
    """What the tables hold that an evaluation needs to know before it starts."""

    explanations: int
    sampled: int
    pairs: int
    queries: int
    strangers: tuple[Stranger, ...]
    frame: tuple[int, int] | None


def look(files: Sequence[str], methods: Sequence[str], options: EvaluateOptions) -> Found:
    """Reads the explanations once: how many there are, and the pairs that others will be compared with.

    Strangers are the queries that come first by a hash of their ids, one pair of each, the first by its id.
    """
    count = sampled = 0
    pairs: set[str] = set()
    queries: set[str] = set()
    frame = None
    wants = STRANGER in options.controls or options.asks("shuffled", "stranger")
    first: dict[str, list[Explained]] = {}
    for explained in _all(files, methods):
        count += 1
        pair = explained.task.pair
        frame = explained.frame
        if wants and explained.map is not None:
            _keep_stranger(first, explained, options.seed)
        if kept(pair.query_id, options.sample, options.sampling_seed):
            sampled += 1
            pairs.add(pair.pair_id)
            queries.add(pair.query_id)
    return Found(count, sampled, len(pairs), len(queries), tuple(map(_stranger, first.values())), frame)


def _all(files: Sequence[str], methods: Sequence[str]) -> Iterator[Explained]:
    for file in files:
        yield from read(file, methods)


def _keep_stranger(first: dict[str, list[Explained]], explained: Explained, seed: int) -> None:
    """Keeps the explanations of one pair of each of the first queries by their place, ``STRANGERS`` of them."""
    query_id = explained.task.pair.query_id
    known = first.get(query_id)
    key = (explained.task.pair.pair_id, explained.task.side)
    if known is not None:
        best = (known[0].task.pair.pair_id, known[0].task.side)
        if key < best:
            first[query_id] = [explained]
        elif key == best:
            known.append(explained)
        return
    if len(first) == STRANGERS:
        last = max(first, key=lambda one: (position(one, seed), one))
        if (position(query_id, seed), query_id) > (position(last, seed), last):
            return
        del first[last]
    first[query_id] = [explained]


def _stranger(explained: Sequence[Explained]) -> Stranger:
    task = explained[0].task
    maps = {one.method: one.map for one in explained if one.map is not None}
    return Stranger(task.pair.query_id, task.explained, task.other, task.side, maps)
