"""Rows of a manifest against a sampling design, and against the conditions of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from transforms.core.errors import UnknownCondition
from transforms.core.messages import listed
from transforms.core.records import Failure, Pair
from transforms.core.statistics.sampling import SamplingDesign


def sample(items: Iterable[Pair | Failure], design: SamplingDesign) -> Iterator[Pair | Failure | None]:
    """``items`` with the weights of their strata; None in the place of each one whose query is not kept.

    RunError where the design does not know an item's stratum.
    """
    last: tuple[str | None, str] | None = None  # rows of a query are neighbours: one hash does for them
    weight: float | None = None
    for item in items:
        if (query := (item.query_id, item.stratum)) != last:
            last = query
            kept = item.query_id is None or design.kept(item.query_id, item.stratum)
            weight = design.weight(item.stratum) if kept else None
        yield None if weight is None else replace(item, weight=weight)


def check_condition(pair: Pair, conditions: tuple[str, ...]) -> Pair | Failure:
    """``pair``, or its failure where it does not name one of the bundle's conditions, or one where there are none."""
    if pair.condition in conditions or (pair.condition is None and not conditions):
        return pair
    named = "no condition" if pair.condition is None else f"condition {pair.condition!r}"
    known = f"has the conditions {listed(conditions, 5)}; name one of them" if conditions else "has no conditions"
    return Failure.of(pair, UnknownCondition(f"{named}: the bundle {known}"))
