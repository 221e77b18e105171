"""The manifest of the drawn catalogue: what the ground truth would recommend, as no model is known at drawing time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.demo.products import Garment

DAMAGED = "damaged-1"
MISSING = "missing-1"
"""The two products of split "broken": one whose file is cut short, one whose file is not there."""
WEIGHTS = {"category": 4, "colour": 2, "pattern": 2, "sleeve": 1, "neckline": 1}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A row of the manifest; ``likeness`` is 0 to 1. It is no ``served_score``: no model has served it."""

    query_id: str
    reference_id: str
    rank: int
    likeness: float


def likeness(one: Garment, other: Garment) -> float:
    """The weighted share of columns in which two garments agree, 0 to 1. The brand does not count."""
    agreed = sum(weight for column, weight in WEIGHTS.items() if getattr(one, column) == getattr(other, column))
    return agreed / sum(WEIGHTS.values())


def recommended(garments: Sequence[Garment], queries: int, references: int) -> list[Recommendation]:
    """The most alike ``references`` of each of the first ``queries`` garments, themselves left out.

    A badged query's list ends in badged garments of other categories, half of it: pairs that have the badge in common
    and little else, as a recommender that fell for the badge would serve them. Fewer rows where ``garments`` are few.
    """
    rows = []
    for query in garments[:queries]:
        others = sorted((g for g in garments if g.id != query.id), key=lambda g: (-likeness(query, g), g.id))
        strange = [g for g in others if query.badged and g.badged and g.category != query.category]
        strange = strange[: references // 2]
        alike = [g for g in others if g not in strange][: references - len(strange)]
        rows += [
            Recommendation(query.id, reference.id, rank, round(likeness(query, reference), 4))
            for rank, reference in enumerate([*alike, *strange], start=1)
        ]
    return rows


def broken(rows: Sequence[Recommendation]) -> list[Recommendation]:
    """Two rows that must fail: the damaged image as a query, the missing one as a reference of the first query."""
    first = rows[0]
    last_rank = max(row.rank for row in rows if row.query_id == first.query_id)
    return [
        Recommendation(first.query_id, MISSING, last_rank + 1, 0.0),
        Recommendation(DAMAGED, first.reference_id, 1, 0.0),
    ]
