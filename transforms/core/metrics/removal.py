"""Attribute removal: how much of a match goes with an attribute, and how good an explanation by attributes is.

After Plummer et al., "Why do These Match?" (ECCV 2020, section 4): pixels can be hidden, an attribute cannot, so it is
removed by taking another product instead, one that is like the query in everything but this attribute. For a pair
(q, r) and an attribute a of q, with Q(q, a) the products nearest to q that do not have a::

    drop_a = s(q, r) - mean of s(q', r) over q' in Q(q, a)

What makes the similarity drop most is what the match was about: the *oracle*. An explanation is good when the attribute
that it ranks first makes the similarity drop nearly as far.

Nearest means: few columns differ, a's own left aside (a black shirt without black has another colour), and of equally
many the highest cosine with q. Columns are counted and not names: where a column has one value, another value changes
two names, and a limit of "one other column" is what a reader can picture. Where every attribute is a column of its own,
as in catalogues with several attributes of a kind, that is the Hamming distance of the attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float32, Float64
from transforms.core.similarity import SimilarityFunction, similarities

Bools = NDArray[np.bool_]
Indices = NDArray[np.integer]

UNNAMED = int(np.iinfo(np.int64).max)
"""The rank of an oracle that a list of some attributes does not name."""


@dataclass(frozen=True)
class Removal:
    """Which products stand for the query without an attribute.

    The ``neighbours`` nearest are averaged, or as many as there are, but no fewer than ``least``: else the attribute is
    not scored. They differ from the query in at most ``max_distance`` other columns; None: in any number. By default in
    none: a drop that comes with another column's change is that column's too, and the attributes that only such
    products lack would look like the important ones.
    """

    neighbours: int = 5
    least: int = 3
    max_distance: int | None = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.neighbours or (self.max_distance is not None and self.max_distance < 0):
            raise ValueError(
                f"expected 1 <= least <= neighbours and a max_distance of at least 0, got least={self.least}, "
                f"neighbours={self.neighbours} and max_distance={self.max_distance}"
            )


@dataclass(frozen=True, eq=False)
class Pool:
    """The products that may stand for a query; a product is named by its place, 0 to I - 1.

    Attributes:
      has: which product has which attribute, bool [I, A].
      known: False where the catalogue does not say, bool [I, A]: an empty cell of the attribute's column.
      columns: the column of each attribute, integers [A]; a column may have one value a product or several.
      embeddings: float32 [I, D], finite, multiplied by a condition's mask where the pairs have one.
      function: how the model compares embeddings.
      groups: integers [I] where only products of the query's group may stand for it; None: all may. A negative number
        is of no group.
    """

    has: Bools = field(repr=False)
    known: Bools = field(repr=False)
    columns: Indices = field(repr=False)
    embeddings: Float32 = field(repr=False)
    function: SimilarityFunction = "cosine"
    groups: Indices | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (
            self.has.ndim != 2
            or self.known.shape != self.has.shape
            or self.columns.shape != self.has.shape[1:]
            or self.embeddings.ndim != 2
            or len(self.embeddings) != len(self.has)
        ):
            raise ValueError(
                f"expected has [I, A], known [I, A], columns [A] and embeddings [I, D], got {self.has.shape}, "
                f"{self.known.shape}, {self.columns.shape} and {self.embeddings.shape}"
            )
        if not np.isfinite(self.embeddings).all():
            raise ValueError("embeddings must be finite")
        if self.groups is not None and self.groups.shape != self.has.shape[:1]:
            raise ValueError(f"expected groups [I], got {self.groups.shape} for {len(self.has)} products")

    @cached_property
    def copies(self) -> Indices:
        """Integers [I], equal for products of equal embeddings: the same photograph under several ids."""
        return _numbered(self.embeddings)

    @cached_property
    def values(self) -> Indices:
        """What each product has in each column, integers [I, C], equal for equal values; -1 where it is not known.

        Columns ascend as in ``np.unique(columns)``.
        """
        found = np.empty((len(self.has), len(np.unique(self.columns))), np.int64)
        for at, column in enumerate(np.unique(self.columns)):
            names = self.columns == column
            found[:, at] = np.where(self.known[:, names].all(axis=1), _numbered(self.has[:, names]), -1)
        return found

    def under(self, embeddings: Float32, groups: Indices | None = None) -> Pool:
        """The same products as a condition compares them: by other ``embeddings`` [I, D], of ``groups`` [I].

        What does not depend on the condition is not found again: ``values``, and ``copies``, for what shows one
        photograph shows it under every condition.
        """
        other = replace(self, embeddings=embeddings, groups=groups)
        vars(other).update(copies=self.copies, values=self.values)
        return other

    def without(self, query: int, removal: Removal) -> Iterator[tuple[int, Indices]]:
        """Each attribute of the product ``query`` with the products that stand for it without it, nearest first.

        Of equal distance in columns and equal cosine the smaller place comes first. The query and its copies are left
        out, and of each group of copies all but the first: one photograph under many ids is one neighbour. There is one
        more than ``removal.neighbours``, as far as there are: a reference and its copies take away one at most.
        """
        values = self.values
        differs = (values != values[query]) | (values < 0)  # [I, C]; two unknown values are not equal
        distance = differs.sum(axis=1)
        limit = np.inf if removal.max_distance is None else removal.max_distance
        cosine = similarities(self.embeddings[query][None], self.embeddings, "cosine")[0]
        others = self.copies != self.copies[query]
        if self.groups is not None:
            others &= (self.groups == self.groups[query]) & (self.groups >= 0)
        column_of = np.searchsorted(np.unique(self.columns), self.columns)
        for attribute in np.flatnonzero(self.has[query] & self.known[query]).tolist():
            apart = distance - differs[:, column_of[attribute]]
            may = others & self.known[:, attribute] & ~self.has[:, attribute] & (apart <= limit)
            places = np.flatnonzero(may)
            nearest = places[np.lexsort((places, -cosine[places], apart[places]))]
            first = np.sort(np.unique(self.copies[nearest], return_index=True)[1])
            yield attribute, nearest[first][: removal.neighbours + 1]


def attribute_drops(pool: Pool, queries: Indices, references: Indices, removal: Removal | None = None) -> Float64:
    """How far the similarity of each pair drops when an attribute of its query is removed: float64 [P, A].

    Positive: the attribute makes the match; negative: the match would be better without it. 0 where the query is known
    not to have the attribute, which leaves nothing to remove. NaN where it cannot be said: too few products are like
    the query without the attribute, or the catalogue does not say whether the query has it.

    Args:
      pool: the products.
      queries, references: the places of each pair's products, [P]. Neither these nor their copies stand for a query.
      removal: which products do.
    """
    removal = removal or Removal()
    queries, references = np.asarray(queries), np.asarray(references)
    drops = np.where(pool.known[queries] & ~pool.has[queries], 0.0, np.nan)
    for query in np.unique(queries).tolist():
        rows = np.flatnonzero(queries == query)
        found = dict(pool.without(query, removal))
        places = np.unique(np.concatenate([[query], *found.values()]).astype(np.int64))
        scores = similarities(pool.embeddings[references[rows]], pool.embeddings[places], pool.function)
        base = scores[:, np.searchsorted(places, query)]
        for attribute, stand_ins in found.items():
            at = np.searchsorted(places, stand_ins)
            for row, line, whole in zip(rows.tolist(), scores, base.tolist(), strict=True):
                kept = at[pool.copies[stand_ins] != pool.copies[references[row]]][: removal.neighbours]
                if len(kept) >= removal.least:
                    drops[row, attribute] = whole - line[kept].mean()
    return drops


@dataclass(frozen=True, eq=False)
class Judgement:
    """How one explainer did on each of P pairs, and in all of them.

    Attributes:
      judged: which pairs count, bool [P]; the same for all explainers.
      first: the drop of the attribute that the explainer ranks first, float64 [P]; NaN where not judged.
      oracle: the largest drop, float64 [P]; NaN where not judged.
      rank: the oracle's place in the explainer's ranking, int64 [P], 1 for the first; 0 where not judged, ``UNNAMED``
        where the explainer names some attributes only and the oracle is none of them.
    """

    judged: Bools = field(repr=False)
    first: Float64 = field(repr=False)
    oracle: Float64 = field(repr=False)
    rank: NDArray[np.int64] = field(repr=False)

    @property
    def removal(self) -> float:
        """The sum of the first attributes' drops in units of the oracles': 1 is the best, 0 is nothing; NaN of none.

        A ratio of sums: the mean of ratios would be ruled by pairs whose oracle is close to 0.
        """
        total = float(self.oracle[self.judged].sum())
        return float(self.first[self.judged].sum()) / total if total > 0 else float("nan")

    @property
    def top1(self) -> float:
        """The share of judged pairs whose oracle is ranked first; NaN of none."""
        return self._within(1)

    @property
    def top5(self) -> float:
        """The share of judged pairs whose oracle is among the first five; NaN of none."""
        return self._within(5)

    def _within(self, count: int) -> float:
        ranks = self.rank[self.judged]
        return float((ranks <= count).mean()) if len(ranks) else float("nan")


@dataclass(frozen=True, eq=False)
class Oracle:
    """The best explanation of each pair by one attribute, which explainers are measured by.

    ``drops`` float64 [P, A] are those of :func:`attribute_drops`; attributes whose drop is NaN are left out of every
    ranking. A pair is judged where its largest drop is above 0.
    """

    drops: Float64 = field(repr=False)

    def __post_init__(self) -> None:
        if self.drops.ndim != 2 or not self.drops.shape[1]:
            raise ValueError(f"expected drops [P, A] of at least one attribute, got {self.drops.shape}")

    @cached_property
    def ranked(self) -> Bools:
        """Which attributes are ranked, bool [P, A]."""
        return ~np.isnan(self.drops)

    @cached_property
    def best(self) -> NDArray[np.int64]:
        """The attribute with the largest drop, int64 [P]; of equal ones the first of the vocabulary."""
        best: NDArray[np.int64] = np.argmax(np.where(self.ranked, self.drops, -np.inf), axis=1)
        return best

    @cached_property
    def judged(self) -> Bools:
        """Which pairs are judged, bool [P]."""
        return self.drops[np.arange(len(self.drops)), self.best] > 0

    @property
    def unscored(self) -> int:
        """How many pairs are not judged because no attribute of the query could be scored."""
        return int((~(self.ranked & (self.drops != 0)).any(axis=1)).sum())

    @property
    def not_above_zero(self) -> int:
        """How many pairs are not judged because no attribute makes their similarity drop."""
        return len(self.drops) - int(self.judged.sum()) - self.unscored

    def judge(self, scores: Float64) -> Judgement:
        """Judges an explainer by its ``scores`` [P, A], of which higher is better.

        Its ranking is the stable order of falling scores: of equal ones the first of the vocabulary comes first.
        ValueError where a score is not finite.
        """
        if scores.shape != self.drops.shape or not np.isfinite(scores).all():
            raise ValueError(f"expected finite scores {self.drops.shape}, got {scores.shape}")
        rows = np.flatnonzero(self.judged)
        line, best = np.where(self.ranked[rows], scores[rows], -np.inf), self.best[rows]
        of_best = np.take_along_axis(line, best[:, None], axis=1)
        before = (line > of_best) | ((line == of_best) & (np.arange(line.shape[1]) < best[:, None]))
        first, oracle = np.full((2, len(scores)), np.nan)
        rank = np.zeros(len(scores), np.int64)
        first[rows] = self.drops[rows, np.argmax(line, axis=1)]
        oracle[rows] = self.drops[rows, best]
        rank[rows] = 1 + before.sum(axis=1)
        return Judgement(self.judged, first, oracle, rank)

    def judge_named(self, named: Sequence[Sequence[int]]) -> Judgement:
        """Judges an explainer by the attributes that it names for each of P pairs, best first, perhaps not all.

        Attributes that are not ranked are passed over. Where none is left the pair is judged all the same, or an
        explainer would choose by its output what it is judged on: nothing was named that is known to make the match, so
        ``first`` is 0. ValueError where ``named`` has another length.
        """
        if len(named) != len(self.drops):
            raise ValueError(f"expected the names of {len(self.drops)} pairs, got {len(named)}")
        first, oracle = np.full((2, len(named)), np.nan)
        rank = np.zeros(len(named), np.int64)
        for row in np.flatnonzero(self.judged).tolist():
            ranked = [at for at in named[row] if self.ranked[row, at]]
            best = int(self.best[row])
            first[row] = self.drops[row, ranked[0]] if ranked else 0.0
            oracle[row] = self.drops[row, best]
            rank[row] = 1 + ranked.index(best) if best in ranked else UNNAMED
        return Judgement(self.judged, first, oracle, rank)


def judge(scores: Float64, drops: Float64) -> Judgement:
    """Judges one explainer: :meth:`Oracle.judge` for ``scores`` and ``drops`` [P, A]."""
    return Oracle(drops).judge(scores)


def _numbered(rows: NDArray[np.generic]) -> NDArray[np.int64]:
    """A number for each of ``rows`` [I, ...], equal for equal rows."""
    numbers: NDArray[np.int64] = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers
