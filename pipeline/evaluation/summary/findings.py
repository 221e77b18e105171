"""What a summary consists of: measures, differences, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from transforms.core.metrics.metric import Better
from transforms.core.statistics.bootstrap import Interval


class Key(NamedTuple):
    """What has one mean."""

    metric: str
    method: str
    control: bool
    side: str | None
    fill: str | None
    map: str | None
    block: str | None
    depth: float | None


class MeasurementSetting(NamedTuple):
    """Where something was measured."""

    side: str | None
    fill: str | None
    map: str | None


@dataclass(frozen=True)
class Measure:
    """The mean of one metric; of ``removal_share``, the ratio of two sums.

    ``queries``, or references where their side is explained, and ``pairs`` have a value, ``failed`` rows have none. Of
    these, ``not_scored`` are those that nothing can be said about (:class:`transforms.core.errors.NotScored`): why, and
    how many rows, most first. ``average_precision`` is a mean over ``attributes``, which are no sample of anything: it
    has no queries, pairs or interval. ``judged`` is None but for ``sanity``; bounds are NaN where there is no interval,
    the estimate where there is no value.
    """

    metric: str
    method: str
    control: bool
    side: str | None
    fill: str | None
    map: str | None
    block: str | None
    depth: float | None
    judged: bool | None
    queries: int
    pairs: int
    attributes: int
    failed: int
    not_scored: tuple[tuple[str, int], ...]
    interval: Interval
    better: Better | None


@dataclass(frozen=True)
class Difference:
    """The mean of ``first`` less that of ``second`` over the pairs that both have; of ``removal_share`` their shares.

    ``second`` is a control where ``control`` is set. ``separated`` says whether ``first`` is better or worse in the
    metric's direction; None where the interval holds 0 or there is none.
    """

    metric: str
    first: str
    second: str
    control: bool
    side: str | None
    fill: str | None
    map: str | None
    queries: int
    pairs: int
    interval: Interval
    separated: Literal["better", "worse"] | None


@dataclass(frozen=True)
class SanityVerdict:
    """Whether a method's maps follow what the network has learned; ``passes`` None: nothing there to judge it by.

    Judged is the mean ``agreement`` at ``depth``; ``straddles`` says that its interval holds the limit.
    """

    method: str
    control: bool
    side: str | None
    fill: str | None
    map: str | None
    block: str | None
    depth: float | None
    queries: int
    agreement: Interval | None
    passes: bool | None
    straddles: bool
    text: str


@dataclass(frozen=True)
class EvaluationSummary:
    """What ``summarise`` found, in an order that does not depend on that of the rows.

    ``reasons`` counts the rows without a value; ``examples`` has a message for each reason.
    """

    measures: tuple[Measure, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[SanityVerdict, ...]
    reasons: Counter[str]
    examples: Mapping[str, str]
    sanity_limit: float
