"""Product ids to image addresses, attributes and regions, by a join with the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from transforms.beam.crossing import FAILURES, Join
from transforms.beam.typed import PCollection, Step, Tagged, map_each, split
from transforms.core.records import Failure, Pair, Product, Side
from transforms.inputs.products import crossing, product_id, resolve

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
        keyed = pairs | "PairsByProduct" >> map_each(
            Pair, tuple[str, Pair], lambda pair: (product_id(pair, self.side), pair)
        )
        known = products | "ProductsById" >> map_each(
            Product, tuple[str, Product], lambda product: (product.id, crossing(product, self.regions))
        )
        joined = (keyed, known) | "Join" >> Join(str, Pair, Product)
        resolved = joined | "Resolve" >> split(
            tuple[str, tuple[list[Pair], list[Product]]], Pair, self._resolved, FAILURES
        )
        return ResolvedPairs(resolved.main, resolved[FAILURES])

    def _resolved(self, group: ByProduct) -> Iterator[Pair | Tagged]:
        _, (pairs, products) = group
        for pair in pairs:
            outcome = resolve(pair, products, self.side, self.columns)
            yield outcome if isinstance(outcome, Pair) else FAILURES(outcome)
