"""The measures that need a whole catalogue: attribute removal, and how well attributes are recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from transforms import tables
from transforms.core.errors import NotScored, UnknownCondition, UnknownProduct
from transforms.core.metrics.metric import RemovalMetric
from transforms.core.metrics.registry import of_kind
from transforms.core.metrics.removal import Judgement, Oracle, Removal, attribute_drops
from transforms.core.metrics.retrieval import attribute_precision
from transforms.core.records import Float32, Float64, LoadFailure, Pair, Product
from transforms.evaluating.changed_images import changed_since
from transforms.evaluating.gallery import Gallery
from transforms.serving.bundle import Bundle
from transforms.tables.explained import Explained

RANDOM = "random"
"""A control of attribute removal: a ranking that knows nothing of the pair."""


CONFIDENCE = "confidence"
"""A control of attribute removal: a ranking that knows nothing of the reference."""


Measured = dict[str, float | LoadFailure]
"""By name of the :class:`RemovalMetric`: what one ranking of one pair is worth."""


@dataclass(frozen=True, eq=False)
class EmbeddedProduct:
    """A product with its embedding float32 [D] and the attribute network's scores float32 [A]."""

    product: Product
    embedding: Float32 = field(repr=False)
    scores: Float32 | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class EmbeddedCatalogue:
    """All products that could be embedded, by the order of their ids."""

    bundle: Bundle
    type_column: str | None
    shown: tuple[EmbeddedProduct, ...] = field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The fields: what was made of them is made again where it is needed, and does not travel."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def gallery(self) -> Gallery:
        """The products as attribute removal needs them, perhaps none."""
        products = [one.product for one in self.shown]
        # not np.stack, which knows no shape of nothing
        embeddings = np.array([one.embedding for one in self.shown], np.float32)
        embeddings = embeddings.reshape(len(products), self.bundle.embedding_size)
        return Gallery.of(self.bundle, products, embeddings, self.type_column)

    def drops(self, removal: Removal, pairs: Sequence[Pair]) -> Float64:
        """Drops float64 [P, A] of ``pairs``, all of whose products are in the gallery and whose conditions are known.

        NaN also for the types that a pair's condition joins: they are not removed.
        """
        gallery, attributes = self.gallery, len(self.bundle.vocabulary)
        queries = np.array([gallery.places[pair.query_id] for pair in pairs], np.int64)
        references = np.array([gallery.places[pair.reference_id] for pair in pairs], np.int64)
        drops = np.empty((len(pairs), attributes))
        for condition in dict.fromkeys(pair.condition for pair in pairs):
            of = np.array([pair.condition == condition for pair in pairs])
            found = attribute_drops(gallery.pool(condition), queries[of], references[of], removal)
            found[:, gallery.of_types(condition)] = np.nan
            drops[of] = found[:, :attributes]
        return drops


def removal_rows(
    evaluation_id: str, catalogue: EmbeddedCatalogue, removal: Removal, explained: Sequence[Explained]
) -> Iterator[tables.Row]:
    """Rows of attribute removal of the explanations of one query, and of the controls, or why they have no value.

    Which pairs are judged is read off their drops alone (:class:`transforms.core.metrics.removal.Oracle`), the same for
    all explainers and controls: one that names nothing that can be scored is worth nothing there, and not left out.

    A pair whose query's explanation names attributes has a set of rows of each control, whatever the number of methods:

    ``random``: what an attribute is worth that is drawn from those of the query that can be scored. Its expectation,
    nothing is drawn. It reads the catalogue: an explainer that is no better names any attribute that the query has.

    ``confidence``: the attribute network's scores of the query, highest first, as if the map said nothing. It ranks the
    whole vocabulary, also where the run keeps fewer attributes.
    """
    reasons = [_unusable(catalogue, one) for one in explained]
    pairs = {
        one.target.pair.pair_id: one.target.pair for one, reason in zip(explained, reasons, strict=True) if not reason
    }
    drops = catalogue.drops(removal, list(pairs.values()))
    oracles = {pair_id: oracle_of(line) for pair_id, line in zip(pairs, drops, strict=True)}

    def rows(of: Explained, method: str, measured: Measured | LoadFailure, **more: Any) -> Iterator[tables.Row]:
        for metric in of_kind(RemovalMetric):
            value = measured if isinstance(measured, LoadFailure) else measured[metric.name]
            yield tables.metric_row(
                evaluation_id,
                metric.name,
                method,
                of.target.pair,
                value,
                side=of.target.side,
                model_id=catalogue.bundle.model_id,
                **more,
            )

    compared: set[str] = set()
    for one, reason in zip(explained, reasons, strict=True):
        pair = one.target.pair
        oracle = reason or oracles[pair.pair_id]
        measured = oracle if isinstance(oracle, LoadFailure) else of_named(oracle, catalogue.bundle, one.top or ())
        yield from rows(one, one.method, measured, explainer_id=one.explainer_id)
        if _names_attributes(one) and pair.pair_id not in compared:
            compared.add(pair.pair_id)
            for control, measure in ((RANDOM, of_random), (CONFIDENCE, of_confidence)):
                found = oracle if isinstance(oracle, LoadFailure) else measure(oracle, catalogue, pair.query_id)
                yield from rows(one, control, found, control=True)


def oracle_of(drops: Float64) -> Oracle | LoadFailure:
    """What the rankings of one pair are measured by, or why they cannot be; ``drops`` float64 [A]."""
    oracle = Oracle(drops[None])
    if oracle.judged[0]:
        return oracle
    return LoadFailure.of(
        NotScored(
            "too few products are like the query without one of its attributes"
            if oracle.unscored
            else "no attribute of the query makes the similarity drop"
        )
    )


def of_named(oracle: Oracle, bundle: Bundle, top: Sequence[str]) -> Measured:
    """What the attributes ``top`` that a run keeps of one judged pair, best first, are worth.

    Those that cannot be scored are passed over. Where none is left, the pair is explained by nothing that can be
    checked: ``removal``, ``oracle_first`` and ``oracle_among_five`` are 0. Of fewer than five that are kept the oracle
    might have been the next, so that ``oracle_among_five`` has no value, unless the vocabulary has no more.
    """
    places = {name: at for at, name in enumerate(bundle.vocabulary)}
    measured = _measured(oracle.judge_named([[places[name] for name in top if name in places]]))
    if len(top) >= min(5, len(bundle.vocabulary)):
        return measured
    few = NotScored("the run keeps fewer than five attributes of a pair: audit with --top 5 or more")
    return measured | {one.name: LoadFailure.of(few) for one in of_kind(RemovalMetric) if one.among_five}


def of_random(oracle: Oracle, catalogue: EmbeddedCatalogue, query_id: str) -> Measured:
    """What the query's attributes that can be scored are worth in random order, of one judged pair: expectations.

    Of n of them, the oracle is one: it comes first with probability 1 / n, and among five with min(1, 5 / n).
    """
    place, attributes = catalogue.gallery.places[query_id], len(catalogue.bundle.vocabulary)
    own = oracle.drops[0][oracle.ranked[0] & catalogue.gallery.has[place, :attributes]]
    return {metric.name: metric.of_random(own) for metric in of_kind(RemovalMetric)}


def of_confidence(oracle: Oracle, catalogue: EmbeddedCatalogue, query_id: str) -> Measured | LoadFailure:
    """What the attribute network's ranking of the query is worth, of one judged pair."""
    scores = catalogue.shown[catalogue.gallery.places[query_id]].scores
    if scores is None:
        return LoadFailure.of(NotScored("the attribute network has no scores of the query"))
    return _measured(oracle.judge(scores[None].astype(np.float64)))


def _measured(judgement: Judgement) -> Measured:
    """``judgement`` of one judged pair, by metric."""
    return {metric.name: float(metric.of_ranking(judgement)) for metric in of_kind(RemovalMetric)}


def _unusable(catalogue: EmbeddedCatalogue, explained: Explained) -> LoadFailure | None:
    pair, places = explained.target.pair, catalogue.gallery.places
    for product in (pair.query_id, pair.reference_id):
        if product not in places:
            return LoadFailure.of(UnknownProduct(f"the catalogue has no usable product with the id {product!r}"))
    if pair.condition is not None and pair.condition not in catalogue.bundle.conditions:
        return LoadFailure.of(UnknownCondition(f"the bundle has no condition {pair.condition!r}"))
    now = catalogue.gallery.similarity(places[pair.query_id], places[pair.reference_id], pair.condition)
    if (changed := changed_since(explained.similarity, now)) is not None:
        return changed
    if not _names_attributes(explained):
        return LoadFailure.of(NotScored("attributes are removed from queries whose explanation names attributes"))
    return None


def _names_attributes(explained: Explained) -> bool:
    """Whether attributes of its query were ranked, however few are kept."""
    return explained.target.side == "query" and explained.top is not None


def precision_rows(evaluation_id: str, catalogue: EmbeddedCatalogue) -> Iterator[tables.Row]:
    """A row of average precision for each attribute of the vocabulary that products have and others lack."""
    bundle, gallery = catalogue.bundle, catalogue.gallery
    attributes = len(bundle.vocabulary)
    some = [at for at, one in enumerate(catalogue.shown) if one.scores is not None]
    if not some:
        return
    scores = np.stack([one.scores for one in catalogue.shown if one.scores is not None])
    has, known = gallery.has[some, :attributes], gallery.known[some, :attributes]
    _, precisions = attribute_precision(scores, has, known)
    for at, name in enumerate(bundle.vocabulary):
        if not np.isnan(precisions[at]):
            yield {
                "evaluation_id": evaluation_id,
                "metric": "average_precision",
                "method": "attributes",
                "control": False,
                "stratum": "all",
                "weight": 1.0,
                "model_id": bundle.attribute_model_id,
                "attribute": name,
                "value": float(precisions[at]),
                "count": int((has[:, at] & known[:, at]).sum()),
            }
