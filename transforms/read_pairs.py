"""Manifest files to pairs, each pair id once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms import manifest
from transforms.core.errors import DuplicatePair, PairError, UnknownCondition
from transforms.core.types import Failure, Pair
from transforms.rows import listed


@dataclass(eq=False)
class ReadPairs(beam.PTransform):  # type: ignore[misc]
    """Reads manifest files as a stream and settles duplicates.

    Where a bundle has ``conditions``, its similarity is one of several, and a pair must say which.

    Of several rows with one pair id the smallest by canonical bytes goes on; the others fail as ``duplicate_pair``.

    Outputs: ``pairs`` (:class:`Pair`), ``failures`` (:class:`Failure`), ``counts`` (``("rows_read", n)``).
    """

    files: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()

    def expand(self, root: Any) -> dict[str, Any]:
        rows = (
            root
            | "Files" >> beam.Create(list(self.files))
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadRows" >> beam.ParDo(_ReadRows(self.columns, self.keep, self.conditions)).with_outputs(main="pairs")
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
    def __init__(self, columns: Mapping[str, str], keep: tuple[str, ...], conditions: tuple[str, ...]) -> None:
        self._columns, self._keep, self._conditions = columns, keep, conditions

    def process(self, file: str) -> Iterator[Any]:
        count = 0
        for item in manifest.read(file, columns=self._columns, keep=self._keep):
            count += 1
            checked = check_condition(item, self._conditions) if isinstance(item, Pair) else item
            yield checked if isinstance(checked, Pair) else pvalue.TaggedOutput("failures", checked)
        yield pvalue.TaggedOutput("counts", ("rows_read", count))


def check_condition(pair: Pair, conditions: tuple[str, ...]) -> Pair | Failure:
    """``pair``, or its failure where it does not name one of the bundle's conditions, or one where there are none."""
    if pair.condition in conditions or (pair.condition is None and not conditions):
        return pair
    named = "no condition" if pair.condition is None else f"condition {pair.condition!r}"
    known = f"has the conditions {listed(conditions, 5)}; name one of them" if conditions else "has no conditions"
    return Failure.of(pair, UnknownCondition(f"{named}: the bundle {known}"))


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
