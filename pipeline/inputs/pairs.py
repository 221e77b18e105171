"""``whymatch pairs``: the manifest of what a model would recommend, by exact search over a catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.manifest_files import SCHEMA, Row, writer
from pipeline.runs.runners import default_threads
from pipeline.text.left_out import LeftOut
from transforms import storage
from transforms.core import memory
from transforms.core.attributes import neighbours
from transforms.core.errors import AmbiguousProduct, NonFiniteEmbedding, PairError, UsageError
from transforms.core.imaging import images
from transforms.core.messages import listed, quoted
from transforms.core.progress_lines import ProgressLines, share_and_time
from transforms.core.records import Failure, Float32, Product, content_id
from transforms.core.similarity import SimilarityFunction, conditioned
from transforms.inputs import catalogue as catalogues
from transforms.inputs.rows import header
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import Device, resolve_device
from transforms.storage.addresses import is_local

Echo = Callable[[str], None]


@dataclass(frozen=True)
class PairsSummary:
    """What became of a catalogue. ``failures`` counts by reason the rows and products that could not be used."""

    pairs: int
    queries: int
    products: int
    failures: Counter[str]


def make_pairs(
    *,
    catalogue: str,
    bundle: str,
    out: str,
    top_k: int = 8,
    condition: str | None = None,
    similar_by: Sequence[str] = (),
    split: str | None = None,
    queries: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    batch: int | None = None,
    chunk: int = 256,
    image_roots: Sequence[str] = (),
    allow_http: bool = False,
    echo: Echo = print,
) -> PairsSummary:
    """Writes the ``top_k`` most similar other products of each product to the manifest ``out``.

    Images of equal bytes are never paired, whatever their ids. A product that cannot be used (its row, its id that
    another row has too, its image) is counted by reason, said, and left out.

    Args:
      catalogue: its local images must lie under its folder, or under one of ``image_roots``.
      out: a .csv, .jsonl or .parquet file that does not exist yet.
      condition: the condition of the bundle to compare under; needed where it has any. Products of one of the types
        that it joins are queries for those of the other; all for all where the bundle does not say which types these
        are, or the catalogue lacks their column.
      similar_by: only products that agree in all of these columns of the catalogue are paired, such as the positives
        that a network was trained with. One with an empty cell there is paired with none; it is counted and said.
      split: only products of this split, as queries and as references.
      queries: how many of them to search for: those with the smallest hash of ``seed`` and id, the same in every order
        of the catalogue. All by default.
      threads, batch: CPU threads, and images embedded at once. chunk: queries searched for at once.

    Raises UsageError, before anything is embedded, where an option, the catalogue or the bundle does not allow it.
    """
    for name, value in {"top-k": top_k, "queries": queries, "threads": threads, "batch": batch, "chunk": chunk}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    write = writer(out)
    under = _condition(bundles.read(bundle), condition, catalogue, echo)
    images.require_safe_decoder()
    failures = LeftOut()
    products = _products(catalogue, split, failures, under, tuple(similar_by))
    _check_sides(products, under)
    on = resolve_device(device)
    models = Models(Serving(bundle, on, threads or default_threads(1), batch or (16 if on == "cpu" else 256)))
    roots = [*image_roots, *([storage.resolve("", catalogue)] if is_local(catalogue) else [])]
    access = storage.Access(roots=tuple(roots), allow_http=allow_http)
    embedded = _embed(products, ImageLoader(access, images.ImageLimits(), models.bundle.resize), models, failures, echo)
    for reason, count in failures.counts.most_common():
        echo(f"left out: {count:,} {reason}, the first: {failures.first[reason]}")
    if len(embedded.products) < 2:
        raise UsageError(f"{len(embedded.products)} of {len(products):,} products can be used; a pair needs two")
    _check_sides(embedded.products, under)
    asked = sample([product.id for product in embedded.products], queries, seed)
    rows = _search(embedded, models, under, asked, top_k, chunk, tuple(similar_by), echo)
    storage.publish(out, write(rows))
    echo(f"{len(rows):,} pairs of {len(asked):,} queries and {len(embedded.products):,} products: {storage.shown(out)}")
    return PairsSummary(len(rows), len(asked), len(embedded.products), failures.counts)


def sample(ids: Sequence[str], count: int | None, seed: int) -> NDArray[np.intp]:
    """Ascending indices of the ``count`` ids with the smallest hash of ``seed`` and id; of all ids for None."""
    ranked = sorted(range(len(ids)), key=lambda index: content_id(str(seed), ids[index], letter="s", digits=64))
    return np.array(sorted(ranked[:count]), np.intp)


@dataclass(frozen=True)
class _Condition:
    """What products are compared under: ``types`` are the one or two values of ``column`` whose products it joins.

    Without ``column`` all products are compared.
    """

    name: str
    mask: Float32  # [D]
    column: str | None = None
    types: tuple[str, ...] = ()

    def side(self, product: Product) -> int | None:
        """The place of the product's type in ``types``, None for another type; 0 where all products are compared."""
        if self.column is None:
            return 0
        value = dict(product.attributes).get(self.column)
        return self.types.index(value) if value in self.types else None


def _condition(bundle: Bundle, name: str | None, catalogue: str, echo: Echo) -> _Condition | None:
    """The condition that is asked for; UsageError where the bundle has no such one, or has some and none is named."""
    if name is None and not bundle.conditions:
        return None
    if name is None or name not in bundle.conditions:
        known = f"has the conditions {listed(list(bundle.conditions))}" if bundle.conditions else "has no conditions"
        unfit = "products are compared under one of them" if name is None else f"{quoted(name)} is none of them"
        raise UsageError(f"the bundle {known}; {unfit}: --condition must name one, or be left out where there is none")
    mask, joined = np.array(bundle.conditions[name], np.float32), _joined(bundle, name)
    if joined is None:
        echo(f"condition {quoted(name)}: the bundle does not say which types it joins; all products are compared")
        return _Condition(name, mask)
    column, types = joined
    if column not in header(catalogue):
        echo(f"condition {quoted(name)}: the catalogue has no column {quoted(column)}; all products are compared")
        return _Condition(name, mask)
    echo(f"condition {quoted(name)}: products whose {column} is {' with those whose it is '.join(map(quoted, types))}")
    return _Condition(name, mask, column, types)


def _joined(bundle: Bundle, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The column and the one or two types of a condition, where the record of the bundle's training has them."""
    match bundle.training.get("similarity"):
        case {"conditions": {"column": str(column), "types": {**types}}}:
            match types.get(name):
                case [str(first), str(second)]:
                    return column, tuple(dict.fromkeys((first, second)))
    return None


def _check_sides(products: Sequence[Product], under: _Condition | None) -> None:
    """UsageError where no product is of one of the types that the condition joins."""
    if under is None:
        return
    sides = {under.side(product) for product in products}
    if lacking := [value for side, value in enumerate(under.types) if side not in sides]:
        raise UsageError(f"no product whose {under.column} is {quoted(lacking[0])} can be used; the condition joins it")


@dataclass(frozen=True)
class _Embedded:
    """The products whose image could be embedded, in the catalogue's order."""

    products: list[Product]
    embeddings: Float32  # [I, D]
    groups: NDArray[np.int64]  # [I]; equal for images of equal bytes


def _products(
    address: str, split: str | None, failures: LeftOut, under: _Condition | None, similar_by: tuple[str, ...]
) -> list[Product]:
    products: list[Product] = []
    of_condition = () if under is None or under.column is None else (under.column,)
    columns = tuple(dict.fromkeys((*of_condition, *similar_by)))
    for item in catalogues.read(address, columns=columns):
        if isinstance(item, Failure):
            failures.add(item.reason, f"{item.source}: {item.message}")
        else:
            products.append(item)
    rows = Counter(product.id for product in products)
    wanted = []
    for product in products:
        if split is not None and product.split != split:
            continue
        if under is not None and under.side(product) is None:
            continue
        if rows[product.id] > 1:
            failures.add(AmbiguousProduct.reason, f"{storage.shown(product.id)}, the id of {rows[product.id]} rows")
        else:
            wanted.append(product)
    if len(wanted) < 2:
        splits = ", ".join(sorted({repr(product.split) for product in products if product.split})[:20]) or "none"
        of_split = f" of split {split!r} (its splits: {splits})" if split is not None else ""
        of_types = f" whose {of_condition[0]} is what the condition joins" if of_condition else ""
        raise UsageError(
            f"{storage.shown(address)} has {len(wanted)} usable products{of_split}{of_types}; a pair needs two. "
            f"{failures.counts.total():,} rows were left out" + "".join(f"; {text}" for text in failures.first.values())
        )
    return wanted


def _embed(products: Sequence[Product], load: ImageLoader, models: Models, failures: LeftOut, echo: Echo) -> _Embedded:
    """Embeds each distinct address once; images are held for one batch only."""
    addresses = list(dict.fromkeys(product.image for product in products))
    progress = _progress("embedding", "images", len(addresses), echo)
    step = models.similarity.batch
    done: dict[str, tuple[str, Float32] | PairError] = {}
    for start in range(0, len(addresses), step):
        some = addresses[start : start + step]
        done.update(_embed_some(some, load, models))
        progress.add(len(some))
    kept, vectors, groups = [], [], []
    group_of: dict[str, int] = {}
    for product in products:
        outcome = done[product.image]
        if isinstance(outcome, PairError):
            failures.add(outcome.reason, f"{storage.shown(product.id)}: {outcome}")
            continue
        kept.append(product)
        groups.append(group_of.setdefault(outcome[0], len(group_of)))
        vectors.append(outcome[1])
    dimension = models.bundle.embedding_size
    return _Embedded(kept, np.array(vectors, np.float32).reshape(-1, dimension), np.array(groups, np.int64))


def _embed_some(
    addresses: Sequence[str], load: ImageLoader, models: Models
) -> dict[str, tuple[str, Float32] | PairError]:
    """The sha256 and the embedding [D] of every image, or why there is none."""
    outcomes: dict[str, tuple[str, Float32] | PairError] = {}
    loaded = {}
    for address in addresses:
        try:
            loaded[address] = load(address)
        except PairError as error:
            outcomes[address] = error
    if not loaded:
        return outcomes
    try:
        embeddings = models.similarity.embed(np.stack([image.pixels for image in loaded.values()]))
    except PairError as error:
        if len(addresses) == 1:
            return {addresses[0]: error}
        # one image must not take the others of its batch with it
        return outcomes | {
            address: one for each in loaded for address, one in _embed_some([each], load, models).items()
        }
    for (address, image), embedding in zip(loaded.items(), embeddings, strict=True):
        finite = np.isfinite(embedding).all()
        broken = NonFiniteEmbedding("the embedding holds NaN or infinity")
        outcomes[address] = (image.sha256, embedding) if finite else broken
    return outcomes


def _search(
    embedded: _Embedded,
    models: Models,
    under: _Condition | None,
    asked: NDArray[np.intp],
    top_k: int,
    chunk: int,
    similar_by: tuple[str, ...],
    echo: Echo,
) -> list[Row]:
    count, dimension = embedded.embeddings.shape
    bytes_needed = neighbours.search_bytes(count, dimension, min(chunk, len(asked)))
    echo(f"exact search: {len(asked):,} queries in {count:,} products, {memory.megabytes(bytes_needed)}")
    labels = _labels(embedded.products, similar_by) if similar_by else np.zeros(count, np.int64)
    shared = np.bincount(labels + 1)[labels + 1] > 1
    empty, alone = int((labels[asked] < 0).sum()), int((~shared[asked] & (labels[asked] >= 0)).sum())
    if similar_by and (empty or alone):
        columns = listed(list(similar_by))
        echo(
            f"paired with none: {empty:,} queries with an empty cell in {columns}, {alone:,} with which no other "
            f"product agrees there"
        )
    searched = asked[shared[asked] & (labels[asked] >= 0)]
    progress = _progress("searching", "queries", len(searched), echo)
    function = models.bundle.similarity_function
    vectors, groups, k = embedded.embeddings, embedded.groups, top_k
    if under is not None:
        vectors = conditioned(vectors, under.mask, function)
        if len(under.types) == 2:
            # No product is compared with one of its own type, so a type is one group. An image that products of both
            # types have is not kept apart by that: as many more are looked for as it can take away.
            groups = np.array([under.side(product) for product in embedded.products], np.int64)
            k = top_k + int(np.bincount(embedded.groups).max()) - 1
    ids = [product.id for product in embedded.products]
    rows: dict[int, list[Row]] = {}
    for found in _among_their_own(vectors, k, function, groups, searched, chunk, labels):
        rows[found.query] = []
        others = embedded.groups[found.indices] != embedded.groups[found.query]
        best = zip(found.indices[others].tolist(), found.scores[others].tolist(), strict=True)
        for rank, (index, score) in enumerate(islice(best, top_k), 1):
            values = {
                "query_id": ids[found.query],
                "reference_id": ids[index],
                "rank": rank,
                "served_score": score,
                "served_model": models.bundle.model_id,
                "condition": None if under is None else under.name,
            }
            rows[found.query].append({name: values[name] for name in SCHEMA.names})
        progress.add(1)
    return [row for query in searched.tolist() for row in rows[query]]


def _labels(products: Sequence[Product], columns: tuple[str, ...]) -> NDArray[np.int64]:
    """A number [I] for what each product has in ``columns``, equal for equal values; -1 where a cell is empty."""
    rows = [dict(product.attributes) for product in products]
    values = [tuple(row[column] for column in columns) if all(c in row for c in columns) else None for row in rows]
    number = {value: at for at, value in enumerate(dict.fromkeys(value for value in values if value is not None))}
    return np.array([-1 if value is None else number[value] for value in values], np.int64)


def _among_their_own(
    vectors: Float32,
    k: int,
    function: SimilarityFunction,
    groups: NDArray[np.int64],
    asked: NDArray[np.intp],
    chunk: int,
    labels: NDArray[np.int64],
) -> Iterator[neighbours.Neighbours]:
    """``neighbours.top_k`` among the rows of the query's own of ``labels`` [I] only; label by label."""
    is_asked = np.zeros(len(labels), np.bool_)
    is_asked[asked] = True
    order = np.argsort(labels, kind="stable")  # members of a label ascend, so that ties go to the smaller index
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        own = np.flatnonzero(is_asked[members])
        if not len(own):
            continue
        for found in neighbours.top_k(
            vectors[members], k, function=function, groups=groups[members], queries=own, chunk=chunk
        ):
            yield neighbours.Neighbours(int(members[found.query]), members[found.indices], found.scores)


def _progress(doing: str, what: str, total: int, echo: Echo) -> ProgressLines:
    """A line for each tenth, at most one a second, and the last."""
    return ProgressLines(total, lambda advance: share_and_time(advance, doing, what), echo, 1.0, by_tenths=True)
