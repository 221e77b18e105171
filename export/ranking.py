"""How a bundle ranks attributes, calibrated on the pairs of an audit: ``whymatch calibrate``.

The maps are those that an audit of validation pairs left in its tables, so they are such as the ranking will meet. What
the networks say is asked anew, without torch: the attribute network of the queries, the similarity network of all
products, among which attribute removal (``transforms.core.removal``) looks for those like a query but for an attribute.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.splits import SPLITS, with_splits
from transforms import bundle as bundles
from transforms import catalogue as catalogues
from transforms import runs, storage
from transforms.bundle import Bundle
from transforms.core import calibration
from transforms.core.attributes import Ranking, Scales, match_scores
from transforms.core.calibration import KINDS, Evidence, Kind, Point, Search
from transforms.core.errors import AmbiguousProduct, NonFiniteEmbedding, PairError, UsageError
from transforms.core.images import Limits
from transforms.core.removal import Oracle, Pool, Removal, attribute_drops
from transforms.core.similarity import conditioned, similarities
from transforms.core.types import Failure, Float32, Float64, Image, Product, content_id
from transforms.load_image import ImageLoader
from transforms.models import Models, Serving
from transforms.rows import header
from transforms.runtime import Device

Echo = Callable[[str], None]

FOLDS = 5
"""Parts of the queries of a calibration, each ranked by what was fitted to the others."""
_CHANGED = 1e-2
"""A similarity that differs by more than this part from the audited one is of other images: devices differ by less."""


# What the networks say of the catalogue


@dataclass(frozen=True, eq=False)
class Seen:
    """The products of a catalogue that can be used, as a bundle's networks see them.

    Attributes:
      bundle: the bundle.
      places: the place of each product by its id.
      splits: the split of each product as a training has it (:func:`with_splits`), or another name of the catalogue's,
        [I].
      embeddings: float32 [I, D].
      names: the bundle's vocabulary [A], then all other values of its columns in the catalogue: products are alike only
        where values too rare for the vocabulary are equal, too.
      has, known: which product has which of ``names``, and where the catalogue says so; bool [I, A'].
      confidence, activations: the attribute network's scores [A] and maps [A, h, w] of the queries, by place.
      left_out: how many products could not be used, by reason.
      types: each product's value of the column whose values the bundle's conditions join, [I]; None where nothing says
        which column that is, or the catalogue lacks it.
    """

    bundle: Bundle = field(repr=False)
    places: Mapping[str, int] = field(repr=False)
    splits: tuple[str | None, ...] = field(repr=False)
    embeddings: Float32 = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    has: NDArray[np.bool_] = field(repr=False)
    known: NDArray[np.bool_] = field(repr=False)
    confidence: Mapping[int, Float32] = field(repr=False)
    activations: Mapping[int, Float32] = field(repr=False)
    left_out: Mapping[str, int]
    types: tuple[str | None, ...] | None = field(default=None, repr=False)

    def pool(self, condition: str | None) -> Pool:
        """The products as a pair of that condition compares them.

        A condition joins two types, so products of a query's own type alone stand for it.
        """
        number = {column: at for at, column in enumerate(dict.fromkeys(map(_column, self.names)))}
        columns = np.array([number[_column(name)] for name in self.names])
        compared = self._compared(slice(None), condition)
        groups = None
        if condition is not None and self.types is not None:
            number_of = {value: at for at, value in enumerate(dict.fromkeys(self.types))} | {None: -1}
            groups = np.array([number_of[value] for value in self.types])
        return Pool(self.has, self.known, columns, compared, self.bundle.similarity_function, groups)

    def of_types(self, condition: str | None) -> NDArray[np.bool_]:
        """Which of ``names`` are types that the condition joins or keeps apart, bool [A']: they are not removed."""
        joined = None if condition is None or self.types is None else _type_column(self.bundle)
        return np.array([_column(name) == joined for name in self.names])

    def similarity(self, query: int, reference: int, condition: str | None) -> float:
        """The similarity of the products at two places under a condition."""
        one, other = (self._compared(slice(place, place + 1), condition) for place in (query, reference))
        return float(similarities(other, one, self.bundle.similarity_function)[0, 0])

    def _compared(self, places: slice, condition: str | None) -> Float32:
        mask = None if condition is None else np.array(self.bundle.conditions[condition], np.float32)
        return conditioned(self.embeddings[places], mask, self.bundle.similarity_function)


def see(
    bundle: str,
    catalogue: str,
    queries: Collection[str],
    *,
    access: storage.Access | None = None,
    device: Device = "cpu",
    threads: int = 1,
    batch: int | None = None,
    echo: Echo = print,
) -> Seen:
    """Shows every product of ``catalogue`` to the similarity network, and ``queries`` to the attribute network.

    Images are held for one batch only. A product that cannot be used (its row, its id that another row has too, its
    image) is counted by reason, and said.

    Args:
      bundle, catalogue: their addresses.
      queries: ids of products.
      access: what the catalogue's image addresses may name; files under its folder and object storage without it.
      device, threads, batch: as in ``transforms.models.Serving``.

    Raises:
      UsageError: the bundle has no attribute network, the catalogue lacks a column of its vocabulary, or no product
        can be used.
    """
    described = _with_attributes(bundles.read(bundle), bundle)
    columns = tuple(dict.fromkeys(map(_column, described.vocabulary)))
    left_out: Counter[str] = Counter()
    of_type = _type_column(described)
    if of_type is not None and of_type not in header(catalogue):
        echo(f"the catalogue has no column {of_type!r}: any product may stand for a query under a condition")
        of_type = None
    products = _products(catalogue, columns if of_type is None else dict.fromkeys((*columns, of_type)), left_out)
    trained_as = {product.id: product.split for product in with_splits(products)}
    models = Models(Serving(bundle, device, threads, batch))
    access = access or storage.Access(roots=(storage.resolve(".", catalogue),))
    load = ImageLoader(access, Limits(), models.bundle.resize)
    kept: list[Product] = []
    rows: list[Float32] = []
    scores: dict[int, Float32] = {}
    maps: dict[int, Float32] = {}
    said = time.monotonic()
    with ThreadPoolExecutor(max(1, threads)) as workers:
        for start in range(0, len(products), step := models.similarity.batch):
            some = products[start : start + step]
            for product, outcome in _looked_at(some, load, models, queries, workers):
                if isinstance(outcome, PairError):
                    left_out[outcome.reason] += 1
                    continue
                rows.append(outcome[0])
                if product.id in queries:
                    scores[len(kept)], maps[len(kept)] = outcome[1:]
                kept.append(product)
            if (now := time.monotonic()) - said > 10:
                echo(f"  embedded {start + len(some):,} of {len(products):,} products")
                said = now
    if left_out:
        echo(f"products left out: {_counted(left_out)}")
    if not kept:
        raise UsageError(f"no product of {storage.shown(catalogue)} can be used: {_counted(left_out)}")
    types = None if of_type is None else tuple(dict(product.attributes).get(of_type) for product in kept)
    kept = [_within(product, columns) for product in kept]
    names = _names(described.vocabulary, kept)
    has, known = _attributes(names, kept)
    places = {product.id: at for at, product in enumerate(kept)}
    splits = tuple(trained_as.get(product.id, product.split) for product in kept)
    return Seen(described, places, splits, np.stack(rows), names, has, known, scores, maps, dict(left_out), types)


def _type_column(bundle: Bundle) -> str | None:
    """The column whose values the bundle's conditions join, where the record of its training has it."""
    match bundle.training.get("similarity"):
        case {"conditions": {"column": str(column)}} if bundle.conditions:
            return column
    return None


def _within(product: Product, columns: Collection[str]) -> Product:
    """``product`` with its attributes of ``columns`` alone."""
    return replace(product, attributes=tuple(pair for pair in product.attributes if pair[0] in columns))


_Looked = tuple[Float32, Float32, Float32]


def _looked_at(
    products: Sequence[Product],
    load: ImageLoader,
    models: Models,
    queries: Collection[str],
    workers: ThreadPoolExecutor,
) -> Iterator[tuple[Product, _Looked | PairError]]:
    """Each product with its embedding [D] and, of a query, scores [A] and maps [A, h, w], else empty ones."""
    images = list(workers.map(lambda product: _loaded(product, load), products))
    usable = [image for image in images if not isinstance(image, PairError)]
    embedded = iter(_embedded(usable, models) if usable else [])
    for product, image in zip(products, images, strict=True):
        if isinstance(image, PairError):
            yield product, image
            continue
        embedding = next(embedded)
        if isinstance(embedding, PairError):
            yield product, embedding
            continue
        nothing = np.zeros(0, np.float32)
        if product.id not in queries or models.attributes is None:
            yield product, (embedding, nothing, nothing)
            continue
        try:
            scores, maps = models.attributes.predict(image[None])  # alone, as an audit does
        except PairError as error:
            yield product, error
            continue
        yield product, (embedding, scores[0], maps[0])


def _loaded(product: Product, load: ImageLoader) -> Image | PairError:
    try:
        return load(product.image).pixels
    except PairError as error:
        return error


def _embedded(images: Sequence[Image], models: Models) -> list[Float32 | PairError]:
    try:
        rows = models.similarity.embed(np.stack(images))
    except PairError as error:
        # one image must not take the others of its batch with it
        return [error] if len(images) == 1 else [_embedded([image], models)[0] for image in images]
    broken = NonFiniteEmbedding("the embedding holds NaN or infinity")
    return [row if np.isfinite(row).all() else broken for row in rows]


def _products(address: str, columns: Iterable[str], left_out: Counter[str]) -> list[Product]:
    """The products with an id of their own, in the catalogue's order, with the attributes of ``columns``."""
    products: list[Product] = []
    for row in catalogues.read(address, columns=tuple(columns)):
        if isinstance(row, Failure):
            left_out[row.reason] += 1
        else:
            products.append(row)
    rows = Counter(product.id for product in products)
    if twice := sum(rows[product.id] > 1 for product in products):
        left_out[AmbiguousProduct.reason] = twice
    return [product for product in products if rows[product.id] == 1]


def _names(vocabulary: Sequence[str], products: Sequence[Product]) -> tuple[str, ...]:
    others = {name for product in products for name in product.names()} - set(vocabulary)
    return (*vocabulary, *sorted(others))


def _attributes(names: Sequence[str], products: Sequence[Product]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which products have which of ``names``, and of which the catalogue says so, bool [I, A']."""
    columns = list(map(_column, names))
    has = np.zeros((len(products), len(names)), np.bool_)
    known = np.zeros_like(has)
    for at, product in enumerate(products):
        own, filled = set(product.names()), {column for column, _ in product.attributes}
        has[at] = [name in own for name in names]
        known[at] = [column in filled for column in columns]
    return has, known


def _column(name: str) -> str:
    return name.partition("=")[0]


def _with_attributes(bundle: Bundle, address: str) -> Bundle:
    if bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(address)} has no attribute network, so it ranks nothing. Export it with --attributes."
        )
    return bundle


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
        for batch in self.run.batches(["method", "side", *columns], may_lack=_MAY_LACK):
            rows = zip(_values(batch, "method"), _values(batch, "side"), strict=True)
            kept = [method == self.method and side in (None, "query") for method, side in rows]
            yield batch.filter(pa.array(kept, pa.bool_()))


_MAY_LACK = ("map", "map_height", "map_width", "similarity")


def _find_run(tables: str, run_id: str | None, method: str | None, bundle: Bundle) -> _Run:
    """The run ``run_id``, or the one that was started last, and its ``method``; UsageError where it will not do."""
    complete = {run.id: run for run in runs.complete(tables)}
    if run_id is not None and run_id not in complete:
        raise UsageError(f"there is no complete run {run_id!r}; there are {', '.join(sorted(complete))}")
    some = complete.values() if run_id is None else [complete[run_id]]
    run = max(some, key=lambda each: (each.row["started"], each.id))
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
class Parts:
    """The parts of the ranking of the pairs of a run, and what each attribute is worth; sorted by query and pair.

    Attributes:
      pairs, queries, references: ids, [P]. conditions: what the pairs are compared under, [P].
      splits: the split of each pair's query, as ``Seen`` has it, [P].
      similarity: float64 [P].
      confidence, match: the parts, float64 [P, A]. prior: the bundle's, float64 [A], or None.
      drops: of attribute removal, float64 [P, A], as ``transforms.core.removal.attribute_drops`` gives them.
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

    def of_split(self, split: str) -> Parts:
        """The pairs whose query is of ``split``; ``left_out`` counts the others. UsageError where there is none."""
        split = SPLITS.get(split.lower(), split)
        rows = [at for at, one in enumerate(self.splits) if one == split]
        if not rows:
            found = Counter(one or "no split" for one in self.splits)
            raise UsageError(
                f"no query of run {self.run_id} is of the split {split!r}; its pairs' queries are: {_counted(found)}. "
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


def collect(
    tables: str,
    bundle: str,
    catalogue: str,
    *,
    run_id: str | None = None,
    method: str | None = None,
    removal: Removal | None = None,
    seen: Seen | None = None,
    access: storage.Access | None = None,
    device: Device = "cpu",
    threads: int = 1,
    batch: int | None = None,
    echo: Echo = print,
) -> Parts:
    """The parts of the ranking for every pair of a run whose query is explained, and its attributes' drops.

    The match is that of the stored map, which is an area average of the map that the audit matched: equal where the
    cells of the activation maps are made of whole stored ones, close to it elsewhere.

    Args:
      tables: the folder of the tables. run_id: a complete run, the one that was started last by default.
      bundle: its address; the run must be of its similarity model.
      catalogue: its products are the queries and references, by their ids, and what stands for a query.
      method: whose maps; needed where the run has several.
      removal: which products stand for a query without an attribute.
      seen: what :func:`see` made of this bundle and catalogue, where several runs or methods are collected.
      access, device, threads, batch: as for :func:`see`.

    Pairs whose products cannot be used, or whose similarity is not what the run says, since the images have changed,
    are counted and said, and so are those without a map of finite numbers. Under a condition that joins types, products
    of the query's own type stand for it, and types are not scored. UsageError where none is left, or a table cannot be
    read.
    """
    described = _with_attributes(seen.bundle if seen else bundles.read(bundle), bundle)
    run = _find_run(tables, run_id, method, described)
    wanted = {query for some in run.batches(["query_id"]) for query in _values(some, "query_id")}
    if seen is None:
        seen = see(bundle, catalogue, wanted, access=access, device=device, threads=threads, batch=batch, echo=echo)
    rows, left_out = _usable(run, seen)
    order = sorted(range(len(rows)), key=lambda at: (rows[at].query, rows[at].pair))
    if left_out:
        echo(f"pairs left out: {_counted(left_out)}")
    if not rows:
        raise UsageError(f"no pair of run {run.id} can be used with this catalogue: {_counted(left_out)}")
    rows = [rows[at] for at in order]
    queries = np.array([seen.places[row.query] for row in rows])
    references = np.array([seen.places[row.reference] for row in rows])
    attributes = len(described.vocabulary)
    drops = np.empty((len(rows), attributes))
    for condition in dict.fromkeys(row.condition for row in rows):
        of = np.array([row.condition == condition for row in rows])
        found = attribute_drops(seen.pool(condition), queries[of], references[of], removal)
        found[:, seen.of_types(condition)] = np.nan
        drops[of] = found[:, :attributes]
    return Parts(
        pairs=tuple(row.pair for row in rows),
        queries=tuple(row.query for row in rows),
        references=tuple(row.reference for row in rows),
        conditions=tuple(row.condition for row in rows),
        splits=tuple(seen.splits[place] for place in queries.tolist()),
        similarity=np.array([row.similarity for row in rows]),
        confidence=np.stack([seen.confidence[place] for place in queries.tolist()]).astype(np.float64),
        match=np.stack([row.match for row in rows]),
        prior=None if described.priors is None else np.array(described.priors, np.float64),
        drops=drops,
        on_query=seen.has[queries, :attributes],
        vocabulary=described.vocabulary,
        run_id=run.id,
        method=run.method,
        left_out={**seen.left_out, **left_out},
    )


@dataclass(frozen=True)
class _Row:
    """One explained pair."""

    pair: str
    query: str
    reference: str
    condition: str | None
    similarity: float
    match: Float64  # [A]


def _usable(run: _Run, seen: Seen) -> tuple[list[_Row], Counter[str]]:
    """The pairs of ``run`` whose products are known, with their matches, and how many are not, by reason."""
    rows: list[_Row] = []
    left_out: Counter[str] = Counter()
    keys = ("pair_id", "query_id", "reference_id", "condition", "similarity")
    for batch in run.batches([*keys, "map", "map_height", "map_width"]):
        values = zip(*(_values(batch, key) for key in keys), _maps(batch), strict=True)
        for pair, query, reference, condition, audited, saliency in values:
            if seen.places.get(query) not in seen.activations or reference not in seen.places:
                left_out["query or reference is no usable product of the catalogue"] += 1
                continue
            if condition is not None and condition not in seen.bundle.conditions:
                left_out["the bundle has no such condition"] += 1
                continue
            if saliency is None:
                left_out["the map is none, or not of finite numbers"] += 1
                continue
            place = seen.places[query]
            similarity = seen.similarity(place, seen.places[reference], condition)
            # the other way round a NaN would pass
            if audited is None or not abs(similarity - audited) <= _CHANGED * max(1.0, abs(audited)):
                left_out["similarity is not the audited one: an image has changed"] += 1
                continue
            match = match_scores(seen.activations[place], saliency)
            rows.append(_Row(pair, query, reference, condition, similarity, match))
    return rows, left_out


# The calibration


@dataclass(frozen=True)
class Calibration:
    """A bundle's new ranking: ``kind`` of its scales, ``scales`` and ``phi``, and how all of them were found.

    ``searches`` has every kind that was tried with the scales and the search on all pairs: their figures are those of
    the pairs that they were fitted to. ``held_out`` has the figures of each kind on queries that it was not fitted to,
    with the phi of all pairs. ``alone`` is the confidence without anything else, and ``before`` the ranking that the
    bundle had; neither was fitted here.
    """

    kind: Kind
    scales: Scales
    phi: tuple[float, float, float]
    searches: Mapping[Kind, tuple[Scales, Search]]
    held_out: Mapping[Kind, Point]
    alone: Point
    before: Point


def calibrate(parts: Parts, kinds: Sequence[Kind] = KINDS, before: Ranking | None = None) -> Calibration:
    """The scales and the phi that score best on ``parts``: by ``removal``, then ``top1``, then the order of ``kinds``.

    What is compared are figures by cross-fitting: the queries are dealt to ``FOLDS`` folds by a hash of their ids, and
    the pairs of each are ranked by what was fitted to the others. Figures of the fitted pairs themselves would favour
    ``isotonic``, which has the most to fit. The kind that is chosen is then fitted to all pairs.

    ``before`` is the ranking to compare with. UsageError where attribute removal cannot judge pairs of two queries.
    """
    oracle, evidence = Oracle(parts.drops), parts.evidence
    if not oracle.judged.any():
        raise UsageError(
            f"none of the {len(parts.pairs):,} pairs can be judged: of {oracle.unscored:,} no attribute could be "
            f"removed, of {oracle.not_above_zero:,} none makes the similarity drop. Take more pairs, a larger "
            "catalogue, or --max-distance 1."
        )
    folds = _folds(parts.queries, oracle.judged)
    searches: dict[Kind, tuple[Scales, Search]] = {}
    held_out: dict[Kind, Point] = {}
    for kind in kinds:
        scales = calibration.fit_scales(kind, evidence, oracle)
        searches[kind] = scales, calibration.search_phi(evidence, oracle, scales)
        judgement = calibration.held_out(kind, evidence, oracle, folds)
        held_out[kind] = Point.of(searches[kind][1].best.phi, judgement)
    best = max(kinds, key=lambda kind: (held_out[kind].removal, held_out[kind].top1))
    before = before or Ranking()
    old = before.scores(parts.confidence, parts.match)
    return Calibration(
        kind=best,
        scales=searches[best][0],
        phi=searches[best][1].best.phi,
        searches=searches,
        held_out=held_out,
        alone=Point.of((1.0, 0.0, 0.0), oracle.judge(parts.confidence)),
        before=Point.of(before.phi, oracle.judge(old)),
    )


def _folds(queries: Sequence[str], judged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The fold of each pair [P]: queries are dealt in the order of their hashes, those with a judged pair first."""
    with_judged = {query for query, one in zip(queries, judged.tolist(), strict=True) if one}
    if len(with_judged) < 2:
        raise UsageError(
            "pairs of a single query can be judged, so no other one can say whether what is fitted to it holds: take "
            "more pairs, a larger catalogue, or --max-distance 1"
        )
    dealt = sorted(set(queries), key=lambda query: (query not in with_judged, content_id(query, letter="q", digits=64)))
    fold = {query: at % FOLDS for at, query in enumerate(dealt)}
    return np.array([fold[query] for query in queries])


def calibrate_command(
    *,
    bundle: Path,
    catalogue: str,
    tables: str,
    run_id: str | None = None,
    split: str = "valid",
    method: str | None = None,
    scale: Kind | Literal["best"] = "best",
    removal: Removal | None = None,
    record: Path | None = None,
    access: storage.Access | None = None,
    device: Device = "cpu",
    threads: int = 1,
    echo: Echo = print,
) -> Calibration:
    """Calibrates the ranking of ``bundle``, a local folder, on a run over validation pairs, and writes it there.

    What the bundle says else, such as a description, may change meanwhile: it is read again before it is written.

    Args:
      split: pairs whose query is of this split are used, "all" for every pair.
      scale: the kind of scales; "best" for the one that does best on queries that it was not fitted to.
      record: a JSON file for everything that was tried.
      bundle, catalogue, tables, ...: as for :func:`collect`.

    Raises:
      UsageError: the run, the bundle and the catalogue do not belong together, no query is of the split, nothing can be
        judged, or the bundle's networks, names or priors changed meanwhile. Nothing is written then.
    """
    removal = removal or Removal()
    described = _with_attributes(bundles.read(str(bundle)), str(bundle))
    parts = collect(
        tables,
        str(bundle),
        catalogue,
        run_id=run_id,
        method=method,
        removal=removal,
        access=access,
        device=device,
        threads=threads,
        echo=echo,
    )
    if split != "all":
        parts = parts.of_split(split)
    found = calibrate(parts, KINDS if scale == "best" else (scale,), described.ranking)
    for line in _told(parts, found):
        echo(line)
    now = _unchanged(bundle, described)
    if record is not None:
        _replace_text(record, json.dumps(_recorded(parts, found, removal), indent=1, ensure_ascii=False) + "\n")
    rewrite(replace(now, phi=found.phi, scales=found.scales), bundle)
    echo(f"{bundle / bundles.MANIFEST}: phi {_phi(found.phi)} on the scale {found.kind}")
    return found


def _unchanged(folder: Path, before: Bundle) -> Bundle:
    """The bundle in ``folder`` as it is now; UsageError where what was calibrated on is not what it was."""
    now = bundles.read(str(folder))
    for name in ("model_id", "attribute_model_id", "vocabulary", "priors"):
        if getattr(now, name) != getattr(before, name):
            raise UsageError(
                f"{folder}: its {name} changed while it was calibrated, so phi and scales would not fit. Nothing was "
                "written: calibrate again when no other command changes the bundle"
            )
    return now


def rewrite(bundle: Bundle, folder: Path) -> None:
    """Replaces ``bundle.json`` in ``folder`` in one step: a reader finds the old one or the new one, never a part.

    BundleError, and the old one stays, where the files there are not those that ``bundle`` names.
    """
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{bundles.MANIFEST}-", dir=folder))
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        # links, so that the bundle is checked against its files where they are
        for path in folder.iterdir():
            if path.is_file() and path.name != bundles.MANIFEST:
                (staging / path.name).symlink_to(path.resolve())
        written = bundles.write(bundle, staging)
        with written.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(written, folder / bundles.MANIFEST)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        private = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        private.write_text(text, encoding="utf-8")
        os.replace(private, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _told(parts: Parts, found: Calibration) -> Iterator[str]:
    oracle = Oracle(parts.drops)
    queries = dict(zip(parts.queries, parts.splits, strict=True))
    splits = Counter(split or "no split" for split in queries.values())
    yield (
        f"run {parts.run_id}, {parts.method}: {len(parts.pairs):,} pairs of {len(queries):,} queries "
        f"({', '.join(f'{count:,} {split}' for split, count in splits.most_common())})"
    )
    if splits["test"]:
        yield "queries of the split test are among them: what is chosen here must not be judged by them again"
    scored = np.isfinite(parts.drops) & parts.on_query
    yield (
        f"{scored.sum() / max(1, parts.on_query.sum()):.0%} of the queries' attributes could be removed; "
        f"{int(oracle.judged.sum()):,} pairs are judged, of {oracle.unscored:,} no attribute could be removed, of "
        f"{oracle.not_above_zero:,} none makes the similarity drop"
    )
    yield (
        f"by cross-fitting over {FOLDS} folds of queries: the figures of scales and phi that were fitted to the other "
        "folds' queries. The phi shown is that of all"
    )
    yield f"{'ranking':<18}{'phi':<18}{'removal':>8}{'top 1':>8}{'top 5':>8}"
    rows = [("as it was", found.before), ("confidence alone", found.alone)]
    rows += list(found.held_out.items())
    for name, point in rows:
        yield f"{name:<18}{_phi(point.phi):<18}{point.removal:>8.3f}{point.top1:>8.3f}{point.top5:>8.3f}"


def _recorded(parts: Parts, found: Calibration, removal: Removal) -> dict[str, Any]:
    """Everything that was tried, JSON values only."""
    oracle = Oracle(parts.drops)
    return {
        "run_id": parts.run_id,
        "method": parts.method,
        "pairs": len(parts.pairs),
        "queries": len(set(parts.queries)),
        "splits": Counter(split or "none" for split in parts.splits),
        "folds": FOLDS,
        "left_out": dict(parts.left_out),
        "removal": asdict(removal),
        "judged": int(oracle.judged.sum()),
        "unscored": oracle.unscored,
        "not_above_zero": oracle.not_above_zero,
        "scale": found.kind,
        "phi": found.phi,
        "before": asdict(found.before),
        "confidence_alone": asdict(found.alone),
        "scales": {
            kind: {
                "scales": asdict(scales),
                "held_out": asdict(found.held_out[kind]),
                "best": asdict(search.best),
                "grid": [asdict(one) for one in search.grid],
            }
            for kind, (scales, search) in found.searches.items()
        },
    }


def _phi(phi: Sequence[float]) -> str:
    return ",".join(f"{weight:g}" for weight in phi)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
