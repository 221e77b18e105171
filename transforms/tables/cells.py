"""A row of a table on its way to its file: its cells in the schema's order, without the columns' names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.tables.schema import SCHEMAS, Row


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of ``table``; columns that it does not name are null."""

    table: str
    row: Row = field(repr=False)

    def cells(self) -> tuple[Any, ...]:
        """The table's name and the cells, nested ones as tuples, floats of a list as an array.

        ValueError for a column that the table does not have, TypeError for a number of another kind.
        """
        check_columns(self.table, self.row)
        kept = (None if (value := self.row.get(name)) is None else pack(value) for name, pack, _ in _of(self.table))
        return self.table, *kept

    @classmethod
    def of(cls, table: str, *cells: Any) -> TableRow:
        """The row of :meth:`cells`, all of the table's columns among it."""
        columns = zip(_of(table), cells, strict=True)
        return cls(table, {name: None if cell is None else unpack(cell) for (name, _, unpack), cell in columns})


def check_columns(table: str, row: Row) -> None:
    """ValueError for a column that the table does not have."""
    if unknown := row.keys() - _names(table):
        raise ValueError(f"{table} has no column {sorted(unknown)}")


@lru_cache
def _names(table: str) -> frozenset[str]:
    return frozenset(SCHEMAS[table].names)


Conversion = Callable[[Any], Any]
Column = tuple[str, Conversion, Conversion]
"""A column's name, and how a value becomes a cell and a value again."""


@lru_cache
def _of(table: str) -> tuple[Column, ...]:
    """The columns of ``table`` but ``schema_version``, which its file adds."""
    return tuple((one.name, *_conversions(one.type)) for one in SCHEMAS[table] if one.name != "schema_version")


def _conversions(kind: pa.DataType) -> tuple[Conversion, Conversion]:
    if pa.types.is_floating(kind):
        return float, _same
    if pa.types.is_integer(kind):
        return operator.index, _same
    if pa.types.is_boolean(kind):
        return bool, _same
    if pa.types.is_struct(kind):
        return _struct([(one.name, *_conversions(one.type)) for one in kind])
    if pa.types.is_list(kind):
        return _list(kind.value_type)
    return _same, _same


def _list(kind: pa.DataType) -> tuple[Conversion, Conversion]:
    if pa.types.is_floating(kind):
        return lambda values: np.asarray(values, f"f{kind.bit_width // 8}"), _same
    pack, unpack = _conversions(kind)
    return (
        lambda values: tuple(None if value is None else pack(value) for value in values),
        lambda cells: [None if cell is None else unpack(cell) for cell in cells],
    )


def _struct(columns: Iterable[Column]) -> tuple[Conversion, Conversion]:
    kept = tuple(columns)

    def pack(value: Row) -> tuple[Any, ...]:
        return tuple(None if (one := value.get(name)) is None else to_cell(one) for name, to_cell, _ in kept)

    def unpack(cells: tuple[Any, ...]) -> Row:
        named = zip(kept, cells, strict=True)
        return {name: None if cell is None else to_value(cell) for (name, _, to_value), cell in named}

    return pack, unpack


def _same(value: Any) -> Any:
    return value
