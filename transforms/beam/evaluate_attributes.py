"""The measures that need a whole catalogue: attribute removal, and how well attributes are recognised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.beam.progress import Progress
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
    handle: shared.Shared
    progress: Progress = Progress()


@dataclass(eq=False)
class EmbedCatalogue(beam.PTransform):  # type: ignore[misc]
    """Products to one :class:`EmbeddedCatalogue` of those that can be embedded and whose id no other has, and
    ``counts``.

    It is held in memory, as a side input: a few kilobytes a product.
    """

    cataloguer: CatalogueEmbedder
    batch: int

    def expand(self, products: Any) -> Any:
        cataloguer = self.cataloguer
        shown = (
            products
            | "ById" >> beam.Map(lambda product: (product.id, product))
            | "GroupById" >> beam.GroupByKey()
            | "OwnId" >> beam.FlatMapTuple(_alone).with_outputs("counts", main="products")
        )
        embedded = (
            shown.products
            | "BatchProducts" >> beam.BatchElements(min_batch_size=self.batch, max_batch_size=self.batch)
            | "ShowProducts" >> beam.ParDo(_EmbedProducts(cataloguer)).with_outputs("counts", main="shown")
        )
        gathered = (
            embedded.shown
            | "AllProducts" >> beam.combiners.ToList()
            | "Catalogue"
            >> beam.Map(
                lambda all_shown: EmbeddedCatalogue(
                    cataloguer.bundle,
                    cataloguer.type_column,
                    tuple(sorted(all_shown, key=lambda one: one.product.id)),
                )
            )
        )
        return {"catalogue": gathered, "counts": (shown.counts, embedded.counts) | beam.Flatten()}


def _alone(product_id: str, products: Iterable[Product]) -> Iterator[Any]:
    found = list(products)
    if len(found) == 1:
        yield found[0]
    else:
        yield pvalue.TaggedOutput("counts", ("products_left_out", len(found)))


class _EmbedProducts(beam.DoFn):  # type: ignore[misc]
    def __init__(self, cataloguer: CatalogueEmbedder) -> None:
        self._cataloguer = cataloguer

    def setup(self) -> None:
        self._models: Models = self._cataloguer.handle.acquire(lambda: Models(self._cataloguer.serving))

    def process(self, products: list[Product]) -> Iterator[Any]:
        outcomes = dict(embed([product.image for product in products], self._cataloguer.load, self._models))
        for product in products:
            outcome = outcomes[product.image]
            if isinstance(outcome, EmbeddedImage):
                yield EmbeddedProduct(product, outcome.embedding, outcome.scores)
            else:
                yield pvalue.TaggedOutput("counts", ("products_left_out", 1))
        self._cataloguer.progress.add("images", len(products))
        yield pvalue.TaggedOutput("counts", ("forward_passes", len(products)))
