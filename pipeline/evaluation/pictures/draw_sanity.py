"""The picture of the sanity cascades: how maps change as the network's blocks become random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.pictures.drawing import COLOURS, label_of, new_figure, place_of, save
from pipeline.evaluation.summary.findings import EvaluationSummary, Measure
from transforms.core.metrics.registry import AGREEMENTS, family_of, levels, needing
from transforms.core.statistics.bootstrap import Interval

_LEVEL_COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#CC79A7")
_LEVEL_DASHES = ((0, (6, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (2, 2)))
_LEVELS = tuple(
    (level.name, level.label, colour, dashes)
    for level, colour, dashes in zip(levels(), cycle(_LEVEL_COLOURS), cycle(_LEVEL_DASHES), strict=False)
)
_COLUMNS = 3
JUDGED, UNJUDGED = "judged", "not judged: only a linear head is random"
_LEGEND = (JUDGED, UNJUDGED, *(label for _, label, _, _ in _LEVELS))


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
    figure = new_figure((2.6 if down > 1 else 3.2) * down + 1.0)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    low = min(0.0, *(_bounds(one.interval)[0] for one in summary.measures if family_of(one.metric) is AGREEMENTS))
    for owner, axis in zip(owners, panels.flat, strict=False):
        method, control, side, fill, map_ = owner
        _cascade(axis, cascades[owner], _levels(summary, owner), summary.sanity_limit)
        title = label_of(method, control)
        if several:
            title += "\n" + place_of(side or "", fill or "", {map_})
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(-0.02, 1.02), ylim=(low - 0.05, 1.05))
        axis.grid(alpha=0.25)
    _name_axes(panels, len(owners))
    _add_legend(figure, panels)
    save(figure, path)
    return True


def _name_axes(panels: Any, drawn: int) -> None:
    """Names the outer axes of ``panels`` [down, across], the first ``drawn`` of which have something in them."""
    for axis in panels.flat[drawn:]:
        axis.set_axis_off()
    for at, axis in enumerate(panels.flat):
        if at < drawn <= at + panels.shape[1]:  # nothing below it
            axis.set_xlabel("share of the blocks that are random")
            axis.tick_params(labelbottom=True)
    for axis in panels[:, 0]:
        axis.set_ylabel("agreement with the own map")


def _add_legend(figure: Any, panels: Any) -> None:
    """One legend of all panels, in the order of ``_LEGEND``."""
    handles = {
        label: handle for axis in panels.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in _LEGEND if label in handles] + [label for label in handles if label not in _LEGEND]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )


def _cascade(axis: Any, cascade: Sequence[Measure], found: Mapping[str, Interval], limit: float) -> None:
    for metric, label, colour, dashes in _LEVELS:
        if metric in found:
            low, high = _bounds(found[metric])
            axis.axhline(found[metric].estimate, color=colour, linestyle=dashes, linewidth=1.5, label=label)
            axis.axhspan(low, high, color=colour, alpha=0.13, linewidth=0)
    axis.axhline(limit, color="black", linewidth=0.8, label=f"limit, {limit:g}: below it a method passes")
    points = sorted(cascade, key=lambda one: (one.depth or 0.0, one.block or ""))
    axis.plot([one.depth for one in points], [one.interval.estimate for one in points], color=COLOURS[0], linewidth=1)
    for judged in (True, False):
        some = [one for one in points if bool(one.judged) == judged]
        if some:
            middle = [one.interval.estimate for one in some]
            bars = np.array([_bounds(one.interval) for one in some]).T
            axis.errorbar(
                [one.depth for one in some], middle, yerr=np.maximum([middle - bars[0], bars[1] - middle], 0),
                fmt="o", color=COLOURS[0], markerfacecolor=COLOURS[0] if judged else "white", markersize=5,
                capsize=3, linewidth=1, label=JUDGED if judged else UNJUDGED,
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
