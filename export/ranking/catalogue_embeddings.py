"""A catalogue as a bundle's networks see it, without torch: embeddings of all products, attribute maps of some.

Attribute removal (``transforms.core.metrics.removal``) looks among the products for those like a query but for an
attribute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from export.ranking.products import counted, read_products
from export.training.splits import with_splits
from transforms import storage
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.messages import Echo
from transforms.core.records import Float32, Product
from transforms.evaluating.gallery import Gallery, columns_of, type_column
from transforms.inputs.rows import header
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed_frames, isolate
from transforms.serving.load_image import ImageLoader, LoadedImage, try_load
from transforms.serving.models import Models, Serving


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
    serving: Serving,
    catalogue: str,
    queries: Collection[str],
    *,
    access: storage.Access | None = None,
    echo: Echo = print,
) -> CatalogueEmbeddings:
    """Shows every product of ``catalogue`` to the similarity network, and ``queries`` to the attribute network.

    Images are held for one batch only. A product that cannot be used (its row, its id that another row has too, its
    image) is counted by reason, and said.

    Args:
      serving: the bundle, and how it is served.
      catalogue: its address.
      queries: ids of products.
      access: what the catalogue's image addresses may name; files under its folder and object storage without it.

    Raises:
      UsageError: the bundle has no attribute network, the catalogue lacks a column of its vocabulary, or no product
        can be used.
    """
    described = require_attributes(bundles.read(serving.bundle), serving.bundle)
    left_out: Counter[str] = Counter()
    of_type = type_column(described)
    if of_type is not None and of_type not in header(catalogue):
        echo(f"the catalogue has no column {of_type!r}: any product may stand for a query under a condition")
        of_type = None
    columns = dict.fromkeys((*columns_of(described), *(() if of_type is None else (of_type,))))
    products = read_products(catalogue, columns, left_out)
    access = access or storage.Access(roots=(storage.resolve(".", catalogue),))
    kept: list[Product] = []
    images: list[_ProductImage] = []
    for product, outcome in _embed_products(products, queries, serving, access, echo):
        if isinstance(outcome, PairError):
            left_out[outcome.reason] += 1
        else:
            kept.append(product)
            images.append(outcome)
    if left_out:
        echo(f"products left out: {counted(left_out)}")
    if not kept:
        raise UsageError(f"no product of {storage.shown(catalogue)} can be used: {counted(left_out)}")
    trained_as = {product.id: product.split for product in with_splits(products)}
    return CatalogueEmbeddings(
        gallery=Gallery.of(described, kept, np.stack([image.embedding for image in images]), of_type),
        splits=tuple(trained_as.get(product.id, product.split) for product in kept),
        confidence={at: image.confidence for at, image in enumerate(images) if image.confidence is not None},
        activations={at: image.activations for at, image in enumerate(images) if image.activations is not None},
        left_out=dict(left_out),
    )


@dataclass(frozen=True, eq=False)
class _ProductImage:
    """A product's embedding [D] and, of a query, the attribute network's scores [A] and maps [A, h, w]."""

    embedding: Float32
    confidence: Float32 | None = None
    activations: Float32 | None = None


def _embed_products(
    products: Sequence[Product], queries: Collection[str], serving: Serving, access: storage.Access, echo: Echo
) -> Iterator[tuple[Product, _ProductImage | PairError]]:
    """Each product with what the networks make of its image, or why they make nothing; a line every few seconds."""
    models = Models(serving)
    load = ImageLoader(access, ImageLimits(), models.bundle.resize)
    said = time.monotonic()
    with ThreadPoolExecutor(max(1, serving.threads)) as workers:
        for start in range(0, len(products), step := models.similarity.batch):
            some = products[start : start + step]
            loaded = list(workers.map(lambda product: try_load(product.image, load), some))
            yield from zip(some, _embed_batch(some, loaded, queries, models), strict=True)
            if (now := time.monotonic()) - said > 10:
                echo(f"  embedded {start + len(some):,} of {len(products):,} products")
                said = now


def _embed_batch(
    products: Sequence[Product], loaded: Sequence[LoadedImage | PairError], queries: Collection[str], models: Models
) -> Iterator[_ProductImage | PairError]:
    """What the networks make of each of ``loaded``, the images of ``products``."""
    frames = [image.pixels for image in loaded if isinstance(image, LoadedImage)]
    embeddings, attributes = iter(embed_frames(frames, models.similarity)), models.attributes
    for product, image in zip(products, loaded, strict=True):
        if isinstance(image, PairError):
            yield image
        elif isinstance(embedding := next(embeddings), PairError):
            yield embedding
        elif product.id in queries and attributes is not None:
            # alone, as an audit does
            (found,) = isolate(lambda frames: [attributes.predict(np.stack(frames))], [image.pixels])
            yield found if isinstance(found, PairError) else _ProductImage(embedding, found[0][0], found[1][0])
        else:
            yield _ProductImage(embedding)


def require_attributes(bundle: Bundle, address: str) -> Bundle:
    if bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(address)} has no attribute network, so it ranks nothing. Export it with --attributes."
        )
    return bundle
