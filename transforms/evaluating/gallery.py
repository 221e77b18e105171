"""The products of a catalogue as a similarity network and the catalogue's columns describe them.

What attribute removal is asked of: which products stand for a query without an attribute
(``transforms.core.metrics.removal``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transforms.core.attributes.names import column_of
from transforms.core.metrics.removal import Pool
from transforms.core.records import Float32, Product
from transforms.core.similarity import conditioned, similarities
from transforms.serving.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Gallery:
    """Products and their embeddings; a product is named by its place, 0 to I - 1.

    Attributes:
      bundle: whose network embedded them.
      places: the place of each product by its id.
      embeddings: float32 [I, D].
      names: the bundle's vocabulary [A], then all other values of its columns in the catalogue, [A']: products are
        alike only where values too rare for the vocabulary are equal, too.
      has, known: which product has which of ``names``, and where the catalogue says so; bool [I, A'].
      types: each product's value of the column whose values the bundle's conditions join, [I]; None where nothing says
        which column that is, or the catalogue lacks it.
    """

    bundle: Bundle = field(repr=False)
    places: Mapping[str, int] = field(repr=False)
    embeddings: Float32 = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    has: NDArray[np.bool_] = field(repr=False)
    known: NDArray[np.bool_] = field(repr=False)
    types: tuple[str | None, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, bundle: Bundle, products: Sequence[Product], embeddings: Float32, type_column: str | None) -> Gallery:
        """The gallery of ``products``, whose ids differ, with their ``embeddings`` [I, D], in their order.

        ``type_column`` is that of :func:`type_column` where the catalogue has it, else None.
        """
        types = None if type_column is None else tuple(dict(one.attributes).get(type_column) for one in products)
        columns = columns_of(bundle)
        kept = [_within(product, columns) for product in products]
        others = {name for product in kept for name in product.names()} - set(bundle.vocabulary)
        names = (*bundle.vocabulary, *sorted(others))
        places = {product.id: at for at, product in enumerate(kept)}
        return cls(bundle, places, embeddings, names, *_attributes(names, kept), types)

    @cached_property
    def _columns(self) -> NDArray[np.int64]:
        """The number of each name's column, [A']."""
        number = {column: at for at, column in enumerate(dict.fromkeys(map(column_of, self.names)))}
        return np.array([number[column_of(name)] for name in self.names])

    @cached_property
    def _groups(self) -> NDArray[np.int64] | None:
        """The number of each product's type, [I], -1 of none; None where types are not known."""
        if self.types is None:
            return None
        number_of = {value: at for at, value in enumerate(dict.fromkeys(self.types))} | {None: -1}
        return np.array([number_of[value] for value in self.types], np.int64)

    @cached_property
    def _unconditioned(self) -> Pool:
        """All products, any of which may stand for a query."""
        return Pool(self.has, self.known, self._columns, self.embeddings, self.bundle.similarity_function)

    def pool(self, condition: str | None) -> Pool:
        """The products as a pair of that condition compares them.

        A condition joins two types, so products of a query's own type alone stand for it. What takes long, to tell
        products and their values apart, is done once for all conditions; a pool for each would be held I x D numbers
        at a time, and a catalogue of fashion has dozens of conditions.
        """
        if condition is None:
            return self._unconditioned
        return self._unconditioned.under(self._compared(slice(None), condition), self._groups)

    def of_types(self, condition: str | None) -> NDArray[np.bool_]:
        """Which of ``names`` are types that the condition joins or keeps apart, bool [A']: they are not removed."""
        joined = None if condition is None or self.types is None else type_column(self.bundle)
        return np.array([column_of(name) == joined for name in self.names])

    def similarity(self, query: int, reference: int, condition: str | None) -> float:
        """The similarity of the products at two places under a condition."""
        one, other = (self._compared(slice(place, place + 1), condition) for place in (query, reference))
        return float(similarities(other, one, self.bundle.similarity_function)[0, 0])

    def _compared(self, places: slice, condition: str | None) -> Float32:
        mask = None if condition is None else np.array(self.bundle.conditions[condition], np.float32)
        return conditioned(self.embeddings[places], mask, self.bundle.similarity_function)


def columns_of(bundle: Bundle) -> tuple[str, ...]:
    """The catalogue's columns that the bundle's vocabulary speaks of, in its order."""
    return tuple(dict.fromkeys(map(column_of, bundle.vocabulary)))


def type_column(bundle: Bundle) -> str | None:
    """The column whose values the bundle's conditions join, where the record of its training has it."""
    match bundle.training.get("similarity"):
        case {"conditions": {"column": str(column)}} if bundle.conditions:
            return column
    return None


def _within(product: Product, columns: Collection[str]) -> Product:
    """``product`` with its attributes of ``columns`` alone."""
    return replace(product, attributes=tuple(pair for pair in product.attributes if pair[0] in columns))


def _attributes(names: Sequence[str], products: Sequence[Product]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which products have which of ``names``, and of which the catalogue says so, bool [I, A']."""
    columns = list(map(column_of, names))
    has = np.zeros((len(products), len(names)), np.bool_)
    known = np.zeros_like(has)
    for at, product in enumerate(products):
        own, filled = set(product.names()), {column for column, _ in product.attributes}
        has[at] = [name in own for name in names]
        known[at] = [column in filled for column in columns]
    return has, known
