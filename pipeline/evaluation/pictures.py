"""The pictures of an evaluation: mean insertion and deletion curves, and how maps change as blocks become random.

Equal rows give equal bytes, with one version of matplotlib. It is imported only where something is drawn.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.summary.findings import EvaluationSummary, Measure
from pipeline.evaluation.summary.samples import explained_product
from pipeline.evaluation.summary.wording import LONGEST_NAME, unrelated_named
from pipeline.text.tables import cut, printable
from transforms.core.errors import MissingDependency
from transforms.core.metrics import curves as metrics
from transforms.core.metrics.metric import CurveMetric
from transforms.core.metrics.registry import AGREEMENTS, family_of, levels, needing, of_kind
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval, means_by_query
from transforms.tables import Row

# Okabe and Ito's colours, which colour-blind readers tell apart; for their yellow, lost on white paper, Tol's wine
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (10, 3)), (0, (4, 1, 1, 1, 1, 1)))
_GREYS = ("#444444", "#777777", "#999999")
_LEVEL_COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#CC79A7")
_LEVEL_DASHES = ((0, (6, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (2, 2)))
_LEVELS = tuple(
    (level.name, level.label, colour, dashes)
    for level, colour, dashes in zip(levels(), cycle(_LEVEL_COLOURS), cycle(_LEVEL_DASHES), strict=False)
)
_DRAWN = {metric.name: metric for metric in of_kind(CurveMetric) if metric.keeps_curve}
_WIDTH, _DPI = 10.0, 100  # 1000 pixels
_COLUMNS = 3


class CurveKey(NamedTuple):
    """What has one curve. ``metric`` is one whose rows have curves."""

    metric: str
    method: str
    control: bool
    side: str | None
    fill: str | None


@dataclass(frozen=True, eq=False)
class Curve:
    """The mean of the pairs' normalised curves, with the pointwise 95 % interval over queries.

    ``mean``, ``low`` and ``high`` are float64 [T] in [0, 1], at T equally spaced shares of the pixels; bounds are NaN
    with one query. ``area`` is that under the mean, so the mean of the pairs' areas. ``map``: which was measured.
    """

    mean: Float64 = field(repr=False)
    low: Float64 = field(repr=False)
    high: Float64 = field(repr=False)
    area: Interval
    map: str | None
    pairs: int
    queries: int


class _Kept(NamedTuple):
    """The pairs of one line and map: ids, weights, and curves one after the other, T float32 each.

    The first id is that of the explained product, over which is resampled.
    """

    ids: list[tuple[str, str]]
    weights: array[float]
    values: array[float]


def curves(rows: Iterable[Row], *, resamples: int = 10_000, seed: int = 0) -> dict[CurveKey, Curve]:
    """The mean curves of ``rows``, in whose order nothing depends; rows without a curve are passed over.

    Each pair's curve is normalised by itself (:func:`transforms.core.metrics.curves.curve`). Where both the stored and
    the full map of a method were measured, its line is that of the stored: the map that readers of the table have.
    ValueError where curves of one line differ in their number of points.
    """
    kept: dict[tuple[CurveKey, str | None], _Kept] = {}
    for row in rows:
        scores = row.get("curve")
        if row["metric"] not in _DRAWN or scores is None or row["value"] is None:
            continue
        line = CurveKey(row["metric"], row["method"] or "", bool(row["control"]), row.get("side"), row.get("fill"))
        one = kept.setdefault((line, row.get("map")), _Kept([], array("d"), array("f")))
        if len(scores) * len(one.ids) != len(one.values):
            points = len(one.values) // len(one.ids)
            raise ValueError(f"curves of one line have one number of points, got {points} and then {len(scores)}")
        one.ids.append((explained_product(row), row.get("pair_id") or ""))
        one.weights.append(1.0 if row.get("weight") is None else row["weight"])
        one.values.extend(metrics.curve(np.asarray(scores, np.float64)).normalised)
    chosen: dict[CurveKey, str | None] = {}
    for line, map_ in sorted(kept, key=lambda key: (key[1] == "stored", key[1] or "")):
        chosen[line] = map_
    order = sorted(chosen, key=lambda line: (line[:3], line.side or "", line.fill or ""))
    return {line: _curve(kept[line, chosen[line]], chosen[line], resamples, seed) for line in order}


def draw_curves(curves: Mapping[CurveKey, Curve], path: Path) -> bool:
    """Draws ``curves`` as a PNG 1000 pixels wide: a row a side and fill, insertion to the left, deletion to the right.

    Methods are coloured and in the order of their areas, the best first; controls are grey and dashed. Returns whether
    there was anything to draw; if not, nothing is written. MissingDependency without matplotlib.
    """
    names = unrelated_named(line.method for line in curves if line.control)
    curves = {
        line._replace(method=names.get(line.method, line.method)) if line.control else line: curve
        for line, curve in curves.items()
    }
    places = sorted({(line.side or "", line.fill or "") for line in curves})
    if not places:
        return False
    styles = _styles(curves)
    entries = max(Counter((line.metric, line.side, line.fill) for line in curves).values())
    figure = _figure(len(places) * (3.7 + 0.19 * entries))
    panels = figure.subplots(len(places), len(_DRAWN), squeeze=False)
    for (side, fill), row in zip(places, panels, strict=True):
        for metric, axis in zip(_DRAWN, row, strict=True):
            drawn = {
                line: curve
                for line, curve in curves.items()
                if (line.metric, line.side or "", line.fill or "") == (metric, side, fill)
            }
            _panel(axis, metric, drawn, styles)
            axis.set_title(_titled(metric, side, fill, {curve.map for curve in drawn.values()}), fontsize=10)
    _save(figure, path)
    return True


def draw_sanity(summary: EvaluationSummary, path: Path) -> bool:
    """Draws how far each method's maps agree with its own as the network's blocks become random, from the head down.

    A panel a method, controls last; a PNG 1000 pixels wide. Points have the interval over queries; a hollow one is not
    judged. Lines are what the agreements are to be read against. Returns whether there was anything to draw; if not,
    nothing is written. MissingDependency without matplotlib.
    """
    cascades: dict[tuple[Any, ...], list[Measure]] = {}
    for one in summary.measures:
        if one.metric in needing("cascade") and one.depth is not None and np.isfinite(one.interval.estimate):
            cascades.setdefault(_owner(one), []).append(one)
    if not cascades:
        return False
    owners = sorted(cascades, key=lambda owner: (owner[1], owner[0], *(part or "" for part in owner[2:])))
    several = len({owner[2:] for owner in owners}) > 1
    across = min(_COLUMNS, len(owners))
    down = -(-len(owners) // across)
    figure = _figure((2.6 if down > 1 else 3.2) * down + 1.0)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    low = min(0.0, *(_bounds(one.interval)[0] for one in summary.measures if family_of(one.metric) is AGREEMENTS))
    for owner, axis in zip(owners, panels.flat, strict=False):
        method, control, side, fill, map_ = owner
        _cascade(axis, cascades[owner], _levels(summary, owner), summary.sanity_limit)
        title = _label(method, control)
        if several:
            title += "\n" + _place(side or "", fill or "", {map_})
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(-0.02, 1.02), ylim=(low - 0.05, 1.05))
        axis.grid(alpha=0.25)
    for axis in panels.flat[len(owners) :]:
        axis.set_axis_off()
    for at, axis in enumerate(panels.flat):
        if at < len(owners) <= at + across:  # nothing below it
            axis.set_xlabel("share of the blocks that are random")
            axis.tick_params(labelbottom=True)
    for axis in panels[:, 0]:
        axis.set_ylabel("agreement with the own map")
    handles = {
        label: handle for axis in panels.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in _LEGEND if label in handles] + [label for label in handles if label not in _LEGEND]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    _save(figure, path)
    return True


_JUDGED, _UNJUDGED = "judged", "not judged: only a linear head is random"
_LEGEND = (_JUDGED, _UNJUDGED, *(label for _, label, _, _ in _LEVELS))


def _curve(kept: _Kept, map_: str | None, resamples: int, seed: int) -> Curve:
    pairs = len(kept.ids)
    values, weights = np.array(kept.values, np.float64).reshape(pairs, -1), np.array(kept.weights)
    order = sorted(range(pairs), key=kept.ids.__getitem__)
    queries = [kept.ids[at][0] for at in order]
    areas = np.trapezoid(values, dx=1 / (values.shape[1] - 1), axis=1)
    # the area beside the points, so that it comes of the same resamples
    together = np.column_stack([values, areas])[order]
    found = means_by_query(together, queries, weights=weights[order], resamples=resamples, seed=seed)
    area = Interval(*(float(one[-1]) for one in found))
    mean, low, high = (one[:-1] for one in found)
    return Curve(mean, low, high, area, map_, pairs, len(set(queries)))


def _figure(height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # without pyplot: no display and no state that stays
    except ImportError:
        raise MissingDependency("pictures need matplotlib. Run: pip install 'whymatch[report]'") from None
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # without matplotlib's version in it: of equal pictures the bytes are equal
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def _styles(lines: Iterable[CurveKey]) -> dict[tuple[str, bool], dict[str, Any]]:
    """How each method and control is drawn, the same in all panels."""
    names = sorted({(line.method, line.control) for line in lines})
    methods = [name for name in names if not name[1]]
    controls = [name for name in names if name[1]]
    styles: dict[tuple[str, bool], dict[str, Any]] = {}
    for at, name in enumerate(methods):
        again, colour = divmod(at, len(_COLOURS))  # a ninth method has the first's colour, and another marker
        marker = _MARKERS[(colour + again) % len(_MARKERS)]
        styles[name] = {"color": _COLOURS[colour], "linestyle": "-", "marker": marker, "zorder": 3}
    for at, name in enumerate(controls):
        styles[name] = {"color": _GREYS[at % len(_GREYS)], "linestyle": _DASHES[at % len(_DASHES)], "zorder": 2}
    return styles


def _panel(
    axis: Any, metric: str, drawn: Mapping[CurveKey, Curve], styles: Mapping[tuple[str, bool], Mapping[str, Any]]
) -> None:
    more = _DRAWN[metric].better == "higher"
    sign = -1 if more else 1
    for at, line in enumerate(sorted(drawn, key=lambda line: (line.control, sign * drawn[line].area.estimate, line))):
        curve, style = drawn[line], styles[line.method, line.control]
        steps = len(curve.mean) - 1
        share, every = np.linspace(0, 1, steps + 1), max(1, steps // 8)
        label = f"{_label(line.method, line.control)}  {_numbers(curve.area)}"
        # markers of lines that run together do not hide each other
        axis.plot(
            share,
            curve.mean,
            label=label,
            linewidth=1.5,
            markersize=4,
            markevery=(at * every // 8 % every, every),
            **style,
        )
        if np.isfinite(curve.low).all():
            axis.fill_between(share, curve.low, curve.high, color=style["color"], alpha=0.13, linewidth=0, zorder=1)
    axis.set(xlim=(0, 1), ylim=(0, 1), ylabel="normalised similarity")
    axis.set_xlabel(f"share of the pixels {'shown' if _DRAWN[metric].shown else 'hidden'}, the most salient first")
    axis.grid(alpha=0.25)
    if drawn:
        better = "more" if more else "less"
        axis.legend(
            title=f"area (95 % interval), {better} is better", loc="upper center", bbox_to_anchor=(0.5, -0.16),
            fontsize=8, title_fontsize=8, frameon=False, handlelength=4,
        )  # fmt: skip


def _cascade(axis: Any, cascade: Sequence[Measure], levels: Mapping[str, Interval], limit: float) -> None:
    for metric, label, colour, dashes in _LEVELS:
        if metric in levels:
            low, high = _bounds(levels[metric])
            axis.axhline(levels[metric].estimate, color=colour, linestyle=dashes, linewidth=1.5, label=label)
            axis.axhspan(low, high, color=colour, alpha=0.13, linewidth=0)
    axis.axhline(limit, color="black", linewidth=0.8, label=f"limit, {limit:g}: below it a method passes")
    points = sorted(cascade, key=lambda one: (one.depth or 0.0, one.block or ""))
    axis.plot([one.depth for one in points], [one.interval.estimate for one in points], color=_COLOURS[0], linewidth=1)
    for judged in (True, False):
        some = [one for one in points if bool(one.judged) == judged]
        if some:
            middle = [one.interval.estimate for one in some]
            bars = np.array([_bounds(one.interval) for one in some]).T
            axis.errorbar(
                [one.depth for one in some], middle, yerr=np.maximum([middle - bars[0], bars[1] - middle], 0),
                fmt="o", color=_COLOURS[0], markerfacecolor=_COLOURS[0] if judged else "white", markersize=5,
                capsize=3, linewidth=1, label=_JUDGED if judged else _UNJUDGED,
            )  # fmt: skip


def _levels(summary: EvaluationSummary, owner: tuple[Any, ...]) -> dict[str, Interval]:
    """The agreements of the same method, of the same side, fill and map where there are such."""
    found: dict[str, Interval] = {}
    for metric, *_ in _LEVELS:
        alike = [
            one
            for one in summary.measures
            if one.metric == metric and _owner(one)[:2] == owner[:2] and np.isfinite(one.interval.estimate)
        ]
        if alike:
            nearest = min(
                alike, key=lambda one: [own != wanted for own, wanted in zip(_owner(one), owner, strict=True)]
            )
            found[metric] = nearest.interval
    return found


def _owner(one: Measure) -> tuple[Any, ...]:
    return (one.method, one.control, one.side, one.fill, one.map)


def _bounds(interval: Interval) -> tuple[float, float]:
    """The interval's ends; the estimate twice where it has none."""
    if np.isfinite(interval.low) and np.isfinite(interval.high):
        return interval.low, interval.high
    return interval.estimate, interval.estimate


def _numbers(interval: Interval) -> str:
    return interval.text(3) if np.isfinite(interval.low) else f"{interval.estimate:.3f}"


def _label(method: str, control: bool) -> str:
    """A name that matplotlib takes as text: no formula, and no "_", which would keep it out of the legend."""
    shown = cut(printable(method), LONGEST_NAME).lstrip("_").replace("$", r"\$")
    return f"{shown} (control)" if control else shown


def _titled(metric: str, side: str, fill: str, maps: set[str | None]) -> str:
    place = _place(side, fill, maps)
    return f"{metric} ({place})" if place else metric


def _place(side: str, fill: str, maps: set[str | None]) -> str:
    named = " and ".join(sorted(map_ for map_ in maps if map_))
    parts = (
        f"{side} side" if side not in ("", "query") else "",
        f"fill {fill}" if fill else "",
        f"{named} maps" if named else "",
    )
    return printable(", ".join(filter(None, parts))).replace("$", r"\$")
