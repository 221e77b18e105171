"""How the parts of SANE's ranking are put on a common scale, and how its weights phi are found, on validation pairs.

Confidence, map match and prior (``transforms.core.attributes.ranking``) have different ranges: a cosine of 0.3 may be
high and a confidence of 0.3 low. Three monotone scales are fitted, each to one part alone:

    standard    (x - mean) / standard deviation
    quantile    the share of values below x, equal ones counting half
    isotonic    the probability that an attribute of that value is the pair's oracle, by isotonic regression

and phi is the point of a grid on the simplex that scores best by attribute removal
(``transforms.core.metrics.removal``), as Plummer et al. (ECCV 2020, section 3.3) choose it on their validation data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from transforms.core.attributes.ranking import IDENTITY, Phi, Ranking, Scale, Scales
from transforms.core.metrics.removal import Judgement, Oracle
from transforms.core.records import Float64

Kind = Literal["standard", "quantile", "isotonic"]
KINDS: tuple[Kind, ...] = ("standard", "quantile", "isotonic")

KNOTS = 101
"""Knots of a scale at most."""
STEPS = 20
"""Steps of the grid of phi from 0 to 1."""
TILT = 1e-6
"""What a scale rises over the whole range of its values where it would be level: it keeps the order of what would tie,
and is too small to matter against a level that differs."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The parts of the ranking of each pair: ``confidence`` and ``match`` [P, A], and the ``prior`` [A], if any."""

    confidence: Float64 = field(repr=False)
    match: Float64 = field(repr=False)
    prior: Float64 | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = self.confidence.shape
        if len(shape) != 2 or self.match.shape != shape or (self.prior is not None and self.prior.shape != shape[1:]):
            raise ValueError(
                f"expected confidence [P, A], match [P, A] and prior [A], got {shape}, {self.match.shape} and "
                f"{None if self.prior is None else self.prior.shape}"
            )
        if not all(np.isfinite(part).all() for part in (self.confidence, self.match, self.prior) if part is not None):
            raise ValueError("the parts of a ranking are finite")


def fit_scales(kind: Kind, evidence: Evidence, oracle: Oracle) -> Scales:
    """The scales of one ``kind`` for ``evidence``; the identity for a part that is the same everywhere, or missing.

    ``standard`` and ``quantile`` look at all values of a part; ``isotonic`` at those of judged pairs and ranked
    attributes, since of the others nobody knows whether they are the oracle. Where none is judged it is the identity.
    """
    shape = evidence.confidence.shape
    if oracle.drops.shape != shape:
        raise ValueError(f"expected drops of the shape of the parts {shape}, got {oracle.drops.shape}")
    rows = np.flatnonzero(oracle.judged)
    is_oracle = np.arange(shape[1]) == oracle.best[rows, None]

    def scale(part: Float64 | None) -> Scale:
        if part is None:
            return IDENTITY
        if kind == "standard":
            return standard(part)
        if kind == "quantile":
            return quantile(part)
        known = oracle.ranked[rows]
        return isotonic(np.broadcast_to(part, shape)[rows][known], is_oracle[known].astype(np.float64))

    return Scales(scale(evidence.confidence), scale(evidence.match), scale(evidence.prior))


def standard(values: Float64) -> Scale:
    """The mean of ``values`` to 0, one standard deviation above it to 1."""
    if np.min(values) == np.max(values):
        return IDENTITY
    mean, deviation = float(np.mean(values)), float(np.std(values))
    return Scale((mean, mean + deviation), (0.0, 1.0)) if mean + deviation > mean else IDENTITY


def quantile(values: Float64) -> Scale:
    """The empirical distribution of ``values``: the share of them below x, equal ones counting half, in [0, 1].

    The knots are all distinct values, or those at equal shares where there are too many.
    """
    ordered = np.sort(values, axis=None)
    knots = np.unique(ordered)
    if len(knots) < 2:
        return IDENTITY
    if len(knots) > KNOTS - 2:
        # values themselves, not between two of them: where most are equal, these are one knot
        knots = np.unique(ordered[np.linspace(0, len(ordered) - 1, KNOTS - 2).round().astype(np.int64)])
    below, upto = (np.searchsorted(ordered, knots, side) for side in ("left", "right"))
    return _level_ends(knots, (below + upto) / (2 * len(ordered)))


def isotonic(values: Float64, hits: Float64) -> Scale:
    """The rising step function of ``values`` [N] that comes closest to ``hits`` [N], in least squares.

    ``hits`` of 0 and 1 make it a probability. Straight between the ends of neighbouring steps. Steps are tilted by
    ``TILT``; of too many knots those are kept between which the level changes by one part in 48 at most, or at once.
    """
    knots, of, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(knots) < 2:
        return IDENTITY
    levels = isotonic_regression(np.bincount(of, weights=hits) / counts, weights=counts).x
    ends = np.flatnonzero(np.append(True, np.diff(levels) > 0) | np.append(np.diff(levels) > 0, True))
    if len(ends) > KNOTS - 2:
        steps = np.linspace(levels[0], levels[-1], (KNOTS - 3) // 2)
        first, last = np.searchsorted(levels[ends], steps), np.searchsorted(levels[ends], steps, "right") - 1
        ends = ends[np.unique(np.concatenate([[0], first, last, [len(ends) - 1]]))]
    return _level_ends(knots[ends], levels[ends])


def _level_ends(values: Float64, levels: Float64) -> Scale:
    """The scale through these knots that stays level beyond them, all tilted by ``TILT`` over their range.

    Without the outer knots the last two would say how it goes on, however steep they are.
    """
    span = max(float(values[-1] - values[0]), float(np.spacing(np.abs(values).max())))
    values = np.concatenate([[values[0] - span], values, [values[-1] + span]])
    levels = np.concatenate([levels[:1], levels, levels[-1:]]) + TILT * (values - values[1]) / span
    # one knot of two that are closer than rounding tells apart
    kept = np.append(True, np.diff(values) > 0)
    return Scale(tuple(values[kept].tolist()), tuple(levels[kept].tolist()))


@dataclass(frozen=True)
class Point:
    """One point of the grid: phi, and what the ranking scores with it."""

    phi: Phi
    removal: float
    top1: float
    top5: float

    @classmethod
    def of(cls, phi: Phi, judgement: Judgement) -> Point:
        """The point of ``phi`` with the figures of ``judgement``."""
        return cls(phi, judgement.removal, judgement.top1, judgement.top5)


@dataclass(frozen=True)
class PhiSearch:
    """The best point of a grid, and the whole grid in its order."""

    best: Point
    grid: tuple[Point, ...] = field(repr=False)


def simplex(prior: bool, steps: int = STEPS) -> tuple[Phi, ...]:
    """All phi in steps of 1 / ``steps`` that add up to 1; without a prior those with phi_3 = 0."""
    if steps < 1:
        raise ValueError(f"a grid has at least one step, got {steps}")
    return tuple(
        (first / steps, second / steps, (steps - first - second) / steps)
        for first in range(steps + 1)
        for second in range(steps - first + 1)
        if prior or first + second == steps
    )


def search_phi(evidence: Evidence, oracle: Oracle, scales: Scales, grid: Sequence[Phi] | None = None) -> PhiSearch:
    """The point of ``grid`` with the largest ``removal``; of equal ones the largest ``top1``.

    What still ties is a region in which the ranking is the same: the point closest to its middle is taken, the first
    of equally close ones. ``grid`` is :func:`simplex` by default. ValueError where no pair is judged.
    """
    grid = tuple(grid) if grid is not None else simplex(evidence.prior is not None)
    rows = np.flatnonzero(oracle.judged)
    if not len(rows) or not grid:
        raise ValueError("a search needs a judged pair and a grid")
    some = Oracle(oracle.drops[rows])
    levels = [scales.confidence(evidence.confidence[rows]), scales.match(evidence.match[rows])]
    if evidence.prior is not None:
        levels.append(scales.prior(evidence.prior))
    points = [Point.of(phi, some.judge(_weighed(phi, levels))) for phi in grid]
    return PhiSearch(_best(points), tuple(points))


def held_out(kind: Kind, evidence: Evidence, oracle: Oracle, folds: NDArray[np.integer]) -> Judgement:
    """How the ranking does on pairs that it was not fitted to: scales of one ``kind`` and phi by cross-fitting.

    ``folds`` [P] are the folds of the pairs; those of a query must be in one. The pairs of each fold are ranked with
    what :func:`fit_scales` and :func:`search_phi` find on all others. ValueError where these have no judged pair.
    """
    folds = np.asarray(folds)
    if folds.shape != oracle.drops.shape[:1]:
        raise ValueError(f"expected folds {oracle.drops.shape[:1]}, got {folds.shape}")
    prior = None if evidence.prior is None else tuple(evidence.prior.tolist())
    scores = np.zeros(oracle.drops.shape)
    for fold in np.unique(folds):
        rest, own = folds != fold, folds == fold
        if not oracle.judged[own].any():
            continue  # nothing of it is judged
        some = Evidence(evidence.confidence[rest], evidence.match[rest], evidence.prior)
        of_rest = Oracle(oracle.drops[rest])
        scales = fit_scales(kind, some, of_rest)
        ranking = Ranking(search_phi(some, of_rest, scales).best.phi, scales, prior)
        scores[own] = ranking.scores(evidence.confidence[own], evidence.match[own])
    return oracle.judge(scores)


def _weighed(phi: Phi, levels: Sequence[Float64]) -> Float64:
    """What ``Ranking.scores`` gives, to the last bit, of parts whose levels are there already: [P, A]."""
    score = np.zeros(levels[0].shape)
    for weight, level in zip(phi, levels, strict=False):
        if weight:
            score += weight * level
    return score


def _best(points: Sequence[Point]) -> Point:
    most = max((point.removal, point.top1) for point in points)
    tied = [point for point in points if (point.removal, point.top1) == most]
    middle = np.mean([point.phi for point in tied], axis=0)
    # rounded, so that two points on both sides of the middle are as close as they are
    distances = [round(float(np.square(np.subtract(point.phi, middle)).sum()), 12) for point in tied]
    return tied[int(np.argmin(distances))]
