"""What a run's tables hold, looked at once before an evaluation starts."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.evaluation.options import EvaluateOptions
from transforms.core.metrics.registry import needing
from transforms.core.saliency.controls import UNRELATED
from transforms.core.statistics.sampling import kept, position
from transforms.evaluating.settings import UnrelatedPair
from transforms.tables.explained import Explained, read

UNRELATED_PAIRS = 64
"""Queries whose pairs others are compared with, shared out among the conditions."""
_FEWEST = 4  # of each condition, however many there are


@dataclass(frozen=True)
class RunInventory:
    """What the tables hold that an evaluation needs to know before it starts.

    ``frame`` (H, W) and ``map_size`` (h, w) are those of a row, None of a run without rows, or without maps.
    """

    explanations: int
    sampled: int
    pairs: int
    queries: int
    unrelated: tuple[UnrelatedPair, ...]
    frame: tuple[int, int] | None
    map_size: tuple[int, ...] | None


def scan_run(files: Sequence[str], methods: Sequence[str], options: EvaluateOptions) -> RunInventory:
    """Reads the explanations once: how many there are, and the pairs that others will be compared with.

    Strangers are, of each condition, the queries that come first by a hash of their ids, one pair of each, the first by
    its id: only pairs of one condition can be compared.
    """
    count = sampled = 0
    pairs: set[str] = set()
    queries: set[str] = set()
    frame = map_size = None
    unrelated: defaultdict[str | None, _UnrelatedPairs] = defaultdict(lambda: _UnrelatedPairs(options.seed))
    wants = UNRELATED in options.controls or options.asks(*needing("another query"))
    for explained in _all(files, methods):
        count += 1
        pair = explained.target.pair
        frame = explained.frame
        map_size = map_size if explained.map is None else explained.map.shape
        if wants and explained.map is not None:
            unrelated[pair.condition].add(explained)
        if kept(pair.query_id, options.sample, options.sampling_seed):
            sampled += 1
            pairs.add(pair.pair_id)
            queries.add(pair.query_id)
    of_each = max(_FEWEST, UNRELATED_PAIRS // max(1, len(unrelated)))
    chosen = [one for condition in sorted(unrelated, key=_named) for one in unrelated[condition].kept()[:of_each]]
    return RunInventory(count, sampled, len(pairs), len(queries), tuple(map(_unrelated_pair, chosen)), frame, map_size)


def _named(condition: str | None) -> tuple[bool, str]:
    return condition is not None, condition or ""


def _all(files: Sequence[str], methods: Sequence[str]) -> Iterator[Explained]:
    for file in files:
        yield from read(file, methods)


@dataclass
class _UnrelatedPairs:
    """The explanations of one pair of each of the ``UNRELATED_PAIRS`` queries that come first by their places.

    A query's place is a hash of its id, taken once: where a table is sorted by query, once a query.
    """

    seed: int
    first: dict[str, list[Explained]] = field(default_factory=dict)
    places: list[tuple[float, str]] = field(default_factory=list)
    left_out: str | None = None

    def add(self, explained: Explained) -> None:
        query_id = explained.target.pair.query_id
        if query_id in self.first:
            self._add_to(self.first[query_id], explained)
        elif query_id != self.left_out and not self._admit((position(query_id, self.seed), query_id), explained):
            self.left_out = query_id

    def kept(self) -> list[list[Explained]]:
        """By the order of the places, which does not depend on that of the rows."""
        return [self.first[query_id] for _, query_id in self.places]

    def _admit(self, place: tuple[float, str], explained: Explained) -> bool:
        if len(self.places) == UNRELATED_PAIRS:
            if place > self.places[-1]:
                return False
            del self.first[self.places.pop()[1]]
        insort(self.places, place)
        self.first[place[1]] = [explained]
        return True

    @staticmethod
    def _add_to(known: list[Explained], explained: Explained) -> None:
        """Keeps the pair that comes first by its id, with the explanations of all methods."""
        key, best = ((one.target.pair.pair_id, one.target.side) for one in (explained, known[0]))
        if key < best:
            known[:] = [explained]
        elif key == best:
            known.append(explained)


def _unrelated_pair(explained: Sequence[Explained]) -> UnrelatedPair:
    target = explained[0].target
    maps = {one.method: one.map for one in explained if one.map is not None}
    return UnrelatedPair(
        target.pair.query_id, target.explained, target.counterpart, target.side, maps, condition=target.pair.condition
    )
