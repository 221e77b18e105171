"""A map, or the reason why there is none: what measuring passes on, so that no map that fails takes others with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from transforms.core.errors import PairError
from transforms.core.records import Float64, LoadFailure, Side
from transforms.core.target import ExplanationTarget
from transforms.tables.explained import Explained

Key: TypeAlias = tuple[str, Side, str]
"""A pair's id, the side that is explained, and the method."""
Outcome: TypeAlias = Float64 | LoadFailure
T = TypeVar("T")


def map_key(target: ExplanationTarget, method: str) -> Key:
    """Which map that is."""
    return target.pair.pair_id, target.side, method


def key_of(explained: Explained) -> Key:
    """Whose map an explanation is."""
    return map_key(explained.target, explained.method)


def each(outcome: Outcome, change: Callable[[Float64], Float64]) -> Outcome:
    """``outcome`` with a map changed."""
    return outcome if isinstance(outcome, LoadFailure) else change(outcome)


def attempt(work: Callable[[], T]) -> T | LoadFailure:
    """What ``work`` returns, or the failure that it raises as PairError."""
    try:
        return work()
    except PairError as error:
        return LoadFailure.of(error)
