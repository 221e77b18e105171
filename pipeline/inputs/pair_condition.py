"""What products are compared under: a condition of the bundle, and the types of product that it joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transforms.core.errors import UsageError
from transforms.core.messages import Echo, listed, quoted
from transforms.core.records import Float32, Product
from transforms.inputs.rows import header
from transforms.serving.bundle import Bundle


@dataclass(frozen=True)
class PairCondition:
    """What products are compared under: ``types`` are the one or two values of ``column`` whose products it joins.

    Without ``column`` all products are compared.
    """

    name: str
    mask: Float32  # [D]
    column: str | None = None
    types: tuple[str, ...] = ()

    def side(self, product: Product) -> int | None:
        """The place of the product's type in ``types``, None for another type; 0 where all products are compared."""
        if self.column is None:
            return 0
        value = dict(product.attributes).get(self.column)
        return self.types.index(value) if value in self.types else None


def find_condition(bundle: Bundle, name: str | None, catalogue: str, echo: Echo) -> PairCondition | None:
    """The condition that is asked for; UsageError where the bundle has no such one, or has some and none is named."""
    if name is None and not bundle.conditions:
        return None
    if name is None or name not in bundle.conditions:
        known = f"has the conditions {listed(list(bundle.conditions))}" if bundle.conditions else "has no conditions"
        unfit = "products are compared under one of them" if name is None else f"{quoted(name)} is none of them"
        raise UsageError(f"the bundle {known}; {unfit}: --condition must name one, or be left out where there is none")
    mask, joined = np.array(bundle.conditions[name], np.float32), _joined(bundle, name)
    if joined is None:
        echo(f"condition {quoted(name)}: the bundle does not say which types it joins; all products are compared")
        return PairCondition(name, mask)
    column, types = joined
    if column not in header(catalogue):
        echo(f"condition {quoted(name)}: the catalogue has no column {quoted(column)}; all products are compared")
        return PairCondition(name, mask)
    echo(f"condition {quoted(name)}: products whose {column} is {' with those whose it is '.join(map(quoted, types))}")
    return PairCondition(name, mask, column, types)


def _joined(bundle: Bundle, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The column and the one or two types of a condition, where the record of the bundle's training has them."""
    match bundle.training.get("similarity"):
        case {"conditions": {"column": str(column), "types": {**types}}}:
            match types.get(name):
                case [str(first), str(second)]:
                    return column, tuple(dict.fromkeys((first, second)))
    return None


def check_sides(products: Sequence[Product], under: PairCondition | None) -> None:
    """UsageError where no product is of one of the types that the condition joins."""
    if under is None:
        return
    sides = {under.side(product) for product in products}
    if lacking := [value for side, value in enumerate(under.types) if side not in sides]:
        raise UsageError(f"no product whose {under.column} is {quoted(lacking[0])} can be used; the condition joins it")
