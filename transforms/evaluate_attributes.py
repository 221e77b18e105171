"""The measures that need a whole catalogue: attribute removal, and how well attributes are recognised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms import tables
from transforms.bundle import Bundle
from transforms.core.errors import NotScored, UnknownCondition, UnknownProduct
from transforms.core.removal import Removal, attribute_drops
from transforms.core.retrieval import attribute_precision
from transforms.core.types import EmbeddedImage, Float32, Float64, LoadFailure, Product
from transforms.embed_images import embed
from transforms.gallery import Gallery
from transforms.load_image import ImageLoader
from transforms.measured_image import changed_since
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.read_explanations import Explained

REMOVAL = ("removal", "removal_oracle", "oracle_first", "oracle_among_five")
"""Metrics of attribute removal: the first attribute's drop, the largest drop of any, and where the oracle is ranked."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A product with its embedding float32 [D] and the attribute network's scores float32 [A]."""

    product: Product
    embedding: Float32 = field(repr=False)
    scores: Float32 | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class ShownCatalogue:
    """All products that could be embedded, by the order of their ids."""

    bundle: Bundle
    type_column: str | None
    shown: tuple[Shown, ...] = field(repr=False)

    @cached_property
    def gallery(self) -> Gallery:
        """The products as attribute removal needs them."""
        products = [one.product for one in self.shown]
        embeddings = np.stack([one.embedding for one in self.shown])
        return Gallery.of(self.bundle, products, embeddings, self.type_column)

    def drops(self, removal: Removal, condition: str | None, rows: Sequence[Explained]) -> Float64:
        """Drops float64 [P, A] of pairs of one condition, all of whose products are in the gallery."""
        places = self.gallery.places
        queries = np.array([places[one.task.pair.query_id] for one in rows])
        references = np.array([places[one.task.pair.reference_id] for one in rows])
        found = attribute_drops(self.gallery.pool(condition), queries, references, removal)
        found[:, self.gallery.of_types(condition)] = np.nan
        return found[:, : len(self.bundle.vocabulary)]


def removal_rows(
    evaluation_id: str, catalogue: ShownCatalogue, removal: Removal, explained: Sequence[Explained]
) -> Iterator[tables.Row]:
    """The rows of ``REMOVAL`` of each explanation of ``explained`` whose query is explained, or why there are none."""
    failures: dict[int, LoadFailure] = {}
    usable: dict[str | None, list[int]] = {}
    for at, one in enumerate(explained):
        if isinstance(reason := _usable(catalogue, one), LoadFailure):
            failures[at] = reason
        else:
            usable.setdefault(one.task.pair.condition, []).append(at)
    values: dict[int, Mapping[str, float] | LoadFailure] = dict(failures)
    for condition, places in usable.items():
        drops = catalogue.drops(removal, condition, [explained[at] for at in places])
        for at, line in zip(places, drops, strict=True):
            values[at] = judged(line, _ranking(catalogue.bundle, explained[at]))
    for at, one in enumerate(explained):
        found = values[at]
        for metric in REMOVAL:
            yield tables.metric_row(
                evaluation_id,
                metric,
                one.method,
                one.task.pair,
                found if isinstance(found, LoadFailure) else found[metric],
                side=one.task.side,
                explainer_id=one.explainer_id,
                model_id=catalogue.bundle.model_id,
            )


def judged(drops: Float64, ranking: Sequence[int]) -> Mapping[str, float] | LoadFailure:
    """What one pair's explanation is worth.

    Args:
      drops: of attribute removal, float64 [A], NaN where an attribute cannot be scored.
      ranking: the attributes that the explanation names, best first; those that cannot be scored are passed over.
    """
    scored = ~np.isnan(drops)
    if not scored.any() or not (best := float(np.nanmax(drops))) > 0:
        return LoadFailure.of(
            NotScored(
                "no attribute of the query makes the similarity drop"
                if (scored & (drops != 0)).any()
                else "too few products are like the query without one of its attributes"
            )
        )
    named = [at for at in ranking if scored[at]]
    if not named:
        return LoadFailure.of(
            NotScored("none of the attributes that the table keeps can be scored: audit with a larger --top")
        )
    oracle = int(np.nanargmax(drops))
    return {
        "removal": float(drops[named[0]]),
        "removal_oracle": best,
        "oracle_first": float(named[0] == oracle),
        "oracle_among_five": float(oracle in named[:5]),
    }


def _usable(catalogue: ShownCatalogue, explained: Explained) -> LoadFailure | None:
    pair, places = explained.task.pair, catalogue.gallery.places
    for product in (pair.query_id, pair.reference_id):
        if product not in places:
            return LoadFailure.of(UnknownProduct(f"the catalogue has no usable product with the id {product!r}"))
    if pair.condition is not None and pair.condition not in catalogue.bundle.conditions:
        return LoadFailure.of(UnknownCondition(f"the bundle has no condition {pair.condition!r}"))
    now = catalogue.gallery.similarity(places[pair.query_id], places[pair.reference_id], pair.condition)
    if (changed := changed_since(explained.similarity, now)) is not None:
        return changed
    if explained.task.side != "query" or not explained.top:
        return LoadFailure.of(NotScored("attributes are removed from queries whose explanation names attributes"))
    return None


def _ranking(bundle: Bundle, explained: Explained) -> list[int]:
    places = {name: at for at, name in enumerate(bundle.vocabulary)}
    return [places[name] for name in explained.top or () if name in places]


def precision_rows(evaluation_id: str, catalogue: ShownCatalogue) -> Iterator[tables.Row]:
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


@dataclass(frozen=True)
class Cataloguer:
    """What showing a catalogue to the networks needs on a worker; all of it can be pickled."""

    serving: Serving
    bundle: Bundle
    type_column: str | None
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()


@dataclass(eq=False)
class ShowCatalogue(beam.PTransform):  # type: ignore[misc]
    """Products to one :class:`ShownCatalogue` of those that can be embedded and whose id no other has, and ``counts``.

    It is held in memory, as a side input: a few kilobytes a product.
    """

    cataloguer: Cataloguer
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
            | "ShowProducts" >> beam.ParDo(_Show(cataloguer)).with_outputs("counts", main="shown")
        )
        gathered = (
            embedded.shown
            | "AllProducts" >> beam.combiners.ToList()
            | "Catalogue"
            >> beam.Map(
                lambda all_shown: ShownCatalogue(
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


class _Show(beam.DoFn):  # type: ignore[misc]
    def __init__(self, cataloguer: Cataloguer) -> None:
        self._cataloguer = cataloguer

    def setup(self) -> None:
        self._models: Models = self._cataloguer.handle.acquire(lambda: Models(self._cataloguer.serving))

    def process(self, products: list[Product]) -> Iterator[Any]:
        outcomes = dict(embed([product.image for product in products], self._cataloguer.load, self._models))
        for product in products:
            outcome = outcomes[product.image]
            if isinstance(outcome, EmbeddedImage):
                yield Shown(product, outcome.embedding, outcome.scores)
            else:
                yield pvalue.TaggedOutput("counts", ("products_left_out", 1))
        self._cataloguer.progress.add("images", len(products))
        yield pvalue.TaggedOutput("counts", ("forward_passes", len(products)))
