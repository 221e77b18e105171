"""Is this the model that served? Served scores against recomputed ones, and what would make them agree.

A score is recomputed from the embeddings of a pair, so that it can be read in other ways than the bundle's: a service
may store distances, or ``(1 + cosine) / 2``. Agreement is judged pair by pair with an absolute tolerance; nearly
everything that is wrong with a bundle leaves the *order* of the pairs much as it was, so that a rank correlation alone
would let it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from transforms.core.records import Float32, Float64
from transforms.core.similarity import SimilarityFunction

MOST_OFF = 0.01
"""The share of pairs that may be off: photographs are replaced, and an index is never quite of today."""

FEWEST_OFF = 3
"""Pairs off under which no model is refused while another pair agrees: of 50 pairs one stale score is 2 % already."""

SAME_ORDER = 0.999
"""The rank correlation from which served scores are taken for the same similarity on another scale."""

_FEW = 8
"""Pairs under which no correlation says anything."""


@dataclass(frozen=True)
class ScoreAgreement:
    """How served and recomputed scores of some pairs differ, in absolute values; infinity where one was not finite.

    ``off`` pairs differ by more than ``tolerance``. ``rank_correlation`` is Spearman's, None where one side is constant
    or there are fewer than two pairs.
    """

    pairs: int
    off: int
    median: float
    p95: float
    largest: float
    rank_correlation: float | None
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether at most ``MOST_OFF`` of the pairs are off: what a cause that is tried must reach, on few as well."""
        return self.off <= MOST_OFF * self.pairs

    @property
    def allowed(self) -> int:
        """How many pairs may be off: ``MOST_OFF`` of them, and of few pairs one under ``FEWEST_OFF``, but never all.

        So 5 of 512, 2 of 3 to 299, 1 of 2 and 0 of 1: a check of a single pair can still find a wrong model.
        """
        return max(int(MOST_OFF * self.pairs), min(FEWEST_OFF, self.pairs) - 1, 0)

    @property
    def refused(self) -> bool:
        """Whether this is not the model that served: over ``MOST_OFF`` and at least ``FEWEST_OFF`` are off, or all."""
        return self.off > self.allowed


def agreement(served: Float64, recomputed: Float64, tolerance: float) -> ScoreAgreement:
    """The agreement of scores [P] and [P], P at least 1; ValueError for other shapes."""
    if served.ndim != 1 or served.shape != recomputed.shape or not len(served):
        raise ValueError(f"expected scores [P] and [P] of at least one pair, got {served.shape} and {recomputed.shape}")
    apart = differences(served, recomputed)
    order = np.sort(apart)
    return ScoreAgreement(
        pairs=len(apart),
        off=int((apart > tolerance).sum()),
        median=float(order[(len(order) - 1) // 2] / 2 + order[len(order) // 2] / 2),
        p95=float(order[-(-95 * len(order) // 100) - 1]),  # the smallest that 95 % do not exceed: no interpolation
        largest=float(order[-1]),
        rank_correlation=rank_correlation(served, recomputed),
        tolerance=tolerance,
    )


def differences(served: Float64, recomputed: Float64) -> Float64:
    """Absolute differences [P]; infinity where a score is not finite."""
    finite = np.isfinite(served) & np.isfinite(recomputed)
    apart: Float64 = np.abs(np.where(finite, served, np.inf) - np.where(finite, recomputed, 0.0))
    return apart


def rank_correlation(one: Float64, other: Float64) -> float | None:
    """Spearman's correlation of [P] and [P], ties at their mean rank; None where it is not defined."""
    if len(one) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    a, b = (rankdata(scores) - (len(scores) + 1) / 2 for scores in (one, other))
    lengths = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else None


@dataclass(frozen=True)
class Measures:
    """The similarities of P pairs of embeddings: cosine, dot product and Euclidean distance, float64 [P] each."""

    cosine: Float64
    dot: Float64
    distance: Float64

    @classmethod
    def of(cls, queries: Float32, references: Float32) -> Measures:
        """Of embeddings [P, D] and [P, D]; a cosine with a zero vector is 0."""
        a, b = queries.astype(np.float64), references.astype(np.float64)
        dot = (a * b).sum(axis=1)
        lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        cosine = np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths != 0)
        return cls(cosine, dot, np.sqrt(((a - b) ** 2).sum(axis=1)))

    def score(self, function: SimilarityFunction) -> Float64:
        """What a bundle of that similarity function calls the similarity."""
        return {"cosine": self.cosine, "dot": self.dot, "euclidean": -self.distance}[function]


@dataclass(frozen=True)
class ScoreScale:
    """What served scores may be, other than what the bundle says.

    ``back`` turns such a score into one of ``function``, as a formula of ``score``; None where it is one already.
    ``unit`` is the size of what a cosine of 1 would be: the tolerance is multiplied by it.
    """

    name: str
    function: SimilarityFunction
    of: Callable[[Measures], Float64]
    back: str | None = None
    unit: float = 1.0


_COSINES = (
    ScoreScale("(1 + cosine) / 2", "cosine", lambda of: (1 + of.cosine) / 2, "2 * score - 1"),
    ScoreScale("1 - cosine", "cosine", lambda of: 1 - of.cosine, "1 - score"),
    ScoreScale("100 * cosine", "cosine", lambda of: 100 * of.cosine, "score / 100", 100.0),
)
_DISTANCES = (
    ScoreScale("a Euclidean distance", "euclidean", lambda of: of.distance, "-score"),
    ScoreScale("a squared Euclidean distance", "euclidean", lambda of: of.distance**2, "-sqrt(score)"),
    ScoreScale("1 / (1 + Euclidean distance)", "euclidean", lambda of: 1 / (1 + of.distance), "1 - 1 / score"),
)
_UNIT_DISTANCES = (
    ScoreScale("a negative Euclidean distance of unit vectors", "cosine", lambda of: -of.distance, "1 - score**2 / 2"),
    ScoreScale("a Euclidean distance of unit vectors", "cosine", lambda of: of.distance, "1 - score**2 / 2"),
    ScoreScale("a squared Euclidean distance of unit vectors", "cosine", lambda of: of.distance**2, "1 - score / 2"),
    ScoreScale(
        "1 / (1 + Euclidean distance of unit vectors)",
        "cosine",
        lambda of: 1 / (1 + of.distance),
        "1 - (1 / score - 1)**2 / 2",
    ),
)
_BARE = (
    ScoreScale("a cosine", "cosine", lambda of: of.cosine),
    ScoreScale("a dot product", "dot", lambda of: of.dot),
    ScoreScale("a negative Euclidean distance", "euclidean", lambda of: -of.distance),
)


def score_scales(function: SimilarityFunction) -> tuple[ScoreScale, ...]:
    """The other readings of scores, for a bundle of that similarity function.

    The embeddings of a "cosine" bundle have unit length, and what their lengths were is not to be had: its distances
    are those of unit vectors, which cosines and they determine of each other.
    """
    if function == "cosine":
        return (*_COSINES, *_UNIT_DISTANCES)
    return (*(reading for reading in _BARE if reading.function != function), *_COSINES, *_DISTANCES)


def read_as(reading: ScoreScale, function: SimilarityFunction) -> str:
    """What to do where served scores are ``reading`` and the bundle has ``function``, as the end of a sentence."""
    doing = []
    if reading.function != function:
        doing.append(f"with --similarity-function {reading.function} in place of {function}")
    if reading.back is not None:
        doing.append(f"where each served score is read as {reading.name}: write {reading.back} into the manifest")
    return " and ".join(doing)


@dataclass(frozen=True)
class Trial:
    """One suspect: a setting of the bundle (its flags, None as it is), a reading of the scores, how they agree."""

    setting: str | None
    reading: ScoreScale | None
    agreement: ScoreAgreement

    @property
    def order(self) -> tuple[bool, int, float]:
        """What sorts trials: those that agree, those with fewer pairs off, the nearest."""
        return not self.agreement.agrees, self.agreement.off, self.agreement.median / self.unit

    @property
    def unit(self) -> float:
        """See :class:`ScoreScale`."""
        return self.reading.unit if self.reading else 1.0

    def described(self, function: SimilarityFunction) -> str:
        """``with --resize crop in place of --resize squash and …``."""
        said = [f"with {self.setting}"] if self.setting else []
        return " and ".join([*said, *([read_as(self.reading, function)] if self.reading else [])])


def trial(
    setting: str | None,
    reading: ScoreScale | None,
    measures: Measures,
    served: Float64,
    function: SimilarityFunction,
    tolerance: float,
) -> Trial:
    """The trial of one suspect on P pairs: their ``measures`` under its setting, and their ``served`` scores [P]."""
    scores = reading.of(measures) if reading else measures.score(function)
    unit = reading.unit if reading else 1.0
    return Trial(setting, reading, agreement(served, scores, tolerance * unit))


def tried_pairs(off: NDArray[np.bool_], most: int = 64) -> NDArray[np.intp]:
    """Ascending indices of the pairs that causes are tried on: of those ``off`` [P] three quarters, if there are.

    What explains must mend those that are off and leave those that agree as they are. Within each kind they are spread
    evenly over the order of the pairs.
    """
    wrong, right = np.flatnonzero(off), np.flatnonzero(~off)
    some = max(most - min(len(right), most // 4), 0)
    chosen = _spread(wrong, some)
    return np.sort(np.concatenate([chosen, _spread(right, most - len(chosen))]))


def _spread(indices: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    if len(indices) <= most:
        return indices
    return indices[np.arange(most) * len(indices) // most]


@dataclass(frozen=True)
class LinearScale:
    """``served ≈ slope * recomputed + shift``, and the median absolute residual."""

    slope: float
    shift: float
    residual: float


def other_scale(served: Float64, recomputed: Float64) -> LinearScale | None:
    """The line through scores [P] that order the pairs alike, or in reverse, but are others; None where they do not."""
    correlation = rank_correlation(served, recomputed) if len(served) >= _FEW else None
    if correlation is None or abs(correlation) < SAME_ORDER:
        return None
    slope, shift = np.polyfit(recomputed, served, 1)
    residual = float(np.median(np.abs(served - slope * recomputed - shift)))
    return LinearScale(float(slope), float(shift), residual)


def blamed(models: Sequence[str | None], off: NDArray[np.bool_]) -> str | None:
    """The one of several ``models`` [P] that all of the pairs ``off`` [P] are of, while pairs of others agree."""
    wrong = {model for model, is_off in zip(models, off, strict=True) if is_off}
    right = {model for model, is_off in zip(models, off, strict=True) if not is_off}
    (only, *more) = wrong or {None}
    return only if only is not None and not more and right - wrong else None
