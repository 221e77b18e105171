"""Product ids to image addresses, attributes and regions, by a join with the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.core.records import Pair, Side
from transforms.inputs.products import ENOUGH, crossing, resolve


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


def _resolve_all(
    product_id: str, joined: dict[str, Iterable[Any]], side: Side, columns: frozenset[str]
) -> Iterator[Any]:
    products = list(islice(joined["products"], ENOUGH))
    for pair in joined["pairs"]:
        resolved = resolve(pair, products, side, columns)
        yield resolved if isinstance(resolved, Pair) else pvalue.TaggedOutput("failures", resolved)
