"""What attributes are ranked by, for every pair of an audit: the parts of the score, and what each attribute is worth.

The maps are those that the audit left in its tables, so they are such as the ranking will meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.ranking.catalogue_embeddings import CatalogueEmbeddings, embed_catalogue, require_attributes
from export.ranking.products import counted
from export.training.splits import SPLITS
from transforms import storage
from transforms.core.attributes.ranking import match_scores
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.metrics.removal import Removal, attribute_drops
from transforms.core.records import Float64
from transforms.core.since_audit import same_similarity
from transforms.core.statistics.calibration import Evidence
from transforms.evaluating.gallery import Gallery
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.models import Serving
from transforms.tables import runs
from transforms.tables.explained import MAY_LACK

# What an audit left in its tables


@dataclass(frozen=True)
class _Run:
    """A complete run and the method whose maps are read."""

    run: runs.Run
    method: str

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of the rows of this method that explain the query, some hundred rows at a time."""
        for batch in self.run.batches(["method", "side", *columns], may_lack=MAY_LACK):
            rows = zip(_values(batch, "method"), _values(batch, "side"), strict=True)
            kept = [method == self.method and side in (None, "query") for method, side in rows]
            yield batch.filter(pa.array(kept, pa.bool_()))


def _find_run(maps: AuditMaps, bundle: Bundle) -> _Run:
    """The run of ``maps`` and its method; UsageError where it will not do."""
    method, run = maps.method, runs.find(maps.tables, maps.run_id)
    # a map is the similarity's alone: whatever attribute network the audited bundle had, if any, does not matter
    if run.row["model_id"] != bundle.model_id:
        raise UsageError(
            f"run {run.id} is of another similarity model than the bundle: its model_id is {run.row['model_id']}, the "
            f"bundle's is {bundle.model_id}. Audit validation pairs with this bundle, or choose a run with --run-id."
        )
    methods = sorted({one for batch in run.batches(["method"]) for one in _values(batch, "method")})
    if not methods:
        raise UsageError(f"run {run.id} explains no pair")
    if method is None and len(methods) > 1:
        raise UsageError(f"run {run.id} has maps of {', '.join(methods)}: choose one with --method")
    if method is not None and method not in methods:
        raise UsageError(f"run {run.id} has no maps of {method!r}; it has those of {', '.join(methods)}")
    return _Run(run, method or methods[0])


def _values(batch: pa.RecordBatch, column: str) -> list[Any]:
    values: list[Any] = batch.column(column).to_pylist()
    return values


def _maps(batch: pa.RecordBatch) -> Iterator[Float64 | None]:
    """The maps [h, w] of a batch, one by one; None for what is none."""
    sizes = zip(_values(batch, "map_height"), _values(batch, "map_width"), strict=True)
    for cells, (height, width) in zip(batch.column("map"), sizes, strict=True):
        found = runs.saliency_map(cells, height, width)
        yield None if found is None else found.astype(np.float64)


# Both together


@dataclass(frozen=True, eq=False)
class RankingDataset:
    """The parts of the ranking of the pairs of a run, and what each attribute is worth; sorted by query and pair.

    Attributes:
      pairs, queries, references: ids, [P]. conditions: what the pairs are compared under, [P].
      splits: the split of each pair's query, as ``CatalogueEmbeddings`` has it, [P].
      similarity: float64 [P].
      confidence, match: the parts, float64 [P, A]. prior: the bundle's, float64 [A], or None.
      drops: of attribute removal, float64 [P, A], as ``transforms.core.metrics.removal.attribute_drops`` gives them.
      on_query: which attributes the query has, bool [P, A].
      vocabulary: names, [A].
      run_id, method: whose maps they are.
      left_out: how many pairs and products could not be used, by reason.
    """

    pairs: tuple[str, ...] = field(repr=False)
    queries: tuple[str, ...] = field(repr=False)
    references: tuple[str, ...] = field(repr=False)
    conditions: tuple[str | None, ...] = field(repr=False)
    splits: tuple[str | None, ...] = field(repr=False)
    similarity: Float64 = field(repr=False)
    confidence: Float64 = field(repr=False)
    match: Float64 = field(repr=False)
    prior: Float64 | None = field(repr=False)
    drops: Float64 = field(repr=False)
    on_query: NDArray[np.bool_] = field(repr=False)
    vocabulary: tuple[str, ...] = field(repr=False)
    run_id: str
    method: str
    left_out: Mapping[str, int]

    @property
    def evidence(self) -> Evidence:
        """What the ranking is made of."""
        return Evidence(self.confidence, self.match, self.prior)

    def of_split(self, split: str) -> RankingDataset:
        """The pairs whose query is of ``split``; ``left_out`` counts the others. UsageError where there is none."""
        split = SPLITS.get(split.lower(), split)
        rows = [at for at, one in enumerate(self.splits) if one == split]
        if not rows:
            found = Counter(one or "no split" for one in self.splits)
            raise UsageError(
                f"no query of run {self.run_id} is of the split {split!r}; its pairs' queries are: {counted(found)}. "
                "Audit pairs of that split, or name another with --split; all takes every pair."
            )
        left_out = dict(self.left_out)
        if others := len(self.pairs) - len(rows):
            left_out["query is of another split"] = others
        texts = ("pairs", "queries", "references", "conditions", "splits")
        arrays = ("similarity", "confidence", "match", "drops", "on_query")
        chosen: dict[str, Any] = {name: tuple(getattr(self, name)[at] for at in rows) for name in texts}
        chosen |= {name: getattr(self, name)[rows] for name in arrays}
        return replace(self, **chosen, left_out=left_out)


@dataclass(frozen=True)
class AuditMaps:
    """Whose maps are read: the folder ``tables`` that an audit wrote to, a run of it, a method of that.

    ``run_id`` is a complete run, None for the one that was started last. ``method`` is needed where it has several.
    """

    tables: str
    run_id: str | None = None
    method: str | None = None


def collect(
    maps: AuditMaps,
    serving: Serving,
    catalogue: str,
    *,
    removal: Removal | None = None,
    embeddings: CatalogueEmbeddings | None = None,
    access: storage.Access | None = None,
    echo: Echo = print,
) -> RankingDataset:
    """The parts of the ranking for every pair of a run whose query is explained, and its attributes' drops.

    The match is that of the stored map, which is an area average of the map that the audit matched: equal where the
    cells of the activation maps are made of whole stored ones, close to it elsewhere.

    Args:
      maps: of a run of the bundle's similarity model.
      serving: the bundle, and how it is served.
      catalogue: its products are the queries and references, by their ids, and what stands for a query.
      removal: which products stand for a query without an attribute.
      embeddings: what :func:`embed_catalogue` made of this bundle and catalogue, where several runs or methods are
        collected.
      access: as for :func:`embed_catalogue`.

    Pairs whose products cannot be used, or whose similarity is not what the run says, since the images have changed,
    are counted and said, and so are those without a map of finite numbers. Under a condition that joins types, products
    of the query's own type stand for it, and types are not scored. UsageError where none is left, or a table cannot be
    read.
    """
    bundle = embeddings.gallery.bundle if embeddings else bundles.read(serving.bundle)
    run = _find_run(maps, require_attributes(bundle, serving.bundle))
    if embeddings is None:
        queries = {query for some in run.batches(["query_id"]) for query in _values(some, "query_id")}
        embeddings = embed_catalogue(serving, catalogue, queries, access=access, echo=echo)
    rows, left_out = _usable(run, embeddings)
    if left_out:
        echo(f"pairs left out: {counted(left_out)}")
    if not rows:
        raise UsageError(f"no pair of run {run.id} can be used with this catalogue: {counted(left_out)}")
    rows.sort(key=lambda row: (row.query, row.pair))
    return replace(_dataset(run, rows, embeddings, removal), left_out={**embeddings.left_out, **left_out})


def _dataset(
    run: _Run, rows: Sequence[_Row], embeddings: CatalogueEmbeddings, removal: Removal | None
) -> RankingDataset:
    """The dataset of ``rows``, in their order, which leaves nothing out."""
    gallery, places = embeddings.gallery, embeddings.gallery.places
    bundle = gallery.bundle
    queries = np.array([places[row.query] for row in rows])
    return RankingDataset(
        pairs=tuple(row.pair for row in rows),
        queries=tuple(row.query for row in rows),
        references=tuple(row.reference for row in rows),
        conditions=tuple(row.condition for row in rows),
        splits=tuple(embeddings.splits[place] for place in queries.tolist()),
        similarity=np.array([row.similarity for row in rows]),
        confidence=np.stack([embeddings.confidence[place] for place in queries.tolist()]).astype(np.float64),
        match=np.stack([row.match for row in rows]),
        prior=None if bundle.priors is None else np.array(bundle.priors, np.float64),
        drops=_drops(rows, gallery, removal),
        on_query=gallery.has[queries, : len(bundle.vocabulary)],
        vocabulary=bundle.vocabulary,
        run_id=run.id,
        method=run.method,
        left_out={},
    )


def _drops(rows: Sequence[_Row], gallery: Gallery, removal: Removal | None) -> Float64:
    """What each attribute of the vocabulary is worth to each pair of ``rows``, NaN where nothing tells: [P, A]."""
    queries, references = (
        np.array([gallery.places[getattr(row, side)] for row in rows]) for side in ("query", "reference")
    )
    attributes = len(gallery.bundle.vocabulary)
    drops = np.empty((len(rows), attributes))
    for condition in dict.fromkeys(row.condition for row in rows):
        of = np.array([row.condition == condition for row in rows])
        found = attribute_drops(gallery.pool(condition), queries[of], references[of], removal)
        found[:, gallery.of_types(condition)] = np.nan
        drops[of] = found[:, :attributes]
    return drops


@dataclass(frozen=True)
class _Row:
    """One explained pair."""

    pair: str
    query: str
    reference: str
    condition: str | None
    similarity: float
    match: Float64  # [A]


def _usable(run: _Run, embeddings: CatalogueEmbeddings) -> tuple[list[_Row], Counter[str]]:
    """The pairs of ``run`` whose products are known, with their matches, and how many are not, by reason."""
    gallery, places = embeddings.gallery, embeddings.gallery.places
    rows: list[_Row] = []
    left_out: Counter[str] = Counter()
    keys = ("pair_id", "query_id", "reference_id", "condition", "similarity")
    for batch in run.batches([*keys, "map", "map_height", "map_width"]):
        values = zip(*(_values(batch, key) for key in keys), _maps(batch), strict=True)
        for pair, query, reference, condition, audited, saliency in values:
            if places.get(query) not in embeddings.activations or reference not in places:
                left_out["query or reference is no usable product of the catalogue"] += 1
                continue
            if condition is not None and condition not in gallery.bundle.conditions:
                left_out["the bundle has no such condition"] += 1
                continue
            if saliency is None:
                left_out["the map is none, or not of finite numbers"] += 1
                continue
            place = places[query]
            similarity = gallery.similarity(place, places[reference], condition)
            if not same_similarity(audited, similarity):
                left_out["similarity is not the audited one: an image has changed"] += 1
                continue
            match = match_scores(embeddings.activations[place], saliency)
            rows.append(_Row(pair, query, reference, condition, similarity, match))
    return rows, left_out
