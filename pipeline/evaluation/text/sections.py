"""What the text of an evaluation says: a section a family of metrics and setting, then differences and verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.evaluation.summary.findings import Difference, EvaluationSummary, Measure, MeasurementSetting
from pipeline.evaluation.summary.order import depth_order, key_order, metric_order, setting_of, sortable
from pipeline.evaluation.summary.wording import (
    LONGEST_NAME,
    described,
    interval_text,
    name_of,
    percent,
    unrelated_named,
)
from pipeline.evaluation.text.tables import TextCell, TextTable, distinct
from pipeline.text.tables import cut, printable
from transforms.core.errors import NotScored
from transforms.core.metrics.metric import MetricFamily
from transforms.core.metrics.registry import AGREEMENTS, BY_NAME, FAMILIES, RECOGNITION, family_of, needing, note

FEW_QUERIES = 6
"""Of fewer, all differ in one direction by chance in more than 1 of 20 cases, and the interval excludes 0 then."""
_UNJUDGED_NOTE = "These are no failures: attribute removal has nothing to say about such pairs."
_DIFFERENCES_NOTE = (
    "Paired, over the pairs that both have. Better and worse: the first, where the interval excludes 0. Each interval "
    "is for itself: of 20 differences between equals, one lies outside by chance. A ? stands where fewer than "
    f"{FEW_QUERIES} queries speak, which agree by chance too often."
)

_Found = TypeVar("_Found", Measure, Difference)


@dataclass(frozen=True)
class Section:
    title: str
    note: str
    tables: tuple[TextTable, ...] = ()
    items: tuple[str, ...] = ()


def sections(summary: EvaluationSummary, raw_differences: bool) -> Iterator[Section]:
    summary = _with_unrelated_named(summary)
    for family in FAMILIES:
        yield from _family(family, summary)
    others = distinct(one.metric for one in summary.measures if family_of(one.metric) is None)
    yield from _methods("Other metrics", "", others, summary)
    for family in FAMILIES:
        yield from _compared(family, summary, raw_differences)
    if summary.verdicts:
        yield Section("Sanity verdicts", "", items=tuple(printable(one.text) for one in summary.verdicts))
    yield from _without_a_value(summary)


def _family(family: MetricFamily, summary: EvaluationSummary) -> Iterator[Section]:
    metrics = distinct(one.metric for one in summary.measures if family_of(one.metric) is family)
    if family is RECOGNITION:
        precisions = [one for one in summary.measures if one.metric in metrics]
        if precisions:
            yield Section(family.heading, note(family), items=tuple(map(_precision, precisions)))
    elif family is AGREEMENTS:
        yield from _sanity(summary)
    else:
        yield from _methods(family.heading, note(family), metrics, summary)


def _with_unrelated_named(summary: EvaluationSummary) -> EvaluationSummary:
    """``summary`` with other queries' maps under the names that they are shown by."""
    names = unrelated_named(one.method for one in summary.measures if one.control)
    measures = (
        replace(one, method=names.get(one.method, one.method)) if one.control else one for one in summary.measures
    )
    differences = (
        replace(one, second=names.get(one.second, one.second)) if one.control else one for one in summary.differences
    )
    return replace(summary, measures=tuple(measures), differences=tuple(differences))


def _methods(title: str, remark: str, metrics: Sequence[str], summary: EvaluationSummary) -> Iterator[Section]:
    """A section a place (side, fill, map): methods, then controls, against metrics."""
    measures = [one for one in summary.measures if one.metric in metrics]
    for place in _places(measures):
        here = _at(measures, place)
        cells = {(_row_label(one), _name(one.metric)): _cell(one) for one in here}
        ordered = sorted(here, key=lambda one: (one.control, key_order(one)[1:]))
        table = TextTable(
            "method", distinct(map(_row_label, ordered)), distinct(_name(one.metric) for one in here), cells
        )
        yield Section(_titled(title, place), remark, (table,), tuple(_not_judged(here)))


def _not_judged(measures: Iterable[Measure]) -> Iterator[str]:
    """How many pairs attribute removal cannot judge, and why; methods of which the same holds together."""
    alike: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
    for one in measures:
        if one.metric == "removal" and one.not_scored:
            alike[one.not_scored].append(_row_label(one))
    for reasons, labels in alike.items():
        pairs = sum(count for _, count in reasons)
        shares = [f"{why} ({count:,})" if len(reasons) > 1 else why for why, count in reasons]
        text = f"{', '.join(labels)}: {pairs:,} {'pair' if pairs == 1 else 'pairs'} cannot be judged"
        yield ": ".join(filter(None, (text, printable("; ".join(shares)))))


def _sanity(summary: EvaluationSummary) -> Iterator[Section]:
    agreements = [one for one in summary.measures if family_of(one.metric) is AGREEMENTS]
    for place in _places(agreements):
        yield Section(_titled(AGREEMENTS.heading, place), note(AGREEMENTS), (_cascades(_at(agreements, place)),))


def _cascades(measures: Sequence[Measure]) -> TextTable:
    """Networks from the head down, then the levels to read them against; a column a method."""
    cells = {(_network(one), name_of(one.method, one.control)): _cell(one) for one in measures}
    methods = sorted({(one.control, one.method) for one in measures})
    return TextTable(
        "the map of, or with",
        distinct(
            _network(one) for one in sorted(measures, key=lambda one: (metric_order(one.metric), depth_order(one)))
        ),
        tuple(name_of(method, control) for control, method in methods),
        cells,
    )


def _compared(family: MetricFamily, summary: EvaluationSummary, raw_differences: bool) -> Iterator[Section]:
    differences = [
        one
        for one in summary.differences
        if family_of(one.metric) is family and (raw_differences or BY_NAME[one.metric].differences == "printed")
    ]
    for place in _places(differences):
        table = _compared_table(_at(differences, place))
        yield Section(_titled("Differences", place), _DIFFERENCES_NOTE, (table,))


def _compared_table(differences: Sequence[Difference]) -> TextTable:
    cells = {}
    for one in differences:
        text = " ".join(filter(None, (interval_text(one.interval, 3, sign="+"), one.separated)))
        if one.separated and one.queries < FEW_QUERIES:
            text += "?"
        row = f"{name_of(one.first, False)} − {name_of(one.second, one.control)}"
        cells[row, _name(one.metric)] = TextCell(text, one.queries, one.pairs)
    return TextTable("first − second", distinct(row for row, _ in cells), distinct(name for _, name in cells), cells)


def _without_a_value(summary: EvaluationSummary) -> Iterator[Section]:
    """What failed, and apart from it what cannot be judged."""
    counts = sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0]))
    for title, remark, unjudged in (("Failures", "", False), ("Not judged", _UNJUDGED_NOTE, True)):
        chosen = [(reason, count) for reason, count in counts if (reason == NotScored.reason) is unjudged]
        items = tuple(_missing(reason, count, summary.examples.get(reason)) for reason, count in chosen)
        if items:
            yield Section(title, remark, items=items)


def _missing(reason: str, count: int, example: str | None) -> str:
    return printable(f"{count:,} without a value: {reason}" + (f", such as: {example}" if example else ""))


def _precision(one: Measure) -> str:
    where = f"{name_of(one.method, one.control)}: " if one.method else ""
    failed = f", {one.failed:,} more failed" if one.failed else ""
    return f"{where}mean {interval_text(one.interval, 3)} of {one.attributes:,} attributes{failed}"


def _network(one: Measure) -> str:
    """A row of the sanity table."""
    if one.metric not in needing("cascade"):
        return _name(one.metric)
    block = f", from {cut(printable(one.block), LONGEST_NAME)} up" if one.block else ""
    return f"{percent(one.depth)} random{block}{'' if one.judged else ' *'}" if one.depth is not None else "random"


def _row_label(one: Measure) -> str:
    details = [one.block or "", "" if one.depth is None else percent(one.depth)]
    return " ".join(filter(None, (name_of(one.method, one.control), *map(printable, details))))


def _name(metric: str) -> str:
    """A metric as it is shown: one that is not known by what its rows call it."""
    return (BY_NAME[metric].label or metric) if metric in BY_NAME else printable(metric)


def _cell(one: Measure) -> TextCell:
    not_judged = sum(count for _, count in one.not_scored)
    return TextCell(interval_text(one.interval, 3), one.queries, one.pairs, one.failed - not_judged, not_judged)


def _places(found: Iterable[Measure | Difference]) -> list[MeasurementSetting]:
    return sorted({setting_of(one) for one in found}, key=sortable)


def _at(found: Iterable[_Found], where: MeasurementSetting) -> list[_Found]:
    return [one for one in found if setting_of(one) == where]


def _titled(title: str, where: MeasurementSetting) -> str:
    return f"{title} ({described(where)})" if described(where) else title
