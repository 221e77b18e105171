"""Which queries of a catalogue a run looked at: its strata, and how many queries each sampled one stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from transforms.core.errors import UsageError
from transforms.core.messages import listed, quoted
from transforms.core.statistics.sampling import Stratum
from transforms.tables.runs import Run

WEIGHED = 5
"""The first ``schema_version`` that samples; runs before it took all queries, and count no failed ones as theirs."""


@dataclass(frozen=True)
class QuerySample:
    """The strata of a run, by name. ``found`` are the queries of each that the rows of its tables name, at least one.

    These are fewer than were sampled where rows were erased: what is left is then a smaller sample.
    """

    strata: Mapping[str, Stratum]
    found: Mapping[str, int]
    column: str | None
    seed: int | None

    @cached_property
    def population(self) -> dict[str, int]:
        """Queries of each stratum that has any."""
        return {name: one.queries for name, one in sorted(self.strata.items()) if one.queries}

    @cached_property
    def weights(self) -> dict[str, float]:
        """How many queries one that was found stands for, by the strata that have any."""
        return {name: self.population[name] / count for name, count in sorted(self.found.items())}

    @property
    def is_whole(self) -> bool:
        """Whether every query was looked at."""
        return self.population == dict(self.found)

    @property
    def gone(self) -> int:
        """Sampled queries that no row is of any more."""
        return sum(one.sampled_queries for one in self.strata.values()) - sum(self.found.values())

    @property
    def unseen(self) -> tuple[Stratum, ...]:
        """Strata without a query that was looked at, by name."""
        return tuple(self.strata[name] for name in self.population if name not in self.found)


def read_sample(run: Run, found: Mapping[str, int]) -> QuerySample:
    """The sample of ``run`` whose rows name ``found`` queries of each stratum.

    UsageError where its strata cannot be read or do not fit its rows.
    """
    (about,) = (
        row
        for batch in run.batches(["schema_version", "stratified_by", "sampling_seed"], table="runs")
        for row in batch.to_pylist()
    )
    columns = ["stratum", "queries", "sampled_queries", "pairs", "sampled_pairs", "rate"]
    rows = [row for batch in run.batches(columns, table="strata") for row in batch.to_pylist()]
    if about["schema_version"] < WEIGHED:
        return QuerySample(_all_taken(rows, found), dict(found), None, None)
    strata = {row["stratum"]: _stratum(**{"name": row.pop("stratum"), **row}) for row in rows}
    if len(strata) < len(rows):
        raise UsageError(f"the table strata of the run {run.id} names a stratum twice. Audit again.")
    if unknown := sorted(found.keys() - strata.keys()):
        raise UsageError(
            f"the run {run.id} has rows of strata that its table strata does not have: {listed(unknown, 5)}. What they "
            "stand for cannot be known. Audit again."
        )
    for name, count in found.items():
        if count > strata[name].queries:
            raise UsageError(
                f"the run {run.id} has rows of {count:,} queries in the stratum {quoted(name)}, and its table strata "
                f"says that there are {strata[name].queries:,}. Audit again."
            )
    return QuerySample(strata, dict(found), about["stratified_by"], about["sampling_seed"])


def _stratum(name: str, queries: int, sampled_queries: int, pairs: int, sampled_pairs: int, rate: float) -> Stratum:
    if not 0 <= sampled_queries <= queries <= pairs:
        raise UsageError(
            f"the table strata says of {quoted(name)}: {sampled_queries:,} of {queries:,} queries sampled, {pairs:,} "
            "pairs; that cannot be. Audit again."
        )
    return Stratum(name, queries, sampled_queries, pairs, sampled_pairs or 0, rate)


def _all_taken(rows: list[dict[str, int]], found: Mapping[str, int]) -> dict[str, Stratum]:
    """The strata of an old run, of which every query was taken; they count no query whose rows all failed early."""
    pairs = {str(row["stratum"]): row["pairs"] for row in rows}
    return {
        name: Stratum(name, count, count, pairs.get(name, 0), pairs.get(name, 0), 1.0) for name, count in found.items()
    }
