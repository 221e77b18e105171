"""How good are explanations by attributes, with intervals: the explainers that are compared, and their figures.

Pairs of one query are nearly one observation, so everything is resampled by queries. A seed is another training of the
attribute network and other random concepts; figures are means over seeds, and a resample draws the same queries of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.ranking.evidence import RankingDataset
from transforms.core.attributes.ranking import Phi, Ranking, Scales
from transforms.core.metrics.removal import Judgement, Oracle
from transforms.core.records import Float64
from transforms.core.statistics.bootstrap import Interval, bootstrap
from transforms.core.statistics.calibration import KINDS, Evidence, Kind, Point, fit_scales, search_phi, simplex

RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Explainer:
    """Which parts a ranking has (confidence, map match, prior), and whether saliency supervised its network."""

    name: str
    parts: tuple[bool, bool, bool]
    supervised: bool = False

    def grid(self) -> tuple[Phi, ...]:
        """The phi that it may have."""
        return tuple(
            phi for phi in simplex(prior=True) if all(part or not w for part, w in zip(self.parts, phi, strict=True))
        )


EXPLAINERS = (
    Explainer("random attribute", (False, False, False)),
    Explainer("most confident attribute", (True, False, False)),
    Explainer("confidence + prior", (True, False, True)),
    Explainer("confidence + map match, unsupervised", (True, True, False)),
    Explainer("confidence + map match + prior, unsupervised", (True, True, True)),
    Explainer("confidence + map match, supervised", (True, True, False), True),
    Explainer("SANE: confidence + map match + prior, supervised", (True, True, True), True),
)
SANE = EXPLAINERS[-1]


@dataclass(frozen=True, eq=False)
class Judged:
    """One explainer with one seed: the query of each pair [P], and how it did on each."""

    queries: NDArray[np.str_] = field(repr=False)
    judgement: Judgement


def search(explainer: Explainer, evidence: Evidence, oracle: Oracle) -> tuple[Kind, Point]:
    """The kind of scale and the phi that score best on validation pairs."""
    found = [
        (kind, search_phi(evidence, oracle, fit_scales(kind, evidence, oracle), explainer.grid()).best)
        for kind in KINDS
    ]
    return max(found, key=lambda one: (one[1].removal, one[1].top1))


def scores(explainer: Explainer, evidence: Evidence, phi: Phi, scales: Scales) -> Float64:
    """e_a [P, A] of the explainer's ranking."""
    priors = None if evidence.prior is None else tuple(evidence.prior.tolist())
    return Ranking(phi, scales, priors).scores(evidence.confidence, evidence.match)


def random_scores(shape: tuple[int, ...], seed: int) -> list[Float64]:
    """Rankings that know nothing: ``RANDOM_DRAWS`` of scores [P, A]."""
    rng = np.random.default_rng(seed)
    return [rng.random(shape) for _ in range(RANDOM_DRAWS)]


def limits(valid: RankingDataset, test: RankingDataset, prior: Float64, seed: int) -> dict[str, list[Float64]]:
    """Scores [P, A] for test pairs of rankings that know the query's attributes, so that recognition costs nothing.

    What is left to choose is which of its own explains the match: at random, by the map match, by the prior, by the
    mean drop that an attribute had on validation pairs, and by that with what is particular to the pair: how far its
    match is from the attribute's mean, weighed by a tenth (the best of a few weights on validation pairs).
    """
    own = test.on_query
    removable = valid.on_query & np.isfinite(valid.drops)
    counts = np.maximum(removable.sum(axis=0), 1)
    drop = np.where(removable, valid.drops, 0).sum(axis=0) / counts
    usual = np.where(valid.on_query, valid.match, 0).sum(axis=0) / np.maximum(valid.on_query.sum(axis=0), 1)
    chances = random_scores(own.shape, seed)
    return {
        "one at random": [np.where(own, some, -1) for some in chances],
        "by the map match": [np.where(own, test.match, -2)],
        "by the prior": [np.where(own, prior, -1)],
        "by its mean drop on validation pairs": [np.where(own, drop, -3)],
        "by that and the pair's own match": [np.where(own, drop + 0.1 * (test.match - usual), -3)],
    }


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the pairs of each query, all seeds together, [Q] each: of an explainer's first drops, of the oracle's,
    of pairs whose oracle is first or among the first five, and of pairs. ``names`` are the queries."""

    names: NDArray[np.str_] = field(repr=False)
    first: Float64
    oracle: Float64
    top1: Float64
    top5: Float64
    pairs: Float64

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Sums:
        """The sums of one explainer over its seeds, or over random draws."""
        names = np.unique(np.concatenate([one.queries[one.judgement.judged] for one in judged]))
        totals = np.zeros((5, len(names)))
        for one in judged:
            pairs = one.judgement.judged
            at, ranks = np.searchsorted(names, one.queries[pairs]), one.judgement.rank[pairs]
            values = (one.judgement.first[pairs], one.judgement.oracle[pairs], ranks <= 1, ranks <= 5, pairs[pairs])
            for total, value in zip(totals, values, strict=True):
                np.add.at(total, at, value)
        return cls(names, *totals)

    def figures(self, drawn: NDArray[np.int64]) -> dict[str, float]:
        """Figures over the drawn queries: ``drop`` (mean of the first attribute's), ``removal`` (in units of the
        oracle's), ``top1`` and ``top5``."""
        pairs = self.pairs[drawn].sum()
        return {
            "drop": float(self.first[drawn].sum() / pairs),
            "removal": float(self.first[drawn].sum() / self.oracle[drawn].sum()),
            "top1": float(self.top1[drawn].sum() / pairs),
            "top5": float(self.top5[drawn].sum() / pairs),
        }


FIGURES = ("drop", "removal", "top1", "top5")


def intervals(sums: Sums) -> dict[str, Interval]:
    """Each figure with its interval over queries."""
    return {
        name: bootstrap(lambda drawn, name=name: sums.figures(drawn)[name], len(sums.pairs))  # type: ignore[misc]
        for name in FIGURES
    }


def differences(sums: Sums, other: Sums) -> dict[str, Interval]:
    """Each figure of the first less that of the other, over the same queries."""
    if not np.array_equal(sums.names, other.names):
        raise ValueError("differences are of the same queries")
    return {
        name: bootstrap(
            lambda drawn, name=name: sums.figures(drawn)[name] - other.figures(drawn)[name],  # type: ignore[misc]
            len(sums.pairs),
        )
        for name in FIGURES
    }


class Scored(Protocol):
    """Scores [I, A] of images that have attributes ``has`` where they are ``known``, bool [I, A]."""

    @property
    def scores(self) -> Float64: ...

    @property
    def has(self) -> NDArray[np.bool_]: ...

    @property
    def known(self) -> NDArray[np.bool_]: ...


def mean_average_precision(seeds: Sequence[Scored]) -> PrecisionOf:
    """mAP over attributes that some images are known to have and others not, and over ``seeds``: ready to resample."""
    has, known = seeds[0].has, seeds[0].known
    judged = [a for a in range(has.shape[1]) if (has & known)[:, a].any() and (~has & known)[:, a].any()]
    ranked = []
    for seed in seeds:
        for a in judged:
            rows = np.flatnonzero(known[:, a])
            order = rows[np.argsort(-seed.scores[rows, a], kind="stable")]
            ranked.append((order, has[order, a]))
    return PrecisionOf(len(has), len(judged), tuple(ranked))


@dataclass(frozen=True, eq=False)
class PrecisionOf:
    """Images of each attribute in the order of their scores, and whether they have it, for each seed and attribute."""

    images: int
    attributes: int
    ranked: tuple[tuple[NDArray[np.int64], NDArray[np.bool_]], ...] = field(repr=False)

    def __call__(self, drawn: NDArray[np.int64]) -> float:
        """mAP over attributes and seeds when the ``drawn`` images are the test split, copies counting as often."""
        weight = np.bincount(drawn, minlength=self.images).astype(np.float64)
        found = []
        for order, has in self.ranked:
            counted = weight[order]
            hits = np.cumsum(counted * has)
            if not hits[-1]:
                continue  # a resample without any image of the attribute
            precision = hits / np.maximum(np.cumsum(counted), 1)
            found.append(float((precision * counted * has).sum() / hits[-1]))
        return float(np.mean(found))


def compared(sums: Mapping[str, Sums]) -> dict[str, dict[str, Interval]]:
    """SANE's figures less those of every other explainer."""
    return {name: differences(sums[SANE.name], other) for name, other in sums.items() if name != SANE.name}
