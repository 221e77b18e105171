"""Manifest files to pairs, each pair id once, of the queries that are sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from transforms.beam.crossing import COUNTS, FAILURES, Count
from transforms.beam.typed import (
    DoFn,
    PCollection,
    Pipeline,
    Shared,
    Step,
    Tagged,
    create,
    flatten,
    group_by_key,
    map_each,
    par_do,
    reshuffle,
    split,
)
from transforms.core.errors import DuplicatePair, PairError
from transforms.core.records import Failure, Pair
from transforms.core.statistics.sampling import SamplingDesign
from transforms.inputs import manifest
from transforms.inputs.sampling import check_condition, sample
from transforms.inputs.strata import Strata


class PairsRead(NamedTuple):
    """What became of a manifest's rows: as many were read as there are pairs, failures and rows not sampled.

    ``counts`` are of ``rows_read``, and with a design of ``pairs_not_sampled``.
    """

    pairs: PCollection[Pair]
    failures: PCollection[Failure]
    counts: PCollection[Count]


@dataclass(frozen=True)
class ReadPairs(Step[Pipeline, PairsRead]):
    """Reads manifest files as a stream and settles duplicates.

    Where a bundle has ``conditions``, its similarity is one of several, and a pair must say which.

    Of several rows with one pair id the smallest by canonical bytes goes on; the others fail as ``duplicate_pair``.

    With a ``design`` the rows of the queries that it does not keep are only counted, before anything is grouped. The
    other rows, be they pairs or failures, have the weight of their stratum, which ``strata`` says. A row without a
    query id is never left out.
    """

    files: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    design: SamplingDesign | None = None
    strata: Strata | None = None

    def __post_init__(self) -> None:
        drawn, given = self.design and self.design.column, self.strata and self.strata.column
        if self.design is not None and drawn != given:
            raise ValueError(f"the design is by the column {drawn!r}, the strata are by {given!r}")

    def expand(self, root: Pipeline) -> PairsRead:
        """Files to rows, and these by pair id."""
        rows = (
            root
            | "Files" >> create(str, self.files)
            | "SpreadFiles" >> reshuffle(str)
            | "ReadRows" >> par_do(str, Pair, _ReadRows(self), FAILURES, COUNTS)
        )
        unique = (
            rows.main
            | "ByPairId" >> map_each(Pair, tuple[str, Pair], lambda pair: (pair.pair_id, pair))
            | "GroupPairIds" >> group_by_key(str, Pair)
            | "Deduplicate" >> split(tuple[str, Iterable[Pair]], Pair, _deduplicate, FAILURES)
        )
        failures = [rows[FAILURES], unique[FAILURES]] | "Failures" >> flatten(Failure)
        return PairsRead(unique.main, failures, rows[COUNTS])


class _ReadRows(DoFn[str]):
    def __init__(self, reading: ReadPairs) -> None:
        self._columns, self._keep, self._conditions = reading.columns, reading.keep, reading.conditions
        self._design = reading.design
        self._strata = Strata() if reading.strata is None and reading.design is not None else reading.strata
        self._handle = Shared()

    def setup(self) -> None:
        if self._strata is not None:
            self._strata = self._handle.acquire(self._strata.loaded)  # one catalogue a process

    def process(self, file: str) -> Iterator[Pair | Tagged]:
        count = left_out = 0
        items = manifest.read(file, columns=self._columns, keep=self._keep, strata=self._strata)
        for item in items if self._design is None else sample(items, self._design):
            count += 1
            if item is None:
                left_out += 1
                continue
            checked = check_condition(item, self._conditions) if isinstance(item, Pair) else item
            yield checked if isinstance(checked, Pair) else FAILURES(checked)
        yield COUNTS(("rows_read", count))
        if self._design is not None:
            yield COUNTS(("pairs_not_sampled", left_out))


def _deduplicate(group: tuple[str, Iterable[Pair]]) -> Iterator[Pair | Tagged]:
    pair_id, pairs = group
    best: Pair | None = None
    for pair in pairs:
        if best is None:
            best = pair
            continue
        best, loser = sorted((best, pair), key=manifest.canonical)
        error: PairError = DuplicatePair(f"another row has the pair id {pair_id!r}; the smaller one is explained")
        yield FAILURES(Failure.of(loser, error))
    if best is not None:
        yield best
