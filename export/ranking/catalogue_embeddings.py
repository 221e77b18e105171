"""A catalogue as a bundle's networks see it, without torch: embeddings of all products, attribute maps of some.

Attribute removal (``transforms.core.metrics.removal``) looks among the products for those like a query but for an
attribute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from export.training.splits import with_splits
from transforms import storage
from transforms.core.errors import AmbiguousProduct, NonFiniteEmbedding, PairError, UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.records import Failure, Float32, Image, Product
from transforms.evaluating.gallery import Gallery, columns_of, type_column
from transforms.inputs import catalogue as catalogues
from transforms.inputs.rows import header
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import Device

Echo = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class CatalogueEmbeddings:
    """The products of a catalogue that can be used, as a bundle's networks see them.

    Attributes:
      gallery: the products, with their embeddings and what the catalogue says of them.
      splits: the split of each product as a training has it (:func:`with_splits`), or another name of the catalogue's,
        [I].
      confidence, activations: the attribute network's scores [A] and maps [A, h, w] of the queries, by place.
      left_out: how many products could not be used, by reason.
    """

    gallery: Gallery = field(repr=False)
    splits: tuple[str | None, ...] = field(repr=False)
    confidence: Mapping[int, Float32] = field(repr=False)
    activations: Mapping[int, Float32] = field(repr=False)
    left_out: Mapping[str, int]


def embed_catalogue(
    bundle: str,
    catalogue: str,
    queries: Collection[str],
    *,
    access: storage.Access | None = None,
    device: Device = "cpu",
    threads: int = 1,
    batch: int | None = None,
    echo: Echo = print,
) -> CatalogueEmbeddings:
    """Shows every product of ``catalogue`` to the similarity network, and ``queries`` to the attribute network.

    Images are held for one batch only. A product that cannot be used (its row, its id that another row has too, its
    image) is counted by reason, and said.

    Args:
      bundle, catalogue: their addresses.
      queries: ids of products.
      access: what the catalogue's image addresses may name; files under its folder and object storage without it.
      device, threads, batch: as in ``transforms.serving.models.Serving``.

    Raises:
      UsageError: the bundle has no attribute network, the catalogue lacks a column of its vocabulary, or no product
        can be used.
    """
    described = require_attributes(bundles.read(bundle), bundle)
    columns = columns_of(described)
    left_out: Counter[str] = Counter()
    of_type = type_column(described)
    if of_type is not None and of_type not in header(catalogue):
        echo(f"the catalogue has no column {of_type!r}: any product may stand for a query under a condition")
        of_type = None
    products = _products(catalogue, columns if of_type is None else dict.fromkeys((*columns, of_type)), left_out)
    trained_as = {product.id: product.split for product in with_splits(products)}
    models = Models(Serving(bundle, device, threads, batch))
    access = access or storage.Access(roots=(storage.resolve(".", catalogue),))
    load = ImageLoader(access, ImageLimits(), models.bundle.resize)
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
    gallery = Gallery.of(described, kept, np.stack(rows), of_type)
    splits = tuple(trained_as.get(product.id, product.split) for product in kept)
    return CatalogueEmbeddings(gallery, splits, scores, maps, dict(left_out))


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


def require_attributes(bundle: Bundle, address: str) -> Bundle:
    if bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(address)} has no attribute network, so it ranks nothing. Export it with --attributes."
        )
    return bundle


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
