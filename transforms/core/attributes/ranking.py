"""SANE's choice of the attribute that best explains a match.

B. Plummer, M. Vasileva, V. Petsiuk, K. Saenko, D. Forsyth, "Why do These Match? Explaining the Behavior of Image
Similarity Models", ECCV 2020, section 3.3 (eq. 5): an attribute explains a match when the attribute network is
confident that the query has it, when the pixels that speak for it are those that the saliency map marks, and when the
similarity is known to follow it::

    e_a = phi_1 * confidence_a + phi_2 * cos(activation map n_a, saliency map m) + phi_3 * prior_a

The parts have different scales, so each is put on a common one first (:class:`Scales`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from transforms.core.imaging.maps import area_average
from transforms.core.records import Float32, Float64

Phi = tuple[float, float, float]
"""phi_1 of the confidence, phi_2 of the map match, phi_3 of the prior."""


def all_finite(values: Sequence[Any]) -> bool:
    """Whether all of ``values`` are real numbers that float64 holds: no text, no truth value, no NaN, no infinity."""
    numbers = (int, float, np.floating, np.integer)
    return all(isinstance(value, numbers) and not isinstance(value, bool) and _is_finite(value) for value in values)


def _is_finite(value: Any) -> bool:
    return bool(abs(value) <= sys.float_info.max)


def match_scores(activations: Float32, saliency: Float64) -> Float64:
    """Cosine [A], in [-1, 1], of each activation map of [A, h, w] with ``saliency`` [H, W] averaged down to h x w.

    0 where either is zero everywhere. Both keep their sign: evidence against an attribute where the saliency is high
    lowers its match.
    """
    small = area_average(saliency, (activations.shape[1], activations.shape[2])).ravel()
    rows = activations.reshape(len(activations), -1).astype(np.float64)
    length = np.sqrt(np.square(rows).sum(axis=1) * np.square(small).sum())
    inner = (rows * small).sum(axis=1)
    cosines: Float64 = np.divide(inner, length, out=np.zeros_like(inner), where=length > 0)
    return cosines


@dataclass(frozen=True)
class Scale:
    """A monotone map from a part's values to a common scale: straight between its knots, and beyond the outer ones.

    ``values`` rise strictly, ``levels`` do not fall; both have at least two entries. They and the slopes between them
    are finite.
    """

    values: tuple[float, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("values", "levels"):
            if not all_finite(getattr(self, name)):
                raise ValueError(f"a scale's {name} are finite numbers, got {getattr(self, name)}")
        rising = all(a < b for a, b in pairwise(self.values))
        monotone = all(a <= b for a, b in pairwise(self.levels))
        if len(self.values) < 2 or len(self.values) != len(self.levels) or not rising or not monotone:
            raise ValueError(
                f"a scale has at least two rising values and as many levels that do not fall, got {self.values} and "
                f"{self.levels}"
            )
        with np.errstate(over="ignore"):
            steps, rises = np.diff(np.array(self.values, np.float64)), np.diff(np.array(self.levels, np.float64))
            slopes = rises / steps
        if not np.isfinite([steps, slopes]).all():
            raise ValueError(
                f"a scale's slopes are finite: of {self.values} some values are too close for what {self.levels} rise, "
                "or too far apart"
            )

    def __call__(self, values: ArrayLike) -> Float64:
        """The levels of ``values``, of their shape."""
        x, knots, levels = np.asarray(values, np.float64), np.asarray(self.values), np.asarray(self.levels)
        inside = np.interp(x, knots, levels)
        below = (x - knots[0]) * (levels[1] - levels[0]) / (knots[1] - knots[0])
        above = (x - knots[-1]) * (levels[-1] - levels[-2]) / (knots[-1] - knots[-2])
        return np.asarray(inside + np.minimum(below, 0) + np.maximum(above, 0))


IDENTITY = Scale((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Scales:
    """The scale of each part; the identity leaves it as it is."""

    confidence: Scale = IDENTITY
    match: Scale = IDENTITY
    prior: Scale = IDENTITY


@dataclass(frozen=True)
class Ranking:
    """How attributes are ranked: the weights of the parts, their scales, and the priors [A], if any; all finite."""

    phi: Phi = (0.5, 0.5, 0.0)
    scales: Scales = field(default_factory=Scales)
    priors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.phi) != 3 or not all_finite(self.phi) or min(self.phi) < 0:
            raise ValueError(f"phi is three finite weights of at least 0, got {self.phi}")
        if self.priors is not None and not all_finite(self.priors):
            wrong = next(prior for prior in self.priors if not all_finite([prior]))
            raise ValueError(f"priors are finite numbers, got {wrong!r}")

    def scores(self, confidence: ArrayLike, match: ArrayLike) -> Float64:
        """e_a, float64 [..., A], of ``confidence`` and ``match`` [..., A]. Without priors the third term is left out.

        A part of weight 0 is left out too, so that what it holds cannot matter.
        """
        first, second, third = self.phi
        score = np.zeros(np.broadcast_shapes(np.shape(confidence), np.shape(match)))
        if first:
            score += first * self.scales.confidence(confidence)
        if second:
            score += second * self.scales.match(match)
        if third and self.priors is not None:
            score += third * self.scales.prior(self.priors)
        return score


@dataclass(frozen=True, slots=True)
class RankedAttribute:
    """One attribute as an explanation of a match: ``score`` e_a and its parts as they are before they are scaled.

    ``index`` is its vocabulary place; ``prior`` is None where there are no priors.
    """

    index: int
    score: float
    confidence: float
    match: float
    prior: float | None = None


def rank_attributes(
    confidence: Float32, activations: Float32, saliency: Float64, ranking: Ranking, top: int
) -> list[RankedAttribute]:
    """The ``top`` attributes by e_a, best first; ties go to the attribute that stands first in the vocabulary.

    Args:
      confidence: the attribute network's scores of the query, [A] in [0, 1].
      activations: its activation maps, [A, h, w].
      saliency: the pair's saliency map, [H, W].
      ranking: how the parts are weighed.
    """
    match = match_scores(activations, saliency)
    score = ranking.scores(confidence, match)
    priors = ranking.priors
    return [
        RankedAttribute(
            int(at),
            float(score[at]),
            float(confidence[at]),
            float(match[at]),
            None if priors is None else float(priors[at]),
        )
        for at in np.argsort(-score, kind="stable")[:top]
    ]
