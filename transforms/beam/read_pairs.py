"""Manifest files to pairs, each pair id once, of the queries that are sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.core.errors import DuplicatePair, PairError
from transforms.core.records import Failure, Pair
from transforms.core.statistics.sampling import SamplingDesign
from transforms.inputs import manifest
from transforms.inputs.sampling import check_condition, sample
from transforms.inputs.strata import Strata


@dataclass(eq=False)
class ReadPairs(beam.PTransform):  # type: ignore[misc]
    """Reads manifest files as a stream and settles duplicates.

    Where a bundle has ``conditions``, its similarity is one of several, and a pair must say which.

    Of several rows with one pair id the smallest by canonical bytes goes on; the others fail as ``duplicate_pair``.

    With a ``design`` the rows of the queries that it does not keep are only counted, before anything is grouped. The
    other rows, be they pairs or failures, have the weight of their stratum, which ``strata`` says. A row without a
    query id is never left out.

    Outputs: ``pairs`` (:class:`Pair`), ``failures`` (:class:`Failure`), ``counts`` (``("rows_read", n)``, and with a
    design ``("pairs_not_sampled", n)``): rows read = pairs + failures + pairs not sampled.
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

    def expand(self, root: Any) -> dict[str, Any]:
        rows = (
            root
            | "Files" >> beam.Create(list(self.files))
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadRows" >> beam.ParDo(_ReadRows(self)).with_outputs(main="pairs")
        )
        unique = (
            rows.pairs
            | "ByPairId" >> beam.Map(lambda pair: (pair.pair_id, pair))
            | "GroupPairIds" >> beam.GroupByKey()
            | "Deduplicate" >> beam.FlatMapTuple(_deduplicate).with_outputs("failures", main="pairs")
        )
        failures = (rows.failures, unique.failures) | "Failures" >> beam.Flatten()
        return {"pairs": unique.pairs, "failures": failures, "counts": rows.counts}


class _ReadRows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, reading: ReadPairs) -> None:
        self._columns, self._keep, self._conditions = reading.columns, reading.keep, reading.conditions
        self._design = reading.design
        self._strata = Strata() if reading.strata is None and reading.design is not None else reading.strata
        self._handle = shared.Shared()

    def setup(self) -> None:
        if self._strata is not None:
            self._strata = self._handle.acquire(self._strata.loaded)  # one catalogue a process

    def process(self, file: str) -> Iterator[Any]:
        count = left_out = 0
        items = manifest.read(file, columns=self._columns, keep=self._keep, strata=self._strata)
        for item in items if self._design is None else sample(items, self._design):
            count += 1
            if item is None:
                left_out += 1
                continue
            checked = check_condition(item, self._conditions) if isinstance(item, Pair) else item
            yield checked if isinstance(checked, Pair) else pvalue.TaggedOutput("failures", checked)
        yield pvalue.TaggedOutput("counts", ("rows_read", count))
        if self._design is not None:
            yield pvalue.TaggedOutput("counts", ("pairs_not_sampled", left_out))


def _deduplicate(pair_id: str, pairs: Iterable[Pair]) -> Iterator[Any]:
    best: Pair | None = None
    for pair in pairs:
        if best is None:
            best = pair
            continue
        best, loser = sorted((best, pair), key=manifest.canonical)
        error: PairError = DuplicatePair(f"another row has the pair id {pair_id!r}; the smaller one is explained")
        yield pvalue.TaggedOutput("failures", Failure.of(loser, error))
    yield best
