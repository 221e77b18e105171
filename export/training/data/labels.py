"""What a catalogue's columns say of its products: labels that make them similar, and attributes that they have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.training.data.dataset import Indices
from transforms.core.attributes.names import column_of
from transforms.core.errors import UsageError
from transforms.core.records import Product


def label_ids(products: Sequence[Product], columns: Sequence[str]) -> tuple[Indices, tuple[tuple[str, ...], ...]]:
    """What makes products similar: an integer per product [I], and the values of ``columns`` behind each integer.

    Two products have one label where all of ``columns`` agree. −1 where a cell is empty: such a product is neither
    similar nor dissimilar to any. UsageError where no product has one of the columns.
    """
    rows = [dict(product.attributes) for product in products]
    present = {column for row in rows for column in row}
    if unknown := [column for column in columns if column not in present]:
        raise UsageError(f"the catalogue has no attribute column {unknown[0]!r}; it has {', '.join(sorted(present))}")
    values = [tuple(row[column] for column in columns) if all(c in row for c in columns) else None for row in rows]
    names = tuple(sorted({value for value in values if value is not None}))
    number = {name: i for i, name in enumerate(names)}
    return np.array([-1 if value is None else number[value] for value in values], dtype=np.int64), names


def attribute_targets(products: Sequence[Product], names: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which products have which attributes, bool [I, A], and of which that is known, bool [I, A]."""
    columns = list(map(column_of, names))
    targets = np.zeros((len(products), len(names)), dtype=np.bool_)
    known = np.zeros_like(targets)
    for i, product in enumerate(products):
        has, filled = set(product.names()), {column for column, _ in product.attributes}
        targets[i] = [name in has for name in names]
        known[i] = [column in filled for column in columns]
    return targets, known
