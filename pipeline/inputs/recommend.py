"""What a model would recommend: the most similar other products of each query, as the rows of a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.embedded_products import EmbeddedProducts
from pipeline.inputs.manifest_files import SCHEMA, Row
from pipeline.inputs.pair_condition import PairCondition
from pipeline.inputs.progress_lines import progress_lines
from transforms.core import memory
from transforms.core.attributes import neighbours
from transforms.core.messages import Echo, listed
from transforms.core.records import Float32, Product
from transforms.core.similarity import SimilarityFunction, conditioned
from transforms.serving.bundle import Bundle


@dataclass(frozen=True)
class NearestSearch:
    """What is searched for: the ``top_k`` best of each query, ``chunk`` queries at once, which bounds memory.

    Products are compared under ``condition``, and only with those that agree with them in all columns of
    ``similar_by``.
    """

    top_k: int
    chunk: int
    condition: PairCondition | None = None
    similar_by: tuple[str, ...] = ()


def recommend(
    embedded: EmbeddedProducts, bundle: Bundle, asked: NDArray[np.intp], search: NearestSearch, echo: Echo
) -> list[Row]:
    """The rows of the queries ``asked``, ascending places in ``embedded``: best first within each.

    Queries with an empty cell in a column of ``similar_by``, or with which no other product agrees, have none; they are
    counted and said.
    """
    count, dimension = embedded.embeddings.shape
    bytes_needed = neighbours.search_bytes(count, dimension, min(search.chunk, len(asked)))
    echo(f"exact search: {len(asked):,} queries in {count:,} products, {memory.megabytes(bytes_needed)}")
    labels = _labels(embedded.products, search.similar_by) if search.similar_by else np.zeros(count, np.int64)
    searched = _with_others(asked, labels, search.similar_by, echo)
    progress = progress_lines("searching", "queries", len(searched), echo)
    rows: dict[int, list[Row]] = {}
    for found in _among_their_own(_space(embedded, bundle, search), searched, search.chunk, labels):
        rows[found.query] = _rows(found, embedded, bundle, search)
        progress.add(1)
    return [row for query in searched.tolist() for row in rows[query]]


def _with_others(
    asked: NDArray[np.intp], labels: NDArray[np.int64], similar_by: tuple[str, ...], echo: Echo
) -> NDArray[np.intp]:
    """Those of ``asked`` that share their label with another product."""
    shared = np.bincount(labels + 1)[labels + 1] > 1
    empty, alone = int((labels[asked] < 0).sum()), int((~shared[asked] & (labels[asked] >= 0)).sum())
    if similar_by and (empty or alone):
        columns = listed(list(similar_by))
        echo(
            f"paired with none: {empty:,} queries with an empty cell in {columns}, {alone:,} with which no other "
            f"product agrees there"
        )
    searched: NDArray[np.intp] = asked[shared[asked] & (labels[asked] >= 0)]
    return searched


@dataclass(frozen=True)
class Space:
    """What products are neighbours by: ``vectors`` [I, D] compared by ``function``, the ``k`` best of each.

    Those of equal ``groups`` [I] are no neighbours of each other.
    """

    vectors: Float32
    groups: NDArray[np.int64]
    function: SimilarityFunction
    k: int


def _space(embedded: EmbeddedProducts, bundle: Bundle, search: NearestSearch) -> Space:
    function, under = bundle.similarity_function, search.condition
    if under is None:
        return Space(embedded.embeddings, embedded.groups, function, search.top_k)
    vectors = conditioned(embedded.embeddings, under.mask, function)
    if len(under.types) < 2:
        return Space(vectors, embedded.groups, function, search.top_k)
    # No product is compared with one of its own type, so a type is one group. An image that products of both types have
    # is not kept apart by that: as many more are looked for as it can take away.
    types = np.array([under.side(product) for product in embedded.products], np.int64)
    return Space(vectors, types, function, search.top_k + int(np.bincount(embedded.groups).max()) - 1)


def _rows(found: neighbours.Neighbours, embedded: EmbeddedProducts, bundle: Bundle, search: NearestSearch) -> list[Row]:
    """The rows of one query."""
    others = embedded.groups[found.indices] != embedded.groups[found.query]
    best = zip(found.indices[others].tolist(), found.scores[others].tolist(), strict=True)
    rows = []
    for rank, (index, score) in enumerate(islice(best, search.top_k), 1):
        values = {
            "query_id": embedded.products[found.query].id,
            "reference_id": embedded.products[index].id,
            "rank": rank,
            "served_score": score,
            "served_model": bundle.model_id,
            "condition": None if search.condition is None else search.condition.name,
        }
        rows.append({name: values[name] for name in SCHEMA.names})
    return rows


def _labels(products: Sequence[Product], columns: tuple[str, ...]) -> NDArray[np.int64]:
    """A number [I] for what each product has in ``columns``, equal for equal values; -1 where a cell is empty."""
    rows = [dict(product.attributes) for product in products]
    values = [tuple(row[column] for column in columns) if all(c in row for c in columns) else None for row in rows]
    number = {value: at for at, value in enumerate(dict.fromkeys(value for value in values if value is not None))}
    return np.array([-1 if value is None else number[value] for value in values], np.int64)


def _among_their_own(
    space: Space, asked: NDArray[np.intp], chunk: int, labels: NDArray[np.int64]
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
            space.vectors[members],
            space.k,
            function=space.function,
            groups=space.groups[members],
            queries=own,
            chunk=chunk,
        ):
            yield neighbours.Neighbours(int(members[found.query]), members[found.indices], found.scores)
