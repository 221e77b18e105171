"""The products of a catalogue that can be used, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from transforms.core.errors import AmbiguousProduct
from transforms.core.records import Failure, Product
from transforms.inputs import catalogue as catalogues


def read_products(address: str, columns: Iterable[str], left_out: Counter[str]) -> list[Product]:
    """The products with an id of their own, in the catalogue's order, with the attributes of ``columns``.

    ``left_out`` counts the other rows by reason.
    """
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


def counted(counts: Mapping[str, int]) -> str:
    """Counts by reason, for a message."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
