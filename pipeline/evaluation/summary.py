"""What the rows of an evaluation say: means with intervals, paired differences, and the sanity verdict of each method.

The unit is the explained product: its pairs share the masked passes of its image and are nearly one observation. So
every interval is a bootstrap over queries, or, of the reference's side, over references
(:mod:`transforms.core.statistics.bootstrap`), and methods are compared on the pairs that both have.

The **verdict** is that of J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3: a map that
stays the same when the network's blocks are replaced by random ones, from the head down, does not explain what the
network has learned. It is read off where at least half of the blocks are random.

:mod:`pipeline.evaluation.text` puts a summary into words and tables.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.text.tables import cut, printable
from transforms.core.errors import NotScored
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval, means_by_query, ratio_by_query
from transforms.evaluating.settings import UNRELATED
from transforms.tables import Row

K = TypeVar("K")
Better: TypeAlias = Literal["higher", "lower"]

HEAD_SHARE = 0.5
"""The verdict falls at the first judged network with at least this share of its blocks random."""
SAME = 0.95
"""Maps that fail with at least this agreement are said not to depend on the network; below, to depend little on it."""
SHARE = "removal_share"
"""The metric that is made here: the sum of ``removal`` over the sum of ``removal_oracle`` of the same pairs."""
CURVES = ("insertion", "deletion", "insertion_raw", "deletion_raw")
REGIONS = ("pointing", "iou", "pixel_auc")
ATTRIBUTES = (SHARE, "oracle_first", "oracle_among_five", "removal", "removal_oracle")
JUDGED_ATTRIBUTES = (SHARE, "oracle_first", "oracle_among_five")
"""The metrics of attribute removal by which methods are compared."""
AVERAGE_PRECISION = "average_precision"
LEVELS = ("seeds", "noise", "shuffled", "stranger")
"""The agreements that ``sanity`` is read against, from high to low."""
BETTER: Mapping[str, Better] = {
    **dict.fromkeys(("insertion", "insertion_raw", *REGIONS, *ATTRIBUTES[:4]), "higher"),
    **dict.fromkeys(("deletion", "deletion_raw", "sanity"), "lower"),
    **dict.fromkeys((AVERAGE_PRECISION, "seeds", "noise"), "higher"),
}
"""Which way a metric is good; what stands beside the others (a floor, an oracle) is neither."""

LONGEST_NAME = 32
"""Columns of a method's or control's name that are shown: those of the longest control, as strangers are named."""

_ROUNDING = 1e-9  # equal values that were added up in another order differ by less
_TOGETHER = 1 << 22  # values that are resampled at once, 32 MB
_NOTHING = Interval(math.nan, math.nan, math.nan)
_OF_UNRELATED = f"{UNRELATED}_"  # and the name of the method whose maps they are


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
class Verdict:
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
    """What :func:`summarise` found, in an order that does not depend on that of the rows.

    ``reasons`` counts the rows without a value; ``examples`` has a message for each reason.
    """

    measures: tuple[Measure, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    reasons: Counter[str]
    examples: Mapping[str, str]
    sanity_limit: float


def summarise(
    rows: Iterable[Row], *, sanity_limit: float = 0.5, resamples: int = 10_000, seed: int = 0
) -> EvaluationSummary:
    """The summary of one evaluation's ``rows``, as of the table ``metrics``.

    A row's ``weight`` weights its pair in every mean; without one it is 1. Rows without a finite value are counted
    under their reason. ValueError where two rows measure the same of one pair: then they are not of one evaluation.

    Args:
      rows: in any order; read once, one number of each is kept.
      sanity_limit: a mean agreement below it passes.
      resamples: of the bootstrap over queries.
      seed: of the bootstrap.
    """
    kept = _Kept()
    for row in rows:
        kept.add(row)
    samples, queries, weights = kept.sorted()
    draws = _Draws(queries, weights, resamples, seed)
    keys = sorted(samples, key=key_order)
    intervals = draws.means(
        {key: samples[key] for key in keys if len(samples[key].units) and key.metric != AVERAGE_PRECISION}
    )
    measures = [_measure(key, samples[key], intervals.get(key, _NOTHING), kept, draws) for key in keys]
    measures += _shares(samples, draws)
    return EvaluationSummary(
        measures=tuple(sorted(measures, key=lambda one: (*metric_order(one.metric), *key_order(one)))),
        differences=tuple(_differences(samples, draws)),
        verdicts=tuple(_verdicts(measures, sanity_limit)),
        reasons=kept.reasons,
        examples=MappingProxyType(dict(sorted(kept.examples.items()))),
        sanity_limit=sanity_limit,
    )


class _Key(NamedTuple):
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


class _Sample(NamedTuple):
    """One value a unit, a pair or an attribute: ``units`` int64 [P], rising, and ``values`` float64 [P]."""

    units: NDArray[np.int64]
    values: Float64


@dataclass
class _Kept:
    """Of each row a number in its group; of each pair its ids, once."""

    units: dict[tuple[str, str], int] = field(default_factory=dict)
    weights: array[float] = field(default_factory=lambda: array("d"))
    groups: dict[_Key, tuple[array[int], array[float]]] = field(default_factory=dict)
    failed: Counter[_Key] = field(default_factory=Counter)
    not_scored: defaultdict[_Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unjudged: set[_Key] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        key = _Key(
            row["metric"], row["method"] or "", bool(row["control"]), *(row.get(name) for name in _Key._fields[3:])
        )
        units, values = self.groups.setdefault(key, (array("q"), array("d")))
        if row.get("judged") is False:
            self.unjudged.add(key)
        value = row["value"]
        if value is None or not math.isfinite(value):
            self._fail(key, row)
            return
        unit = (explained_product(row), row.get("pair_id") or row.get("attribute") or "")
        at = self.units.setdefault(unit, len(self.units))
        if at == len(self.weights):
            self.weights.append(math.nan)
        if row.get("weight") is not None:
            self.weights[at] = float(np.fmax(self.weights[at], row["weight"]))
        units.append(at)
        values.append(value)

    def _fail(self, key: _Key, row: Row) -> None:
        reason = row.get("reason") or ("no value" if row["value"] is None else "not finite")
        message = row.get("message") or ""
        self.failed[key] += 1
        self.reasons[reason] += 1
        self.examples[reason] = min(self.examples.get(reason, message), message)
        if reason == NotScored.reason:
            self.not_scored[key][message] += 1

    def sorted(self) -> tuple[dict[_Key, _Sample], NDArray[np.int64], Float64]:
        """The groups with units numbered in the order of their ids, and of each its product's number and its weight."""
        ids = sorted(self.units)
        order = np.array([self.units[one] for one in ids], np.int64)
        place = np.empty(len(ids), np.int64)
        place[order] = np.arange(len(ids))
        queries = np.cumsum([at > 0 and ids[at][0] != ids[at - 1][0] for at in range(len(ids))], dtype=np.int64)
        weights = np.array(self.weights, np.float64)[order]
        samples = {
            key: _sample(key, place[np.array(units, np.int64)], np.array(values, np.float64))
            for key, (units, values) in self.groups.items()
        }
        return samples, queries, np.where(np.isnan(weights), 1.0, weights)


def _sample(key: _Key, units: NDArray[np.int64], values: Float64) -> _Sample:
    """The values in the order of their units; ValueError where one has two."""
    order = np.argsort(units)
    rising = units[order]
    if (np.diff(rising) == 0).any():
        raise ValueError(f"two rows of {key.metric} of {key.method} measure the same: they are of two evaluations")
    return _Sample(rising, values[order])


def explained_product(row: Row) -> str:
    """The id of the product whose image a row explains: a query, or a reference where its side is explained."""
    return row.get("reference_id" if row.get("side") == "reference" else "query_id") or ""


def key_order(one: _Key | Measure) -> tuple[tuple[bool, Any], ...]:
    """What keys are sorted by; the depth goes before the block, so from the head down."""
    return sortable((one.metric, one.method, one.control, one.side, one.fill, one.map, one.depth, one.block))


def sortable(parts: Iterable[Any]) -> tuple[tuple[bool, Any], ...]:
    """What tuples with None in them are sorted by: None is the first."""
    return tuple((part is not None, part) for part in parts)


def metric_order(metric: str) -> tuple[int, str]:
    """What metrics are sorted by: the known ones as they are shown, then others by name."""
    known = (*CURVES, *REGIONS, *ATTRIBUTES, AVERAGE_PRECISION, "sanity", *LEVELS)
    return (known.index(metric) if metric in known else len(known), metric)


@dataclass(frozen=True)
class _Draws:
    """Means over units: ``queries`` int64 [U] and ``weights`` float64 [U] of every unit, and how to resample."""

    queries: NDArray[np.int64]
    weights: Float64
    resamples: int
    seed: int

    def means(self, samples: Mapping[K, _Sample]) -> dict[K, Interval]:
        """Of each of ``samples``, none empty; those on the same units, most often all, are resampled together."""
        together: dict[bytes, list[K]] = defaultdict(list)
        for key, sample in samples.items():
            together[sample.units.tobytes()].append(key)
        found: dict[K, Interval] = {}
        for keys in together.values():
            units = samples[keys[0]].units
            at_once = max(1, _TOGETHER // len(units))
            for start in range(0, len(keys), at_once):
                some = keys[start : start + at_once]
                values = np.stack([samples[key].values for key in some], axis=1)
                parts = means_by_query(
                    values,
                    self.queries[units],
                    weights=self.weights[units],
                    resamples=self.resamples,
                    seed=self.seed,
                )
                found |= {key: Interval(*map(float, one)) for key, *one in zip(some, *parts, strict=True)}
        return found

    def ratio(self, above: _Sample, below: _Sample) -> Interval:
        """The sum of ``above`` over that of ``below``, on the same units; every value of ``below`` is above 0."""
        weights = self.weights[above.units]
        return ratio_by_query(
            weights * above.values,
            weights * below.values,
            self.queries[above.units],
            resamples=self.resamples,
            seed=self.seed,
        )

    def count(self, units: NDArray[np.int64]) -> int:
        """Distinct queries."""
        return len(np.unique(self.queries[units]))


def _measure(key: _Key, sample: _Sample, interval: Interval, kept: _Kept, draws: _Draws) -> Measure:
    units, over_attributes = len(sample.units), key.metric == AVERAGE_PRECISION
    if units and over_attributes:
        interval = replace(_NOTHING, estimate=float(sample.values.mean()))
    return Measure(
        *key,
        judged=key not in kept.unjudged if key.metric == "sanity" else None,
        queries=0 if over_attributes else draws.count(sample.units),
        pairs=0 if over_attributes else units,
        attributes=units if over_attributes else 0,
        failed=kept.failed[key],
        not_scored=tuple(sorted(kept.not_scored[key].items(), key=lambda item: (-item[1], item[0]))),
        interval=interval,
        better=BETTER.get(key.metric),
    )


def _shares(samples: Mapping[_Key, _Sample], draws: _Draws) -> Iterator[Measure]:
    """The removal of each method as a share of the oracle's on the same pairs."""
    for key in (key for key in samples if key.metric == "removal"):
        above, below = _beside_oracle(samples[key], key, samples)
        if not len(above.units):
            continue
        yield Measure(
            *key._replace(metric=SHARE),
            judged=None,
            queries=draws.count(above.units),
            pairs=len(above.units),
            attributes=0,
            failed=0,
            not_scored=(),
            interval=draws.ratio(above, below),
            better=BETTER[SHARE],
        )


def _beside_oracle(sample: _Sample, key: _Key, samples: Mapping[_Key, _Sample]) -> tuple[_Sample, _Sample]:
    """``sample`` and the oracle's removal of ``key``'s method, on the units that both have."""
    oracle = samples.get(key._replace(metric="removal_oracle"), _Sample(np.empty(0, np.int64), np.empty(0)))
    return _shared(sample, oracle)


def _shared(one: _Sample, other: _Sample) -> tuple[_Sample, _Sample]:
    """Both on the units that both have."""
    units, left, right = np.intersect1d(one.units, other.units, assume_unique=True, return_indices=True)
    return _Sample(units, one.values[left]), _Sample(units, other.values[right])


def _differences(samples: Mapping[_Key, _Sample], draws: _Draws) -> list[Difference]:
    """Each method less each control, then each two methods, for each metric, side, fill and map."""
    places: dict[tuple[str, MeasurementSetting], list[_Key]] = defaultdict(list)
    for key in sorted(samples, key=key_order):
        metric = SHARE if key.metric == "removal" else key.metric
        if metric in (*CURVES, *REGIONS, *JUDGED_ATTRIBUTES):
            places[metric, setting_of(key)].append(key)
    found: list[Difference] = []
    for metric, where in sorted(places, key=lambda place: (metric_order(place[0]), sortable(place[1]))):
        keys = places[metric, where]
        methods = [key for key in keys if not key.control]
        pairs = [(one, other) for one in methods for other in keys if other.control and _is_beside(other, one)]
        found += _compared(metric, where, pairs + list(combinations(methods, 2)), samples, draws)
    return found


def _is_beside(control: _Key, method: _Key) -> bool:
    """Whether ``control`` says anything of ``method``: another query's map does of its own method."""
    return not control.method.startswith(_OF_UNRELATED) or control.method == _OF_UNRELATED + method.method


def _compared(
    metric: str,
    where: MeasurementSetting,
    pairs: Sequence[tuple[_Key, _Key]],
    samples: Mapping[_Key, _Sample],
    draws: _Draws,
) -> list[Difference]:
    """The differences of ``pairs``.

    Of shares it is one ratio: which pairs are judged and what the oracle removes does not depend on the method.
    """
    gaps: dict[tuple[_Key, _Key], _Sample] = {}
    for first, second in pairs:
        one, other = _shared(samples[first], samples[second])
        gaps[first, second] = _Sample(one.units, one.values - other.values)
    if metric == SHARE:
        parts = {pair: _beside_oracle(gap, pair[0], samples) for pair, gap in gaps.items()}
        gaps = {pair: gap for pair, (gap, _) in parts.items() if len(gap.units)}
        intervals = {pair: draws.ratio(*parts[pair]) for pair in gaps}
    else:
        gaps = {pair: gap for pair, gap in gaps.items() if len(gap.units)}
        intervals = draws.means(gaps)
    return [_difference(metric, where, *pair, gap.units, intervals[pair], draws) for pair, gap in gaps.items()]


def _difference(
    metric: str,
    where: MeasurementSetting,
    first: _Key,
    second: _Key,
    units: NDArray[np.int64],
    interval: Interval,
    draws: _Draws,
) -> Difference:
    return Difference(
        metric=metric,
        first=first.method,
        second=second.method,
        control=second.control,
        side=where.side,
        fill=where.fill,
        map=where.map,
        queries=draws.count(units),
        pairs=len(units),
        interval=interval,
        separated=_separated(interval, BETTER[metric]),
    )


def _separated(interval: Interval, better: Better) -> Literal["better", "worse"] | None:
    if not (interval.low > _ROUNDING or interval.high < -_ROUNDING):
        return None
    return "better" if (interval.low > 0) == (better == "higher") else "worse"


def _verdicts(measures: Sequence[Measure], limit: float) -> list[Verdict]:
    """The verdict of everything whose sanity was measured, and that of any other method: none.

    There are no verdicts where nobody's sanity was measured.
    """
    cascades: dict[tuple[bool, str, MeasurementSetting], list[Measure]] = defaultdict(list)
    for one in measures:
        if one.metric == "sanity":
            cascades[one.control, one.method, setting_of(one)].append(one)
    if not cascades:
        return []
    several = len({where for _, _, where in cascades}) > 1
    tried = {method for control, method, _ in cascades if not control}
    for one in measures:
        if not one.control and one.metric in (*CURVES, *REGIONS) and one.method not in tried:
            cascades[False, one.method, MeasurementSetting(None, None, None)] = []
    found = []
    for control, method, where in sorted(cascades, key=lambda key: (*key[:2], sortable(key[2]))):
        place = f" ({described(where)})" if several and described(where) else ""
        label = name_of(method, control) + place
        found.append(_verdict(label, (method, control), where, cascades[control, method, where], limit))
    return found


def _verdict(
    label: str, whose: tuple[str, bool], where: MeasurementSetting, cascade: Sequence[Measure], limit: float
) -> Verdict:
    """The verdict by the first network of ``cascade`` that is judged and random enough."""
    judged = [
        one
        for one in cascade
        if one.judged and one.depth is not None and one.depth >= HEAD_SHARE and math.isfinite(one.interval.estimate)
    ]
    if not judged:
        text = f"{label}: nothing to judge: no agreement measured with {HEAD_SHARE:.0%} or more of the blocks random"
        return Verdict(*whose, *where, None, None, 0, None, None, False, text.replace("%", " %"))
    one = min(judged, key=depth_order)
    agreement, depth = one.interval, depth_order(one)[0]
    passes, straddles = agreement.estimate < limit, agreement.low < limit <= agreement.high
    text = (
        f"{label}: agreement with the original {interval_text(agreement, 2)} once {percent(depth)} of the blocks are "
        f"random, {'under' if passes else 'not under'} {limit:g}: "
    )
    text += "passes" if passes else f"FAILS: its maps {_dependence(agreement)} what the network has learned"
    if straddles:
        text += f" (not certain: the interval straddles {limit:g})"
    return Verdict(*whose, *where, one.block, depth, one.queries, agreement, passes, straddles, text)


def _dependence(agreement: Interval) -> str:
    return "do not depend on" if agreement.estimate >= SAME else "depend little on"


def record(summary: EvaluationSummary) -> dict[str, Any]:
    """All numbers of ``summary``, as JSON takes them: None where there is no number."""
    return {
        "sanity_limit": summary.sanity_limit,
        "measures": [_plain(asdict(one)) for one in summary.measures],
        "differences": [_plain(asdict(one)) for one in summary.differences],
        "verdicts": [_plain(asdict(one)) for one in summary.verdicts],
        "reasons": dict(sorted(summary.reasons.items())),
        "examples": dict(summary.examples),
    }


def depth_order(one: Measure) -> tuple[float, str]:
    """What the networks of a cascade are sorted by: from the head down, what names no depth first."""
    return (-1.0 if one.depth is None else one.depth, one.block or "")


def name_of(method: str, control: bool) -> str:
    """A method or control as it is shown, cut where it is long, with nothing in it that acts on a terminal."""
    return cut(printable(method), LONGEST_NAME) + (" (control)" if control else "")


def unrelated_named(controls: Iterable[str]) -> dict[str, str]:
    """How those of ``controls`` that are other queries' maps are shown: by their method, where there are several."""
    found = sorted({name for name in controls if name.startswith(_OF_UNRELATED)})
    if len(found) == 1:
        return {found[0]: UNRELATED}
    return {name: f"{UNRELATED} of {name.removeprefix(_OF_UNRELATED)}" for name in found}


def interval_text(interval: Interval, digits: int, sign: str = "") -> str:
    """An interval; without bounds the estimate alone, and "-" where nothing was measured."""
    form = f"{sign}.{digits}f"
    if not math.isfinite(interval.estimate):
        return "-"
    estimate = f"{interval.estimate:{form}}"
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return estimate
    return f"{estimate} ({interval.low:{form}} to {interval.high:{form}})"


def percent(share: float) -> str:
    """Such as "53 %"."""
    return f"{100 * share:.0f} %"


def setting_of(one: Measure | Difference | _Key) -> MeasurementSetting:
    """Where ``one`` was measured."""
    return MeasurementSetting(one.side, one.fill, one.map)


def described(where: MeasurementSetting) -> str:
    """Such as "reference side, fill white, stored maps"; the query's side goes without saying."""
    parts = (
        f"{where.side} side" if where.side not in (None, "query") else "",
        f"fill {where.fill}" if where.fill else "",
        f"{where.map} maps" if where.map else "",
    )
    return printable(", ".join(filter(None, parts)))


def _plain(value: Any) -> Any:
    """``value`` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
