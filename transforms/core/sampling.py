"""Which queries are explained where not all are: a hash of the query decides, so order, workers and months agree.

Queries are sampled, never pairs: the explanations of one query are nearly one observation, and further references of a
query cost almost nothing. This is Poisson sampling with permanent random numbers (K. Brewer, L. Early, S. Joyce,
"Selecting several samples from a single population", Australian Journal of Statistics 14, 1972): a query that was kept
last month is kept this month at the same rate or a larger one.
"""

from __future__ import annotations

from transforms.core.types import content_id

_BITS = 53
"""Bits of a float64's mantissa: every position is exact, and 1 is not reached."""


def position(query_id: str, seed: int) -> float:
    """The place of a query in [0, 1), uniform over ids, another for another ``seed``; the same in every version."""
    digits = -(-_BITS // 4)
    digest = int(content_id("sampling", str(seed), query_id, letter="", digits=digits), 16)
    return float((digest >> (4 * digits - _BITS)) / (1 << _BITS))


def kept(query_id: str, rate: float, seed: int) -> bool:
    """Whether the query is among the ``rate`` of all queries that are kept; a larger rate keeps these and others.

    ValueError where ``rate`` is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a sampling rate is above 0 and at most 1, not {rate!r}")
    return position(query_id, seed) < rate
