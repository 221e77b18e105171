"""The measures that need a whole catalogue: attribute removal, and how well attributes are recognised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from transforms.beam.crossing import COUNTS, Count
from transforms.beam.progress import Progress
from transforms.beam.typed import (
    DoFn,
    PCollection,
    Shared,
    Step,
    Tagged,
    batch,
    flatten,
    group_by_key,
    map_each,
    par_do,
    split,
    to_list,
)
from transforms.core.records import EmbeddedImage, Product
from transforms.evaluating.attributes import EmbeddedCatalogue, EmbeddedProduct
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving


@dataclass(frozen=True)
class CatalogueEmbedder:
    """What showing a catalogue to the networks needs on a worker; all of it can be pickled."""

    serving: Serving
    bundle: Bundle
    type_column: str | None
    load: ImageLoader
    handle: Shared
    progress: Progress = Progress()


class CatalogueEmbedded(NamedTuple):
    """One catalogue, as a side input: a few kilobytes a product in memory. ``counts`` are of products left out and of
    forward passes.
    """

    catalogue: PCollection[EmbeddedCatalogue]
    counts: PCollection[Count]


@dataclass(frozen=True)
class EmbedCatalogue(Step[PCollection[Product], CatalogueEmbedded]):
    """Products to those of them that can be embedded and whose id no other has."""

    embedder: CatalogueEmbedder
    batch: int

    def expand(self, products: PCollection[Product]) -> CatalogueEmbedded:
        """Products of an id of their own, shown to the networks a batch at a time, gathered."""
        alone = (
            products
            | "ById" >> map_each(Product, tuple[str, Product], lambda product: (product.id, product))
            | "GroupById" >> group_by_key(str, Product)
            | "OwnId" >> split(tuple[str, Iterable[Product]], Product, _alone, COUNTS)
        )
        shown = (
            alone.main
            | "BatchProducts" >> batch(Product, self.batch)
            | "ShowProducts" >> par_do(list[Product], EmbeddedProduct, _EmbedProducts(self.embedder), COUNTS)
        )
        gathered = (
            shown.main
            | "AllProducts" >> to_list(EmbeddedProduct)
            | "Catalogue" >> map_each(list[EmbeddedProduct], EmbeddedCatalogue, self._gathered)
        )
        counts = [alone[COUNTS], shown[COUNTS]] | "CatalogueCounts" >> flatten(tuple[str, int])
        return CatalogueEmbedded(gathered, counts)

    def _gathered(self, shown: list[EmbeddedProduct]) -> EmbeddedCatalogue:
        in_order = tuple(sorted(shown, key=lambda one: one.product.id))
        return EmbeddedCatalogue(self.embedder.bundle, self.embedder.type_column, in_order)


def _alone(group: tuple[str, Iterable[Product]]) -> Iterator[Product | Tagged]:
    found = list(group[1])
    if len(found) == 1:
        yield found[0]
    else:
        yield COUNTS(("products_left_out", len(found)))


class _EmbedProducts(DoFn[list[Product]]):
    def __init__(self, embedder: CatalogueEmbedder) -> None:
        self._embedder = embedder

    def setup(self) -> None:
        self._models = self._embedder.handle.acquire(lambda: Models(self._embedder.serving))

    def process(self, products: list[Product]) -> Iterator[EmbeddedProduct | Tagged]:
        outcomes = dict(embed([product.image for product in products], self._embedder.load, self._models))
        for product in products:
            outcome = outcomes[product.image]
            if isinstance(outcome, EmbeddedImage):
                yield EmbeddedProduct(product, outcome.embedding, outcome.scores)
            else:
                yield COUNTS(("products_left_out", 1))
        self._embedder.progress.add("images", len(products))
        yield COUNTS(("forward_passes", len(products)))
