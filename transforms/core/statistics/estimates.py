"""Ratios of a catalogue from a stratified sample of its queries, and their intervals.

Estimated are ratios R = sum a / sum b over all pairs of the catalogue: rates and means, of all pairs or of a group's
(a domain: a and b are 0 elsewhere). Of stratum h, q of Q queries were drawn, with all of their pairs. The combined
ratio estimator (W. Cochran, "Sampling Techniques", 3rd edition 1977, section 6.11) is, over the sampled queries i::

    R^ = sum_i w_i a_i / sum_i w_i b_i                w_i = Q_h / q_h          a_i, b_i: sums over the query's pairs

A resample draws q_h - 1 queries of each stratum with replacement and shrinks its deviation by lambda (J. Rao, C. Wu,
"Resampling inference with complex survey data", JASA 83, 1988; with weights: J. Rao, C. Wu, K. Yue, Survey Methodology
18, 1992)::

    w*_i = w_i (1 - lambda_h + lambda_h q_h / (q_h - 1) n_i)          n_i: how often i was drawn
    lambda_h = sqrt(1 - q_h / Q_h), the finite-population correction; 1 where the catalogue is itself a sample

so that the variance of a resampled total is the textbook one, and a stratum that was taken whole adds none.

Strata with one query are put together for the variance, and only for it
(``transforms.core.statistics.collapsed_strata``). Each query keeps the w_i of its own stratum in R^, and in a resample,
which draws q - 1 of the q queries of the group, its own lambda_i = sqrt(1 - 1 / w_i): one lambda of the group would
take the rate of a well sampled stratum for that of another. What the means of these strata differ by then counts as
spread, too, so that the variance is rather too large.

Of the resampled ratios the quantiles are taken that the BCa method names (B. Efron, "Better bootstrap confidence
intervals", JASA 82, 1987), its acceleration from the linearised a - R^ b, and Student's t in place of the normal
deviate, with the degrees of freedom of F. Satterthwaite ("An approximate distribution of estimates of variance
components", Biometrics Bulletin 2, 1946). The plain 2.5 and 97.5 % quantiles cover too seldom where few queries, or few
cases of a rate, are to be had: ``docs/benchmarks/coverage.md`` has both.

A rate without any case in the sample, or with nothing but cases, has no spread to resample. It has the exact bound (C.
Clopper, E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26,
1934) for as many queries as L. Kish's effective number ("Survey Sampling", 1965): see :func:`_bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval
from transforms.core.statistics.stratified_sample import StratifiedSample, sample_of

_COUNTS = 1 << 20
"""Counts of drawn queries that are held at once, 8 MB; their number changes no draw."""


@dataclass(frozen=True)
class Resampling:
    """How intervals of ``confidence`` are found: from ``resamples`` draws by ``seed``. ValueError for what is none."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.confidence < 1:
            raise ValueError(
                f"expected a resample at least and 0 < confidence < 1; got {self.resamples} and {self.confidence}"
            )

    @property
    def tail(self) -> float:
        """The probability beyond either end."""
        return (1 - self.confidence) / 2


DEFAULT = Resampling()


def estimate(
    numerators: Float64,
    denominators: Float64,
    strata: Sequence[str],
    population: Mapping[str, int],
    *,
    weights: Sequence[float] | None = None,
    queries: Sequence[str] | None = None,
    finite: bool = True,
    resampling: Resampling = DEFAULT,
) -> list[Interval]:
    """The ratios of T quantities in the population and their intervals, all of the same resamples.

    A quantity has the estimate NaN where its denominators are all 0. ``low`` and ``high`` are NaN where there are too
    few queries: under two with a denominator above 0, or so few among those of their strata that more than 5 % of
    resamples would draw none. A sample that is the whole population has ``low`` = estimate = ``high``.

    A quantity whose numerators are all 0, or all equal to their denominators, is taken for a rate: one of which the
    sample has no case, or nothing but cases. Other constants have an interval of no width.

    Args:
      numerators: float64 [Q, T], sums over the pairs of each sampled query; 0 where the denominator is. A query whose
        pairs lie in two strata is a row in each.
      denominators: float64 [Q, T], 0 or more.
      strata: [Q], the stratum of each row: a group of ``collapse_strata``, which has two queries at least.
      population: queries of each stratum, Q_h; every stratum that has any must have rows.
      weights: [Q], how many queries each row's stands for, 1 or more: those of ``CollapsedStrata.weights``. Q_h / q_h
        where not given, which is right where no strata were merged.
      queries: [Q], the id of each row's query. With ids, what a resample draws depends on ids, strata and seed alone:
        a quantity has the same interval whatever others stand beside it. Without, rows are ordered by their numbers.
        Either way the order of rows leaves no trace.
      finite: whether the population itself is what is estimated; if not, it is seen as one more sample of queries of
        its kind, as where two months are compared, and to have taken it whole does not make it certain (W. Deming, "On
        the distinction between enumerative and analytic surveys", JASA 48, 1953).
      resampling: equal arguments give equal intervals.

    Raises:
      ValueError: for shapes that differ, numbers that are not finite, denominators below 0, numerators where the
        denominator is 0, a query twice in a stratum, strata that do not fit the population, weights under 1 or that
        do not add up to it, or a stratum with one query beside others (``collapse_strata`` puts it to another).
    """
    sample = sample_of(numerators, denominators, strata, population, weights=weights, queries=queries, finite=finite)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sample.total(sample.a) / sample.total(sample.b)
    if not sample.partial.any():
        return [Interval(value, value, value) for value in ratio.tolist()]
    nothing = np.full((2, len(ratio)), math.nan)
    if (sample.sizes[sample.partial] < 2).any():  # the only stratum: a sample refuses it beside others
        low, high = nothing
    else:
        low, high = np.where(sample.too_few(), nothing, _bca(sample, ratio, resampling))
        low, high = np.minimum(low, ratio), np.maximum(high, ratio)
    without, only = ~sample.a.any(axis=0), (sample.a == sample.b).all(axis=0)
    bounds = _bounds(sample, resampling.tail)
    high = np.where(without, bounds, np.where(only, 1.0, high))
    low = np.where(only, 1 - bounds, np.where(without, 0.0, low))
    single = np.count_nonzero(sample.b, axis=0) < 2
    low, high = (np.where(single, math.nan, end) for end in (low, high))
    return [Interval(*ends) for ends in zip(ratio.tolist(), low.tolist(), high.tolist(), strict=True)]


def _bca(sample: StratifiedSample, ratio: Float64, resampling: Resampling) -> Float64:
    """The low and the high end of each quantity's interval: [2, T]; the ratios are ``ratio`` [T]."""
    resamples = resampling.resamples
    drawn = _resampled(sample, resamples, resampling.seed)
    number = np.sum(~np.isnan(drawn), axis=0)
    # half of those that are equal, as many are where there are few cases, whatever their last bits
    apart = drawn - ratio
    slack = 1e-9 * np.nanmax(np.abs(apart), axis=0, initial=0.0)
    below = (np.sum(apart < -slack, axis=0) + np.sum(apart <= slack, axis=0)) / 2
    bias = special.ndtri(np.clip(below / np.maximum(number, 1), 1 / (resamples + 1), resamples / (resamples + 1)))
    acceleration, freedom = _shape(sample, ratio)
    levels = []
    for side in (-1, 1):
        shifted = bias - side * special.stdtrit(freedom, resampling.tail)
        # past its pole the formula would turn back; the end is then the last resample
        levels.append(special.ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 0.05)))
    return _quantiles(drawn, number, np.array(levels))


def _shape(sample: StratifiedSample, ratio: Float64) -> tuple[Float64, Float64]:
    """The acceleration and the degrees of freedom of each ratio, both [T].

    With l_i = lambda_i w_i (a_i - R^ b_i), less its mean in the stratum, the acceleration is
    sum l^3 / (6 (sum l^2)^1.5), and the degrees of freedom are (sum_h v_h)^2 / sum_h v_h^2 / (k_h - 1), v_h the
    stratum's part of the variance and k_h its queries with a denominator: those of other groups tell nothing of it.
    """
    scale = np.sqrt(1 - sample.shares)[:, None] * sample.each(sample.weights)
    residuals = scale * (sample.a - np.nan_to_num(ratio) * sample.b)
    residuals -= np.repeat(sample.sums(residuals) / sample.sizes[:, None], sample.sizes, axis=0)
    # relative, so that no power of a small number is 0
    residuals /= np.maximum(np.abs(residuals).max(axis=0), np.finfo(np.float64).tiny)
    variances = sample.sums(residuals**2)
    having = sample.sums((sample.b > 0).astype(np.float64))
    variance = variances.sum(axis=0)
    spread = variance > 0
    safe = np.where(spread, variance, 1.0)
    uncertain = (variances**2 / np.maximum(having - 1, 1)).sum(axis=0)
    freedom = np.where(spread, safe**2 / np.where(spread, uncertain, 1.0), np.inf)
    return (residuals**3).sum(axis=0) / (6 * safe**1.5), freedom


def _resampled(sample: StratifiedSample, resamples: int, seed: int) -> Float64:
    """The ratios of each resample, [resamples, T]; NaN where it holds no query with a denominator."""
    rng = np.random.default_rng(seed)
    columns = np.hstack([sample.a, sample.b])
    sums, deviations = sample.sums(columns), np.sqrt(1 - sample.shares)
    first = deviations[sample.starts]
    kept = ((sample.weights * (1 - first))[:, None] * sums).sum(axis=0)
    # queries of merged strata differ in what is kept of them; of all others this is exactly 0
    more = (np.repeat(first, sample.sizes) - deviations)[:, None] * sample.each(sample.weights)
    kept += (more * columns).sum(axis=0)
    whole = (columns * sample.certain).sum(axis=0)
    drawn = np.zeros((resamples, columns.shape[1]))
    # one stratum after the other, so that the blocks of resamples change no draw
    for place in np.flatnonzero(sample.partial):
        size, start = int(sample.sizes[place]), int(sample.starts[place])
        factors = sample.weights[place] * deviations[start : start + size] * size / (size - 1)
        part = factors[:, None] * columns[start : start + size]
        rows = max(1, _COUNTS // size)
        for done in range(0, resamples, rows):
            block = drawn[done : done + rows]
            places = rng.integers(0, size, (len(block), size - 1)) + size * np.arange(len(block))[:, None]
            counts = np.bincount(places.ravel(), minlength=len(block) * size).reshape(len(block), size)
            # not BLAS, whose last bits depend on its threads
            block += np.einsum("rq,qc->rc", counts.astype(np.float64), part)
    quantities = sample.a.shape[1]
    empty = (drawn[:, quantities:] == 0) & (whole[quantities:] == 0)
    drawn += kept
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(empty, math.nan, drawn[:, :quantities] / drawn[:, quantities:])


def _quantiles(drawn: Float64, number: NDArray[np.int64], levels: Float64) -> Float64:
    """The quantiles ``levels`` [2, T] of the first ``number`` [T] of each sorted column of ``drawn`` [resamples, T]."""
    ordered = np.sort(drawn, axis=0)  # NaN last
    at = levels * np.maximum(number - 1, 0)
    lower = np.floor(at).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(number - 1, 0))
    below, above = (np.take_along_axis(ordered, place, axis=0) for place in (lower, upper))
    found: Float64 = below + (at - lower) * (above - below)
    return found


def _bounds(sample: StratifiedSample, tail: float) -> Float64:
    """How large a rate may be of which the sample has no case, [T]: 0 to 1.

    That of the queries not taken whole is 1 - tail^(1/n), as they have none of n; times their share of the whole. n is
    (sum u)^2 / sum (u^2 / c_h) with u_i = w_i b_i, what a query counts for: all of its pairs are taken for one
    observation. With c = 1 it is Kish's effective number. Without replacement D cases among Q queries are all missed
    with at most (1 - f)^D, f = q / Q = 1 / w, and that is ``tail`` where c is -log(1 - f) / f. The bound supposes rates
    of strata that do not differ greatly: cases that all lie in the stratum with the largest weight may be more.
    """
    shares = np.where(sample.shares < 1, sample.shares, 0.0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = np.where(shares > 0, -np.log1p(-shares) / shares, 1.0)
    counts = sample.each(sample.weights) * sample.b
    unknown = counts * (1 - sample.certain)
    largest = np.maximum(unknown.max(axis=0), np.finfo(np.float64).tiny)
    relative = unknown / largest
    squares = np.sum(relative**2 / correction, axis=0)
    effective = np.where(squares > 0, relative.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0), 1.0)
    total = counts.sum(axis=0)
    share = unknown.sum(axis=0) / np.where(total > 0, total, 1.0)
    bound: Float64 = share * -np.expm1(math.log(tail) / effective)
    return bound
