"""Products of a catalogue by their ids: what of one goes with a pair that names it, and which cannot be told.

Pure: who joins pairs and products (``transforms.beam.resolve_products`` for a run,
``pipeline.audit.served.comparison`` for some hundred pairs) does it elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from transforms.core.errors import AmbiguousProduct, UnknownProduct
from transforms.core.records import SIDES, Failure, Pair, Product, Side
from transforms.inputs.region_files import source_of

ENOUGH = 2
"""Products of one id that are worth holding: two say already that it is ambiguous."""


def product_id(pair: Pair, side: Side) -> str:
    """The id of the product on the ``side`` of ``pair``."""
    found: str = getattr(pair, f"{side}_id")
    return found


def lacking_sides(pair: Pair) -> tuple[Side, ...]:
    """The sides of ``pair`` that have no address yet."""
    return tuple(side for side in SIDES if not getattr(pair, side))


def by_id(items: Iterable[Product | Failure], wanted: Collection[str]) -> dict[str, list[Product]]:
    """The products of ``items`` with one of the ids ``wanted``, at most ``ENOUGH`` of each; failed rows are none."""
    found: dict[str, list[Product]] = {}
    for item in items:
        if isinstance(item, Product) and item.id in wanted and len(found.setdefault(item.id, [])) < ENOUGH:
            found[item.id].append(item)
    return found


def crossing(product: Product, regions: bool) -> Product:
    """What of ``product`` crosses the shuffle: its regions where they are asked for."""
    return product if regions else replace(product, regions=None, boxes=None)


def resolve(
    pair: Pair, products: Sequence[Product], side: Side, columns: Collection[str] = frozenset()
) -> Pair | Failure:
    """``pair`` with the address and the attributes of its ``side``, or its failure.

    ``products`` are those of the catalogue with the id of that side; of their attributes those of ``columns`` are
    taken.

    An address that the manifest gives is kept; the catalogue then adds what it knows of the product, if anything. Its
    regions are those of its own photograph: a pair whose address is another one does not get them.
    """
    named, address = product_id(pair, side), getattr(pair, side)
    if len(products) > 1:
        return Failure.of(pair, AmbiguousProduct(f"the catalogue has several products with the id {named!r}"))
    if not products:
        if address:
            return pair
        return Failure.of(pair, UnknownProduct(f"the catalogue has no product with the id {named!r}"))
    names = tuple(f"{column}={value}" for column, value in products[0].attributes if column in columns)
    changes: dict[str, Any] = {side: address or products[0].image, f"{side}_attributes": names}
    if changes[side] == products[0].image:
        changes[f"{side}_regions"] = source_of(products[0])
    return replace(pair, **changes)
