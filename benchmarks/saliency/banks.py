"""Does one mask bank for all queries bias a catalogue-wide heat map, and what do several banks change?

A map errs by its bank: its masks are a draw. Queries that share a bank share a part of the error, which no number of
queries averages out. Every query is explained with K independent banks, and the error of a mean map is then known
without a reference: it is the variance over the banks. Queries of different banks err independently, so where Q
queries are spread over banks in groups g of n_g::

    Var(mean map) = sum_g (n_g / Q)^2 Var_k(mean over g of map[k, q])
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.machine import markdown_table, paragraph
from benchmarks.support.photographs import Photographs, with_progress
from transforms.core.imaging.maps import area_average, background_of, map_statistics
from transforms.core.memory import bank_bytes, megabytes
from transforms.core.records import Float64
from transforms.core.saliency.rise import rise
from transforms.core.similarity import similarities
from transforms.core.statistics.bootstrap import Interval, mean

MAP = (28, 28)
SCHEMES = (1, 2, 4, 8, 16, 32)
GROUPINGS = 40


@dataclass(frozen=True)
class BankMaps:
    """``maps`` float64 [K, Q, R, P] of K banks, Q queries and R references, at 28 × 28.

    ``border`` [K, Q] is the mean border share of a query's pairs, ``peak`` [K, Q] the share of them whose peak lies
    in the border.
    """

    maps: Float64
    border: Float64
    peak: Float64


def explain_with_banks(photographs: Photographs, *, banks: int, fill: str) -> BankMaps:
    """Explains every query with ``banks`` independent banks."""
    queries = photographs.queries
    shape = (banks, len(queries), len(queries[0].references))
    maps, border, peak = np.empty((*shape, MAP[0] * MAP[1])), np.empty(shape), np.empty(shape)
    function = photographs.models.bundle.similarity_function
    for query in with_progress(queries, "banks"):
        background = background_of(query.image.pixels)
        base = similarities(query.references, photographs.base(query), function)[:, 0]
        for k in range(banks):
            scores = similarities(query.references, photographs.perturbed(query, fill, k), function)
            for r, saliency in enumerate(photographs.design(k).estimate(scores, base)):
                statistics = map_statistics(saliency, background)
                maps[k, query.number, r] = area_average(saliency, MAP).ravel()
                border[k, query.number, r] = statistics.border_share
                peak[k, query.number, r] = in_border(statistics.peak_row, statistics.peak_column, saliency.shape)
    return BankMaps(maps, border.mean(axis=2), peak.mean(axis=2))


def in_border(row: int, column: int, size: tuple[int, ...]) -> bool:
    """Whether a pixel lies within one eighth of a side of the frame's edge."""
    pixel = ((row, size[0]), (column, size[1]))
    return any(min(at + 0.5, side - at - 0.5) < side / 8 for at, side in pixel)


def grouped_variance(maps: Float64, groups: NDArray[np.int64]) -> Float64:
    """The module's formula for ``maps`` [K, Q, P] and ``groups`` [Q] that share banks: variance [P] of the mean map."""
    total = np.zeros(maps.shape[2])
    for group in np.unique(groups):
        members = maps[:, groups == group]
        total += (members.shape[1] / maps.shape[1]) ** 2 * members.mean(axis=1).var(axis=0, ddof=1)
    return total


def shared_variance(maps: Float64) -> float:
    """The part of one bank's error that all queries share: what stays, squared, however many queries are averaged.

    With s² shared and e² each query's own, one bank gives s² + e²/Q and a bank a query (s² + e²)/Q.
    """
    queries = maps.shape[1]
    one = grouped_variance(maps, np.zeros(queries, np.int64)).mean()
    own = grouped_variance(maps, np.arange(queries)).mean()
    return max(0.0, float((one - own) * queries / (queries - 1)))


def report(photographs: Photographs, found: BankMaps) -> str:
    """The Markdown section on banks."""
    maps = found.maps.mean(axis=2)
    (banks, queries, _), size, n = maps.shape, photographs.size, photographs.masks
    errors = {count: _error(maps, count) for count in (*(some for some in SCHEMES if some < queries), queries)}
    # what varies over the pixels of the mean over all banks, less what that mean's own error adds to it
    contrast = float(np.sqrt(max(maps.mean(axis=(0, 1)).var() - errors[1] ** 2 / banks, 1e-30)))
    shared = shared_variance(maps)
    sampling = float(np.sqrt((maps.mean(axis=0).var(axis=0, ddof=1) / queries).mean()))
    rows = []
    for count, error in errors.items():
        own = count == queries
        rows.append(
            [
                "one for each query" if own else str(count),
                f"{100 * error / contrast:.1f} %",
                f"{contrast / np.hypot(contrast, error):.4f}",
                "0 %" if own else f"{100 * np.sqrt(shared / count) / contrast:.1f} %",
                "none held" if own else megabytes(bank_bytes(n * count, size)),
                "none held" if own else megabytes(bank_bytes(2000 * count, (224, 224))),
            ]
        )
    header = ["banks", f"error, {queries} queries", "correlation", "error, endless queries"]
    header += [f"memory, {n} masks of {size[0]}²", "memory, 2,000 masks of 224²"]
    answers = [
        ["peak in the border, % of pairs", *_percent(found.peak), mean(found.peak.mean(axis=0)).text(1, 100)],
        ["border share of the evidence, %", *_percent(found.border), mean(found.border.mean(axis=0)).text(1, 100)],
    ]
    agreement = np.corrcoef(maps.mean(axis=1))[np.triu_indices(banks, 1)]
    draw, passes = _seconds(photographs)
    what = f"""{queries} queries × {found.maps.shape[2]} references, each explained with {banks} independent banks
        of {n} masks. The error is that of the mean map over all queries (28 × 28), root mean square over its pixels,
        in % of the mean map's own standard deviation over pixels, {contrast:.2e}; it is a variance over banks
        and needs no reference. Correlation is with the mean map that endless masks would give. That these are
        {queries} queries and not all is an error of {100 * sampling / contrast:.1f} % on the same scale, and shrinks
        with more of them; what queries share of a bank does not."""
    single = f"""Mean maps of two single banks correlate {agreement.mean():.4f} ({agreement.min():.4f} to
        {agreement.max():.4f}). A pair's own map rests on one bank whatever their number: two banks give maps of a
        pair that correlate {_pair_agreement(found.maps).text()}."""
    drawing = f"""Drawing a bank takes {1000 * draw:.0f} ms and its {n} masked passes {1000 * passes:.0f} ms on this
        machine: masks drawn again for every query add {100 * draw / passes:.1f} %."""
    return f"""## One mask bank for all queries, or several

{paragraph(what)}

{markdown_table(header, rows)}

{paragraph(single)}

Answers where all queries use one bank, beside the interval over queries:

{markdown_table(["", *(f"bank {k}" for k in range(banks)), "all banks (95 % over queries)"], answers)}

{paragraph(drawing)}
"""


def _error(maps: Float64, count: int) -> float:
    """Root mean square error of the mean map where a hash spreads the queries over ``count`` banks."""
    queries = maps.shape[1]
    if count in (1, queries):
        return float(np.sqrt(grouped_variance(maps, np.arange(queries) % count).mean()))
    rng = np.random.default_rng(0)
    variances = []
    for groups in rng.integers(0, count, size=(GROUPINGS, queries)):
        variances.append(grouped_variance(maps, groups).mean())
    return float(np.sqrt(np.mean(variances)))


def _pair_agreement(maps: Float64) -> Interval:
    """Correlation of a pair's maps [K, Q, R, P] from two banks, mean over pairs, by query."""
    centred = maps - maps.mean(axis=-1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
    banks = len(maps)
    agreements = [(unit[k] * unit[j]).sum(axis=-1).mean(axis=-1) for k in range(banks) for j in range(k)]
    return mean(np.mean(agreements, axis=0))


def _percent(values: Float64) -> list[str]:
    return [f"{100 * value:.1f}" for value in values.mean(axis=1)]


def _seconds(photographs: Photographs) -> tuple[float, float]:
    """Median seconds of drawing one bank, and of its masked passes."""
    query, draws, runs = photographs.queries[0], [], []
    fill = photographs.fill(query, "mean")
    for seed in range(5):
        start = time.perf_counter()
        design = rise(photographs.size, masks=photographs.masks, sampling="independent", seed=1000 + seed)
        for first in range(0, design.n, 16):
            design.masks(first, min(first + 16, design.n))
        drawn = time.perf_counter()
        photographs.masked(query.image.pixels, design, fill)
        draws.append(drawn - start)
        runs.append(time.perf_counter() - drawn)
    return float(np.median(draws)), float(np.median(runs))
