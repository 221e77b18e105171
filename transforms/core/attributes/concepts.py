"""Concept priors: how strongly the similarity follows each attribute, by testing with concept activation vectors.

B. Kim, M. Wattenberg, J. Gilmer, C. Cai, J. Wexler, F. Viegas, R. Sayres, "Interpretability Beyond Feature Attribution:
Quantitative Testing with Concept Activation Vectors (TCAV)", ICML 2018, arXiv 1711.11279; of a similarity instead of a
class, as in B. Plummer et al., "Why do These Match?", ECCV 2020, section 3.3. With f the part of the network behind a
layer, h the layer's activations of a query, r a reference's embedding and v a concept's vector::

    S_v(h, r) = lim (s(f(h + eps v), r) - s(f(h), r)) / eps         section 3.2, equation 1
    TCAV_v    = the share of pairs with S_v > 0                     section 3.4, equation 2

A concept has several vectors, each from another random counter-set, and is significant where a two-sided test tells
their scores from those of random concepts (section 3.5).

We deviate in four things. The concept space is that of the channels: activations are averaged over positions, and v is
added at every position, since a garment's place in its photograph is no part of a concept. The derivative is a central
difference, so f may be anybody's ONNX graph, without gradients. Welch's test takes the place of Student's, as few
scores rarely have equal variances, and Bonferroni's correction counts all attributes that are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from transforms.core.records import Float32, Float64, content_id
from transforms.core.similarity import SimilarityFunction, similarities

Indices = NDArray[np.intp]
Tail = Callable[[Float32], Float32]
"""The network behind a layer: values [B, ...] of the layer to embeddings [B, D]."""
Sets = list[tuple[Indices, Indices]]
"""Examples of a concept and their counter-examples, a pair of equal length for each concept vector."""

STEP = 0.003
"""Share of the activations' length by which a central difference moves them, in each direction."""


def generator(seed: int, *content: str) -> np.random.Generator:
    """The random stream that ``content`` owns in the run of ``seed``."""
    return np.random.default_rng(int(content_id(str(seed), *content, letter="", digits=32), 16))


def concept_sets(positives: Indices, negatives: Indices, *, sets: int, size: int, rng: np.random.Generator) -> Sets:
    """At most ``size`` of ``positives``, once for all, and against them ``sets`` draws of as many of ``negatives``."""
    size = min(size, len(positives), len(negatives))
    examples = rng.permutation(positives)[:size]
    return [(examples, rng.permutation(negatives)[:size]) for _ in range(sets)]


def random_sets(among: Indices, *, sets: int, size: int, rng: np.random.Generator) -> Sets:
    """``sets`` random concepts: ``size`` of ``among``, or half of them, against as many others."""
    size = min(size, len(among) // 2)
    drawn = [rng.permutation(among) for _ in range(sets)]
    return [(order[:size], order[size : 2 * size]) for order in drawn]


def pooled(values: Float32, axis: int) -> Float64:
    """Values [I, ...] of a layer, averaged over positions: [I, C], with the channels at ``axis``."""
    others = tuple(one for one in range(1, values.ndim) if one != axis)
    means: Float64 = values.mean(axis=others, dtype=np.float64)
    return means


@dataclass(frozen=True)
class Moved:
    """What becomes of a query's embedding when its activations move along each of V vectors, and how far they do."""

    plus: Float32  # [V, D]
    minus: Float32  # [V, D]
    step: float
    """eps: the length of v, a unit vector, that is added at every position."""

    def derivatives(
        self, references: Float32, function: SimilarityFunction, mask: Sequence[float] | None = None
    ) -> Float64:
        """Central differences [V, R] of the similarity to ``references`` [R, D], for each unit of v at every position.

        ``mask`` [D] of a condition multiplies both embeddings first. All arithmetic is in float64, from embeddings in
        float32. 0 for activations that are all 0, and so cannot be moved by a share of their length.
        """
        weights: NDArray[Any] = np.ones(references.shape[1]) if mask is None else np.asarray(mask, np.float64)
        fixed = references * weights
        ahead, behind = (similarities(fixed, moved * weights, function) for moved in (self.plus, self.minus))
        if not self.step:
            return np.zeros(ahead.shape[::-1])
        return np.ascontiguousarray((ahead - behind).T) / (2 * self.step)


def move(tail: Tail, values: Float32, vectors: Float64, *, axis: int, share: float = STEP, rows: int = 32) -> Moved:
    """Moves one query's activations along each of ``vectors``, both ways, by ``share`` of their length.

    The two passes for a vector serve all references of the query.

    Args:
      values: [...], those of one image.
      vectors: [V, C], unit vectors; each is added at every position.
      axis: the channels' axis of ``values`` without a batch.
      rows: what ``tail`` takes best at once; it changes memory and speed, no result.
    """
    length = float(np.sqrt(np.square(values, dtype=np.float64).sum()))
    step = share * length / np.sqrt(values.size / values.shape[axis])
    spread = [1] * values.ndim
    spread[axis] = values.shape[axis]
    ahead, behind = [], []
    half = max(1, rows // 2)
    for start in range(0, len(vectors), half):
        some = (step * vectors[start : start + half]).astype(np.float32)
        steps = some.reshape(-1, *spread)
        embeddings = tail(np.concatenate([values + steps, values - steps]))
        ahead.append(embeddings[: len(some)])
        behind.append(embeddings[len(some) :])
    return Moved(np.concatenate(ahead), np.concatenate(behind), float(step))


def tcav_scores(positive: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None) -> Float64:
    """TCAV scores [V]: the share of the ``counted`` pairs [P], all by default, whose derivative [V, P] is positive."""
    among = positive if counted is None else positive[:, counted]
    if not among.shape[1]:
        raise ValueError("a TCAV score needs a pair")
    shares: Float64 = among.mean(axis=1)
    return shares


def welch(scores: Float64, others: Float64) -> float:
    """The two-sided p-value of Welch's t-test that ``scores`` and ``others``, two or more each, have the same mean.

    B. L. Welch, "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34, 1947. Where all scores of both sides are equal within their side, the means decide: 1 or 0.
    """
    if min(len(scores), len(others)) < 2:
        raise ValueError(f"a test needs two scores on each side, got {len(scores)} and {len(others)}")
    # a constant's computed variance may be a rounding error above 0, and would then be divided by
    parts = [0.0 if np.ptp(side) == 0 else float(np.var(side, ddof=1)) / len(side) for side in (scores, others)]
    difference = float(np.mean(scores) - np.mean(others))
    if not sum(parts):
        return 1.0 if scores[0] == others[0] else 0.0
    t = difference / np.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (scores, others), strict=True)
    )
    return float(2 * special.stdtr(freedom, -abs(t)))


@dataclass(frozen=True)
class SettledPriors:
    """Priors [A], and by what the insignificant ones were replaced."""

    priors: Float64
    significant: NDArray[np.bool_]  # [A]
    replacement: float
    every: bool
    """Whether no score is significant, so that all priors are the mean of all scores."""


def settle_priors(scores: Float64, p_values: Float64, alpha: float) -> SettledPriors:
    """Priors from TCAV scores [A] and their p-values [A], both NaN for attributes that could not be tested.

    Significant is a p-value below ``alpha`` / m, m the number of attributes tested (Bonferroni). Significant scores are
    priors; all others become the mean of the significant ones, which favours and disfavours no attribute. Where none
    is significant, every prior is the mean of all scores: the priors then rank nothing. ValueError where none was
    tested.
    """
    tested = ~np.isnan(scores)
    if not tested.any():
        raise ValueError("no attribute was tested")
    significant = tested & (np.nan_to_num(p_values, nan=1.0) < alpha / tested.sum())
    every = not significant.any()
    mean = float(scores[tested if every else significant].mean())
    return SettledPriors(np.where(significant, scores, mean), significant, mean, every)
