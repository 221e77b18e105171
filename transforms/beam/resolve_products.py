"""Product ids to image addresses, attributes and regions, by a join with the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from transforms.beam.crossing import FAILURES, Join
from transforms.beam.typed import PCollection, Step, Tagged, map_each, split
from transforms.core.errors import AmbiguousProduct, UnknownProduct
from transforms.core.records import Failure, Pair, Product
from transforms.inputs.region_files import source_of

Side = Literal["query", "reference"]
ByProduct = tuple[str, tuple[list[Pair], list[Product]]]
"""A product id, the pairs that have it on a side, and the products that have it: one, unless the catalogue is odd."""


class ResolvedPairs(NamedTuple):
    """Pairs with the addresses of one side, and those that have none."""

    pairs: PCollection[Pair]
    failures: PCollection[Failure]


@dataclass(frozen=True)
class ResolveProducts(Step[tuple[PCollection[Pair], PCollection[Product]], ResolvedPairs]):
    """Joins one side of the pairs to the catalogue; applied to a tuple of pairs and products.

    Of a product's attributes only those of ``columns`` go with a pair: what the vocabulary speaks of, no descriptions.
    Its regions go with it where ``regions`` asks for them: a label image's address or some kilobytes of boxes.
    """

    side: Side
    columns: frozenset[str]
    regions: bool = False

    def expand(self, inputs: tuple[PCollection[Pair], PCollection[Product]]) -> ResolvedPairs:
        """Pairs and products by product id, resolved together."""
        pairs, products = inputs
        keyed = pairs | "PairsByProduct" >> map_each(Pair, tuple[str, Pair], lambda pair: (self._id(pair), pair))
        known = products | "ProductsById" >> map_each(
            Product, tuple[str, Product], lambda product: (product.id, crossing(product, self.regions))
        )
        joined = (keyed, known) | "Join" >> Join(str, Pair, Product)
        resolved = joined | "Resolve" >> split(
            tuple[str, tuple[list[Pair], list[Product]]], Pair, self._resolved, FAILURES
        )
        return ResolvedPairs(resolved.main, resolved[FAILURES])

    def _id(self, pair: Pair) -> str:
        return pair.query_id if self.side == "query" else pair.reference_id

    def _resolved(self, group: ByProduct) -> Iterator[Pair | Tagged]:
        _, (pairs, products) = group
        for pair in pairs:
            outcome = resolve(pair, products, self.side, self.columns)
            yield outcome if isinstance(outcome, Pair) else FAILURES(outcome)


def crossing(product: Product, regions: bool) -> Product:
    """What of ``product`` crosses the shuffle: its regions where they are asked for."""
    return product if regions else replace(product, regions=None, boxes=None)


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
