"""Product ids to image addresses, attributes and regions, by a join with the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import apache_beam as beam
from apache_beam import pvalue

from transforms.core.errors import AmbiguousProduct, UnknownProduct
from transforms.core.records import Failure, Pair, Product
from transforms.inputs.region_files import source_of

Side = Literal["query", "reference"]


@dataclass(eq=False)
class ResolveProducts(beam.PTransform):  # type: ignore[misc]
    """Joins one side of the pairs to the catalogue; applied to a tuple of pairs and products.

    Of a product's attributes only those of ``columns`` go with a pair: what the vocabulary speaks of, no descriptions.
    Its regions go with it where ``regions`` asks for them: a label image's address or some kilobytes of boxes.
    Outputs: ``pairs`` and ``failures``.
    """

    side: Side
    columns: frozenset[str]
    regions: bool = False

    def expand(self, inputs: tuple[Any, Any]) -> Any:
        pairs, products = inputs
        side, columns, regions = self.side, self.columns, self.regions
        keyed = pairs | "PairsByProduct" >> beam.Map(lambda pair: (getattr(pair, f"{side}_id"), pair))
        known = products | "ProductsById" >> beam.Map(lambda product: (product.id, crossing(product, regions)))
        return (
            {"pairs": keyed, "products": known}
            | "Join" >> beam.CoGroupByKey()
            | "Resolve"
            >> beam.FlatMapTuple(lambda key, joined: _resolve_all(key, joined, side, columns))
            .with_output_types(Any)
            .with_outputs("failures", main="pairs")
        )


def crossing(product: Product, regions: bool) -> Product:
    """What of ``product`` crosses the shuffle: its regions where they are asked for."""
    return product if regions else replace(product, regions=None, boxes=None)


def _resolve_all(
    product_id: str, joined: dict[str, Iterable[Any]], side: Side, columns: frozenset[str]
) -> Iterator[Any]:
    products = list(islice(joined["products"], 2))
    for pair in joined["pairs"]:
        resolved = resolve(pair, products, side, columns)
        yield resolved if isinstance(resolved, Pair) else pvalue.TaggedOutput("failures", resolved)


def resolve(pair: Pair, products: list[Product], side: Side, columns: frozenset[str]) -> Pair | Failure:
    """``pair`` with the address and the attributes of its ``side``, or its failure.

    An address that the manifest gives is kept; the catalogue then adds what it knows of the product, if anything. Its
    regions are those of its own photograph: a pair whose address is another one does not get them.
    """
    product_id = getattr(pair, f"{side}_id")
    address = getattr(pair, side)
    if len(products) > 1:
        return Failure.of(pair, AmbiguousProduct(f"the catalogue has several products with the id {product_id!r}"))
    if not products:
        if address:
            return pair
        return Failure.of(pair, UnknownProduct(f"the catalogue has no product with the id {product_id!r}"))
    names = tuple(f"{column}={value}" for column, value in products[0].attributes if column in columns)
    changes: dict[str, Any] = {side: address or products[0].image, f"{side}_attributes": names}
    if changes[side] == products[0].image:
        changes[f"{side}_regions"] = source_of(products[0])
    return replace(pair, **changes)
