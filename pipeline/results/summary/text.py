"""A summary in words and tables for people, and as one flat table for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from pipeline.results.summary.quantities import MAIN, Quantity
from pipeline.results.summary.summarise import VALUES, RunSummary
from pipeline.results.summary.sums import Estimate
from pipeline.text.tables import columns, cut, printable
from transforms.core.messages import listed, quoted
from transforms.core.statistics.bootstrap import Interval

WIDTH = 110
"""Columns of a terminal that sentences fill at most."""

_LONGEST = 32
_LABELS = {
    "failed": "failed",
    "failed_in_part": "failed in any method or side",
    "explained": "explained",
    "unexplained": "  not explained: {}",
    "first_attribute": "first attribute {}",
    "contradicted_on_reference": "first attribute not on the reference*",
    "contradicted_on_query": "first attribute not on the query*",
    "peak_in_border": "peak in the border eighth",
    "border_over_area": "more evidence in the border than area",
    "background_over_area": "more evidence on background than area",
    "region_peak": "peak in {}",
    "off_served_score": "similarity off the served score",
    "similarity": "similarity",
    "border_share": "evidence in the border",
    "border_area": "  area of the border",
    "background_share": "evidence on the background",
    "background_area": "  area of the background",
    "entropy": "entropy of the map",
    "map_reliability": "reliability of the map",
    "null_agreement": "agreement with any reference's map",
    "region_share": "evidence in {}",
    "region_area": "  area of {}",
}
_HEADS = {
    "failed": "failed",
    "explained": "explained",
    "contradicted_on_reference": "not on reference*",
    "peak_in_border": "peak in border",
    "similarity": "similarity",
}
_AS_PERCENT = ("border_share", "border_area", "background_share", "background_area", "region_share", "region_area")
_CATALOGUE = "* As the catalogue says, of the pairs about which it says something."


def lines(summary: RunSummary) -> list[str]:
    """What a terminal shows: the sample, a table, and what is to be known of it."""
    found = [_run(summary), _sampled(summary), ""]
    found += _by_value(summary) if summary.by is not None else table(summary, summary.estimates)
    notes_ = notes(summary)
    return found + ([""] if notes_ else []) + [line for note in notes_ for line in wrapped(note)]


def table(summary: RunSummary, some: Sequence[Estimate]) -> list[str]:
    """``some`` of the lines of ``summary``, a row each."""
    head = ["", "estimate", "95 % interval", "pairs", "queries"]
    rows = [
        [
            label(line.quantity),
            estimate_text(line),
            interval_text(line, summary.is_exact),
            f"{line.pairs:,}",
            f"{line.queries:,}",
        ]
        for line in some
    ]
    return _aligned([head, *rows])


def flat(summary: RunSummary) -> pa.Table:
    """A row for each estimate, for programs. ``low`` and ``high`` are null where there are too few queries."""
    groups: Mapping[str | None, Sequence[Estimate]] = (
        {group.value: group.estimates for group in summary.groups}
        if summary.by is not None
        else {None: summary.estimates}
    )
    rows = [
        {
            "run_id": summary.run_id,
            "of": summary.population,
            "method": summary.selection.method,
            "side": summary.selection.side,
            "by": summary.by,
            "group": group,
            "quantity": line.quantity.name,
            "value": line.quantity.value,
            "kind": line.quantity.kind,
            "estimate": line.interval.estimate,
            "low": _or_none(line.interval.low),
            "high": _or_none(line.interval.high),
            "exact": summary.is_exact,
            "pairs": line.pairs,
            "queries": line.queries,
        }
        for group, some in groups.items()
        for line in some
    ]
    return pa.Table.from_pylist(rows, _FLAT)


_FLAT = pa.schema(
    {name: pa.string() for name in ("run_id", "of", "method", "side", "by", "group", "quantity", "value", "kind")}
    | {name: pa.float64() for name in ("estimate", "low", "high")}
    | {"exact": pa.bool_(), "pairs": pa.int64(), "queries": pa.int64()}
)


def notes(summary: RunSummary) -> list[str]:
    """What is to be known beside the numbers, a sentence or two each."""
    return [printable(note) for note in _notes(summary)]


def _notes(summary: RunSummary) -> Iterator[str]:
    sample = summary.sample
    shown = {line.quantity.name for line in summary.estimates}
    shown |= {line.quantity.name for group in summary.groups for line in group.estimates}
    if shown & {"contradicted_on_reference", "contradicted_on_query"}:
        yield _CATALOGUE
    if "off_served_score" in shown:
        yield f"Off the served score: by more than {summary.tolerance:g}, of the pairs with a served score."
    if summary.is_exact:
        yield (
            "Exact: every query of this catalogue was looked at. For queries like these, of which it is itself a "
            "sample, --of process has intervals."
        )
    else:
        whole = "this catalogue" if summary.population == "catalogue" else "what makes queries like these"
        yield f"Estimates are of {whole}; intervals are bootstraps over queries, stratified and weighted."
    if summary.selection.side == "reference":
        yield "Pairs that share a reference are nearly one observation, too: these intervals are rather too narrow."
    if sample.unseen:
        unseen = sum(one.pairs for one in sample.unseen)
        yield (
            f"No query was sampled of {listed([one.name for one in sample.unseen], 10)} ({unseen:,} pairs): other "
            "strata stand for them. --min-queries samples some of each."
        )
    if summary.merged and not summary.is_exact:
        yield f"Too few queries for intervals of their own, put together as one: {listed(summary.merged, 10)}."
    if sample.gone > 0:
        are, them = ("is", "it") if sample.gone == 1 else ("are", "them")
        yield f"{sample.gone:,} of the sampled queries {are} no longer in the tables; the others stand for {them}."
    yield from _left_out(summary)
    if summary.unsaid:
        said = ", ".join(label(one).strip().removesuffix("*") for one in summary.unsaid)
        why = "the run has no such information" if summary.explanations else "nothing was explained"
        yield f"Nothing can be said of: {said}. Of these, {why}."


def _left_out(summary: RunSummary) -> Iterator[str]:
    if summary.hidden:
        share = 1 - math.fsum(group.share for group in summary.groups)
        pairs = f"{percent(max(0.0, share))} % of the pairs"
        yield f"{summary.hidden:,} more values, with {pairs}, are not among these {VALUES}."
    if summary.silent:
        yield f"Failed pairs do not say their {quoted(summary.by or '')}: they are in no row."
    if summary.by is not None and summary.unreadable:
        yield f"{summary.unreadable:,} rows of the manifest have no readable query; they are in no row."
    others = [name for name in summary.methods if name != summary.selection.method] if summary.selection.method else []
    sides = [name for name in summary.sides if name != summary.selection.side] if summary.selection.side else []
    if others or sides:
        options = [f"--method {name}" for name in others] + [f"--side {name}" for name in sides]
        yield f"The run has more explanations of each pair: {', '.join(options)}."


def label(one: Quantity) -> str:
    """What people read in place of a quantity's name."""
    return _LABELS[one.name].format(cut(printable(one.value or ""), _LONGEST))


def estimate_text(line: Estimate) -> str:
    """Such as "12.3 %", or "0.750" for what is no share."""
    value = line.interval.estimate
    return f"{100 * value:.1f} %" if _is_percent(line.quantity) else f"{value:.3f}"


def interval_text(line: Estimate, exact: bool) -> str:
    """Such as "10.1 to 14.9 %"."""
    interval = line.interval
    if exact:
        return "exact"
    if not _has_bounds(interval):
        return "too few queries"
    if _is_percent(line.quantity):
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def percent(share: float) -> str:
    """Such as "12", or "1.2" where two digits say more."""
    return f"{100 * share:.0f}" if share >= 0.0995 or share == 0 else f"{100 * share:.1f}"


def wrapped(text: str) -> list[str]:
    """``text`` in lines of at most ``WIDTH`` columns."""
    # a number and its percent sign stay on one line
    broken = textwrap.wrap(text.replace(" %", "\xa0%"), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in broken]


def _run(summary: RunSummary) -> str:
    which = summary.selection
    method = f", {which.method}" if which.method else ""
    side = f" of the {which.side}" if which.side and method else ""
    return printable(f"run        {summary.run_id}, started {summary.started:%Y-%m-%d %H:%M}{method}{side}")


def _sampled(summary: RunSummary) -> str:
    sample = summary.sample
    queries, pairs = (sum(getattr(one, name) for one in sample.strata.values()) for name in ("queries", "pairs"))
    found = sum(sample.found.values())
    text = f"sampled    {found:,} of {queries:,} queries"
    if not sample.is_whole:
        taken = sum(one.sampled_pairs for one in sample.strata.values())
        text += f", {taken:,} of {pairs:,} pairs"
    if sample.column is not None:
        count = len(sample.strata)
        text += f", {count:,} {'stratum' if count == 1 else 'strata'} by {quoted(sample.column)}"
    if not sample.is_whole and sample.seed is not None:
        text += f", seed {sample.seed}"
    return printable(text)


def _by_value(summary: RunSummary) -> list[str]:
    said = {line.quantity for group in summary.groups for line in group.estimates}
    shown = [one for one in MAIN if one in said]
    head = [printable(summary.by or ""), "pairs", "share", *(_HEADS[one.name] for one in shown)]
    rows = []
    for group in summary.groups:
        found = {line.quantity: line for line in group.estimates}
        cells = [_cell(found[one], summary.is_exact) if one in found else "-" for one in shown]
        rows.append([cut(printable(group.value), _LONGEST), f"{group.pairs:,}", f"{percent(group.share)} %", *cells])
    return _aligned([[cut(head[0], _LONGEST), *head[1:]], *rows])


def _cell(line: Estimate, exact: bool) -> str:
    """An estimate and its interval, short."""
    interval = line.interval
    form = percent if _is_percent(line.quantity) else "{:.2f}".format
    unit = " %" if _is_percent(line.quantity) else ""
    text = f"{form(interval.estimate)}{unit}"
    if exact or not _has_bounds(interval):
        return text + ("" if exact else " (?)")
    return f"{text} ({form(interval.low)} to {form(interval.high)})"


def _is_percent(one: Quantity) -> bool:
    return one.kind == "rate" or one.name in _AS_PERCENT


def _has_bounds(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: labels to the left, all others to the right, a rule under the header."""
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    shown = []
    for row in (rows[0], ["-" * width for width in widths], *rows[1:]):
        spaces = [" " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = zip(row, spaces, strict=True)
        shown.append("  ".join(["".join(first), *(space + cell for cell, space in others)]).rstrip())
    return shown
