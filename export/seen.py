"""A catalogue as a bundle's networks see it, without torch: embeddings of all products, attribute maps of some.

Attribute removal (``transforms.core.removal``) looks among the products for those like a query but for an attribute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from export.splits import with_splits
from transforms import bundle as bundles
from transforms import catalogue as catalogues
from transforms import storage
from transforms.bundle import Bundle
from transforms.core.errors import AmbiguousProduct, NonFiniteEmbedding, PairError, UsageError
from transforms.core.images import Limits
from transforms.core.removal import Pool
from transforms.core.similarity import conditioned, similarities
from transforms.core.types import Failure, Float32, Image, Product
from transforms.load_image import ImageLoader
from transforms.models import Models, Serving
from transforms.rows import header
from transforms.runtime import Device

Echo = Callable[[str], None]


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
    described = require_attributes(bundles.read(bundle), bundle)
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
        echo(f"products left out: {counted(left_out)}")
    if not kept:
        raise UsageError(f"no product of {storage.shown(catalogue)} can be used: {counted(left_out)}")
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


def require_attributes(bundle: Bundle, address: str) -> Bundle:
    if bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(address)} has no attribute network, so it ranks nothing. Export it with --attributes."
        )
    return bundle


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
