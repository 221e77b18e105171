"""Which queries are explained where not all are: a hash of the query decides, so order, workers and months agree.

Queries are sampled, never pairs: the explanations of one query are nearly one observation, and further references of a
query cost almost nothing. Each query has a permanent random number, its :func:`position`, and a stratum keeps those
below its rate: a query that was kept last month is kept this month at the same rate or a larger one. Where the rate is
given this is Poisson sampling (K. Brewer, L. Early, S. Joyce, "Selecting several samples from a single population",
Australian Journal of Statistics 14, 1972). Where it lies just above the n-th smallest position it is sequential simple
random sampling, in which a sample of fixed size keeps that overlap (E. Ohlsson, "Coordination of samples using
permanent random numbers", in Business Survey Methods, 1995, section 9.2).

Positions are independent of what a query is, so given the number of queries that a stratum kept they are a simple
random sample of it: the weight of each is the number of its queries by the number of those kept, not 1 / rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import RunError
from transforms.core.records import Float64, content_id

ALL = "all"
"""The stratum of every query where nothing is stratified."""
NONE = "(none)"
"""The stratum of rows that have no value in the column."""
UNREADABLE = "(unreadable)"
"""The stratum of rows without a readable query id: never sampled away, never a pair."""

_BITS = 53
"""Bits of a float64's mantissa: every position is exact, and 1 is not reached."""
_DIGITS = -(-_BITS // 4)


def position(query_id: str, seed: int) -> float:
    """The place of a query in [0, 1), uniform over ids, another for another ``seed``; the same in every version."""
    return _place(_digest(query_id, seed, _DIGITS))


def _place(digest: str) -> float:
    return float((int(digest, 16) >> (4 * _DIGITS - _BITS)) / (1 << _BITS))


def fingerprint(query_id: str, seed: int) -> bytes:
    """16 bytes that tell queries apart; their :func:`positions` is the query's :func:`position`."""
    return bytes.fromhex(_digest(query_id, seed, 32))


def positions(heads: NDArray[np.uint64]) -> Float64:
    """The positions of queries, float64 of the shape of ``heads``: the first 8 bytes of their fingerprints, big-endian.

    Positions have the order of ``heads``.
    """
    found: Float64 = (heads >> np.uint64(64 - _BITS)).astype(np.float64) / (1 << _BITS)
    return found


def just_above(place: Float64) -> Float64:
    """The smallest rates at which queries at the positions ``place`` are kept: the next positions, at most 1."""
    found: Float64 = place + 1 / (1 << _BITS)
    return found


def _digest(query_id: str, seed: int, digits: int, purpose: str = "sampling") -> str:
    return content_id(purpose, str(seed), query_id, letter="", digits=digits)


def kept(query_id: str, rate: float, seed: int) -> bool:
    """Whether an evaluation keeps the query among the ``rate`` of a run's; a larger rate keeps these and others.

    The draw is independent of the audit's :func:`position`: of a run that was sampled itself it takes ``rate``, too.
    ValueError where ``rate`` is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a sampling rate is above 0 and at most 1, not {rate!r}")
    return _place(_digest(query_id, seed, _DIGITS, "evaluation")) < rate


@dataclass(frozen=True, slots=True)
class Stratum:
    """A stratum of a manifest: its queries and their pairs, and those that the sample keeps.

    Pairs are rows of the manifest with a readable query id, also such as fail. ``rate`` is from 0 to 1: a query is kept
    where its position is less.
    """

    name: str
    queries: int
    sampled_queries: int
    pairs: int
    sampled_pairs: int
    rate: float

    @property
    def weight(self) -> float | None:
        """The number of its queries that a kept one stands for; None where none is kept."""
        return self.queries / self.sampled_queries if self.sampled_queries else None


@dataclass(frozen=True)
class SamplingDesign:
    """Which queries of a manifest are kept, and what each stands for.

    ``strata`` are by their names and do not hold ``UNREADABLE``. ``column`` is the one whose values are the strata,
    None where there is one stratum, ``ALL``.
    """

    seed: int
    strata: Mapping[str, Stratum]
    column: str | None = None

    def kept(self, query_id: str, stratum: str) -> bool:
        """Whether the rows of the query that lie in ``stratum`` are kept.

        RunError where the design does not know the stratum.
        """
        return stratum == UNREADABLE or position(query_id, self.seed) < self._of(stratum).rate

    def weight(self, stratum: str) -> float:
        """The number of queries that a kept one of ``stratum`` stands for, at least 1.

        RunError where the design does not know the stratum, or keeps no query of it.
        """
        if stratum == UNREADABLE:
            return 1.0
        weight = self._of(stratum).weight
        if weight is None:
            raise _changed(f"of the stratum {stratum!r} no query was to be kept, and now one is")
        return weight

    def _of(self, stratum: str) -> Stratum:
        found = self.strata.get(stratum)
        if found is None:
            raise _changed(f"the stratum {stratum!r} was not there then")
        return found


def _changed(what: str) -> RunError:
    return RunError(f"the manifest or the catalogue has changed since its queries were counted: {what}. Run again.")
