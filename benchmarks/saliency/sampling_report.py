"""The page and the plot of ``benchmarks.saliency.sampling``: what was measured, and what it says of passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.machine import markdown_table, paragraph, processor, versions
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Index, Interval, bootstrap, mean

INDEPENDENT = "independent, average"
"""The contender that all others are measured against: the paper's."""

Counts = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Measured:
    """One network's correlations with the reference map: for each contender [number of counts, photographs].

    ``halves`` [photographs] correlates the two halves of the reference map's own masks.
    """

    network: str
    counts: Counts
    correlations: Mapping[str, Float64]
    halves: Float64


@dataclass(frozen=True, eq=False)
class Localised:
    """For each contender the peak's distance from the badge's centre, in pixels, and the map's AUC as its classifier.

    Both are [number of counts, queries, seeds, references]; ``size`` is the frame (H, W).
    """

    size: tuple[int, int]
    counts: Counts
    distance: Mapping[str, Float64]
    auc: Mapping[str, Float64]


def passes_for(correlation: float, counts: Sequence[int], correlations: Float64) -> float:
    """How many masks reach ``correlation``, where ``counts`` of them reach ``correlations``; clipped to the counts.

    The error of a mean falls as 1 / N, so that 1 / r² - 1 = c / N: interpolated linearly in the logarithms of both
    sides. What a longer run has lost again by chance counts as not lost.
    """
    reached = np.maximum.accumulate(np.clip(correlations, 1e-6, 1 - 1e-12))
    wanted = np.clip(correlation, 1e-6, 1 - 1e-12)
    # rising in r, as np.interp needs; of equal values it takes the last, the most masks
    return float(np.exp(np.interp(_odds(wanted), _odds(reached), np.log(counts))))


def saving(measured: Measured, contender: str, at: int) -> str:
    """How many times the passes of ``contender`` at its count number ``at`` independent masks need for the same r.

    With a 95 % interval over photographs; ``>`` and ``<`` where the independent masks measured do not reach so far.
    """
    n, counts = measured.counts[contender][at], measured.counts[INDEPENDENT]
    baseline, own = measured.correlations[INDEPENDENT], measured.correlations[contender][at]

    def ratio(drawn: Index) -> float:
        return passes_for(float(own[drawn].mean()), counts, baseline[:, drawn].mean(axis=1)) / n

    found = bootstrap(ratio, len(own))
    if found.estimate >= counts[-1] / n * (1 - 1e-9):
        return f"> {counts[-1] / n:.1f}"
    if found.estimate <= counts[0] / n * (1 + 1e-9) and own.mean() < baseline[0].mean():
        return f"< {counts[0] / n:.1f}"
    beyond = "> " if found.high >= counts[-1] / n * (1 - 1e-9) else ""
    return f"{found.estimate:.1f} ({found.low:.1f} to {beyond}{found.high:.1f})"


def median_distance(found: Localised, contender: str, at: int) -> Interval:
    """The median over pairs and seeds, with an interval over queries."""
    values = found.distance[contender][at]
    return bootstrap(lambda drawn: float(np.median(values[drawn])), len(values))


def mean_auc(found: Localised, contender: str, at: int) -> Interval:
    """The mean over pairs and seeds, with an interval over queries."""
    return mean(found.auc[contender][at].mean(axis=(1, 2)))


def distance_difference(found: Localised, contender: str, at: int, baseline: int) -> Interval:
    """The median distance less that of independent masks at count number ``baseline``, on the same queries."""
    own, other = found.distance[contender][at], found.distance[INDEPENDENT][baseline]
    return bootstrap(lambda drawn: float(np.median(own[drawn]) - np.median(other[drawn])), len(own))


def auc_difference(found: Localised, contender: str, at: int, baseline: int) -> Interval:
    """The mean AUC less that of independent masks at count number ``baseline``, on the same queries."""
    return mean((found.auc[contender][at] - found.auc[INDEPENDENT][baseline]).mean(axis=(1, 2)))


def page(
    measured: Sequence[Measured], localised: Localised, reference: int, seeds: int, cost: str, picture: str
) -> str:
    """The whole Markdown page."""
    photographs = len(measured[0].halves)
    what = f"""{date.today().isoformat()}. {processor()}. {versions("onnxruntime", "numpy", "scipy")}. {cost} Made by"""
    how = f"""RISE, 8 × 8 cells, p = 0.5, fill `auto`. {photographs} photographs, one reference each, the same for every
        network; {seeds} {"seed" if seeds == 1 else "seeds"} of the masks. r is Pearson's correlation over pixels with
        the map of {reference:,} independent masks of another seed and the estimator "average"; intervals are 95 %
        bootstraps over photographs. A name is the design of the masks and the estimator. Smaller numbers of masks are
        the first masks of the largest."""
    sections = "\n".join(_network(one) for one in measured)
    return f"""# Designs of RISE's masks: passes for the same map

{paragraph(what)}

    benchmarks/saliency/sampling_networks.sh CATALOGUE_FOLDER build/sampling
    python -m benchmarks.saliency.sampling --catalogue CATALOGUE

{paragraph(how)}

![r with the reference map, and distance of the peak from the badge, against the number of masks]({picture})

{sections}
{_localisation(localised)}"""


def _network(found: Measured) -> str:
    counts, halves = found.counts[INDEPENDENT], mean(found.halves)
    ceiling = np.sqrt(2 * halves.estimate / (1 + halves.estimate)) if halves.estimate > 0 else 0.0
    correlations = [[name, *(mean(row).text() for row in rows)] for name, rows in found.correlations.items()]
    savings = [
        [name, *(saving(found, name, at) for at in range(len(found.counts[name])))]
        for name in found.correlations
        if name != INDEPENDENT
    ]
    own = f"""The halves of the reference map's own masks correlate {halves.text()}: it correlates about {ceiling:.3f}
        with the map of endless masks, and no design can be seen to do better than that."""
    return f"""## {found.network}

{_by_count("r with the reference map", counts, correlations)}

{paragraph(own)}

How many times as many independent masks, averaged, reach the same r:

{_by_count("passes saved", counts[:-1], savings)}
"""


def _localisation(found: Localised) -> str:
    counts, at = found.counts[INDEPENDENT], -2  # before the longest run, which only the baseline has
    queries, seeds, references = found.distance[INDEPENDENT].shape[1:]
    what = f"""Drawn catalogue, {found.size[0]} × {found.size[1]}, the network that matches by the badge:
        {queries * references} pairs of {queries} queries, {seeds} seeds. Intervals are 95 % bootstraps over queries."""
    names = list(found.distance)
    distances = [[name, *(median_distance(found, name, row).text(1) for row in _rows(found, name))] for name in names]
    aucs = [[name, *(mean_auc(found, name, row).text() for row in _rows(found, name))] for name in names]
    differences = []
    for name in names[1:]:
        nearer = [distance_difference(found, name, row, at).text(1) for row in _rows(found, name)]
        better = [auc_difference(found, name, row, at).text() for row in _rows(found, name)]
        differences += [[f"{name}: distance", *nearer], [f"{name}: AUC", *better]]
    return f"""## Localisation

{paragraph(what)}

{_by_count("median distance of the peak, pixels", counts, distances)}

{_by_count("mean AUC of the badge's pixels", counts, aucs)}

Less that of {counts[at]:,} independent masks, averaged, on the same queries; below 0 is nearer, above 0 a better AUC:

{_by_count("difference", counts[:-1], differences)}
"""


def plot(measured: Sequence[Measured], localised: Localised, path: Path) -> None:
    """A panel a network, r against N, and one of localisation; PNG."""
    from matplotlib.figure import Figure  # without pyplot: no display and no state that stays

    figure = Figure(figsize=(4.2 * (len(measured) + 1), 4.2), layout="constrained")
    axes = figure.subplots(1, len(measured) + 1)
    for axis, found in zip(axes, measured, strict=False):
        for name, rows in found.correlations.items():
            _line(axis, name, found.counts[name], [mean(row) for row in rows])
        axis.set(title=found.network, ylabel="r with the reference map")
    for name, rows in localised.distance.items():
        intervals = [median_distance(localised, name, at) for at in range(len(rows))]
        _line(axes[-1], name, localised.counts[name], intervals)
    axes[-1].set(title="badge", ylabel="median distance of the peak, pixels", ylim=(0, None))
    for axis in axes:
        counts = measured[0].counts[INDEPENDENT]
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{n}" for n in counts], rotation=45)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("masks")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _line(axis: Any, name: str, counts: Sequence[int], intervals: Sequence[Interval]) -> None:
    """A colour a design, a dash an estimator."""
    design, _, estimator = name.partition(", ")
    colour = {"independent": "tab:gray", "sobol": "tab:orange", "hadamard": "tab:blue"}.get(design, "tab:green")
    style = "--" if estimator == "average" else "-"
    axis.plot(counts, [one.estimate for one in intervals], style, color=colour, label=name, marker=".")
    low, high = [one.low for one in intervals], [one.high for one in intervals]
    axis.fill_between(counts, low, high, color=colour, alpha=0.1, linewidth=0)


def _rows(found: Localised, name: str) -> range:
    return range(len(found.counts[name]))


def _by_count(title: str, counts: Sequence[int], rows: Sequence[list[str]]) -> str:
    """A table with a column for each number of masks; a contender that was not run so far leaves cells empty."""
    full = [row + [""] * (len(counts) + 1 - len(row)) for row in rows]
    return markdown_table([title, *(f"N = {n:,}" for n in counts)], full)


def _odds(correlation: float | Float64) -> Float64:
    """-log(1 / r² - 1), which rises with r, for 0 < r < 1."""
    return np.asarray(-np.log(1 / np.square(correlation) - 1))
