"""The picture of the mean curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.pictures.drawing import COLOURS, label_of, new_figure, place_of, save
from pipeline.evaluation.pictures.mean_curves import DRAWN, CurveKey, MeanCurve
from pipeline.evaluation.summary.wording import unrelated_named
from transforms.core.statistics.bootstrap import Interval

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (10, 3)), (0, (4, 1, 1, 1, 1, 1)))
_GREYS = ("#444444", "#777777", "#999999")


def draw_curves(curves: Mapping[CurveKey, MeanCurve], path: Path) -> bool:
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
    styles = styles_of(curves)
    entries = max(Counter((line.metric, line.side, line.fill) for line in curves).values())
    figure = new_figure(len(places) * (3.7 + 0.19 * entries))
    panels = figure.subplots(len(places), len(DRAWN), squeeze=False)
    for (side, fill), row in zip(places, panels, strict=True):
        for metric, axis in zip(DRAWN, row, strict=True):
            drawn = {
                line: curve
                for line, curve in curves.items()
                if (line.metric, line.side or "", line.fill or "") == (metric, side, fill)
            }
            _panel(axis, metric, drawn, styles)
            axis.set_title(_titled(metric, side, fill, {curve.map for curve in drawn.values()}), fontsize=10)
    save(figure, path)
    return True


def styles_of(lines: Iterable[CurveKey]) -> dict[tuple[str, bool], dict[str, Any]]:
    """How each method and control is drawn, the same in all panels."""
    names = sorted({(line.method, line.control) for line in lines})
    methods = [name for name in names if not name[1]]
    controls = [name for name in names if name[1]]
    styles: dict[tuple[str, bool], dict[str, Any]] = {}
    for at, name in enumerate(methods):
        again, colour = divmod(at, len(COLOURS))  # a ninth method has the first's colour, and another marker
        marker = _MARKERS[(colour + again) % len(_MARKERS)]
        styles[name] = {"color": COLOURS[colour], "linestyle": "-", "marker": marker, "zorder": 3}
    for at, name in enumerate(controls):
        styles[name] = {"color": _GREYS[at % len(_GREYS)], "linestyle": _DASHES[at % len(_DASHES)], "zorder": 2}
    return styles


def _panel(
    axis: Any, metric: str, drawn: Mapping[CurveKey, MeanCurve], styles: Mapping[tuple[str, bool], Mapping[str, Any]]
) -> None:
    more = DRAWN[metric].better == "higher"
    sign = -1 if more else 1
    for at, line in enumerate(sorted(drawn, key=lambda line: (line.control, sign * drawn[line].area.estimate, line))):
        curve, style = drawn[line], styles[line.method, line.control]
        steps = len(curve.mean) - 1
        share, every = np.linspace(0, 1, steps + 1), max(1, steps // 8)
        label = f"{label_of(line.method, line.control)}  {_numbers(curve.area)}"
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
    axis.set_xlabel(f"share of the pixels {'shown' if DRAWN[metric].shown else 'hidden'}, the most salient first")
    axis.grid(alpha=0.25)
    if drawn:
        better = "more" if more else "less"
        axis.legend(
            title=f"area (95 % interval), {better} is better", loc="upper center", bbox_to_anchor=(0.5, -0.16),
            fontsize=8, title_fontsize=8, frameon=False, handlelength=4,
        )  # fmt: skip


def _numbers(interval: Interval) -> str:
    return interval.text(3) if np.isfinite(interval.low) else f"{interval.estimate:.3f}"


def _titled(metric: str, side: str, fill: str, maps: set[str | None]) -> str:
    place = place_of(side, fill, maps)
    return f"{metric} ({place})" if place else metric
