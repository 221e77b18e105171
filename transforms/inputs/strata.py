"""The stratum of a manifest's row: the value of a column of the manifest, or of the catalogue for the row's query."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from transforms.core import messages
from transforms.core.errors import BadRow, UsageError
from transforms.core.messages import quoted
from transforms.core.records import content_id
from transforms.core.statistics.sampling import ALL, NONE, UNREADABLE
from transforms.inputs import catalogue, rows

MAX_NAME = 200
"""Characters of a stratum's name."""

_NO_COLUMNS: Mapping[str, str] = MappingProxyType({})
_NO_STRATA = ("query", "reference", "query_id", "reference_id", "pair_id")
_NO_STRATA_OF_CATALOGUE = (catalogue.ID, catalogue.IMAGE, catalogue.REGIONS, catalogue.BOXES)


@dataclass(frozen=True)
class Strata:
    """How a row gets its stratum; made by :func:`find`, sent to workers without the catalogue's values.

    ``column`` is the column's name in its file, None where every query is in the stratum ``ALL``. ``catalogue`` is the
    address of the catalogue that has it, None where the manifest has it.
    """

    column: str | None = None
    catalogue: str | None = None

    def columns(self) -> tuple[str, ...]:
        """What is to be read of a manifest's row."""
        return () if self.column is None or self.catalogue is not None else (self.column,)

    def of(self, cells: Mapping[str, str | None], query_id: str) -> str:
        """The stratum of a row with these ``cells``, whose query has that id.

        A value becomes a name by :func:`name_of`. UsageError where the catalogue cannot be read, which is when the
        first stratum is asked for.
        """
        if self.column is None:
            return ALL
        if self.catalogue is not None:
            return self._values.get(query_id, NONE)
        value = cells.get(self.column)
        return NONE if value is None else name_of(value)

    def loaded(self) -> Strata:
        """Itself, with the catalogue's values read."""
        if self.catalogue is not None:
            _ = self._values
        return self

    @cached_property
    def _values(self) -> dict[str, str]:
        """Product id → stratum: ``NONE`` for a product without a value, or whose rows have different ones."""
        assert self.catalogue is not None
        assert self.column is not None
        found: dict[str, str] = {}
        for row in rows.read_rows(self.catalogue, {catalogue.ID, self.column}):
            if isinstance(row, rows.UnreadableRow):
                continue
            try:
                product = rows.identity(row, catalogue.ID)
            except BadRow:
                continue
            value = row.cells.get(self.column)
            if product is not None:
                name = NONE if value is None else sys.intern(name_of(value))
                found[product] = name if found.get(product, name) == name else NONE
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"column": self.column, "catalogue": self.catalogue}


def find(
    files: Sequence[str],
    column: str | None,
    *,
    columns: Mapping[str, str] = _NO_COLUMNS,
    catalogue_address: str | None = None,
) -> Strata:
    """Where the values of ``column`` stand: in the manifest if all its files have it, else in the catalogue.

    Args:
        files: the manifest's files.
        column: the name that the column has in its file; None for one stratum of all queries.
        columns: whymatch's name → the manifest's name of a column, where they differ.
        catalogue_address: the catalogue, if there is one.

    Raises:
        UsageError: neither has the column, or its values are ids or addresses and no strata.
    """
    if column is None:
        return Strata()
    if column in _NO_STRATA or column in [columns.get(name, name) for name in _NO_STRATA]:
        raise UsageError(
            f"--stratify {quoted(column)}: it names images or pairs, and each would be a stratum of its own; name a "
            "column that groups queries, such as a category"
        )
    heads = {file: rows.header(file) for file in files}
    lacking = [file for file, head in heads.items() if column not in head]
    if not lacking:
        return Strata(column)
    known = rows.header(catalogue_address) if catalogue_address else ()
    if catalogue_address and column in known and column not in _NO_STRATA_OF_CATALOGUE:
        return Strata(column, catalogue_address)
    whose = (
        f"the manifest, whose columns are {messages.listed(heads[lacking[0]])}"
        if len(lacking) == len(files)
        else f"{len(lacking)} of the manifest's {len(files)} files, such as {rows.file_name(lacking[0])}"
    )
    if not catalogue_address:
        also = "; there is no catalogue, which could have it: give --catalogue"
    elif column in known:
        also = ", and in the catalogue it names products or images"
    else:
        also = f", nor in the catalogue, whose columns are {messages.listed(known)}"
    raise UsageError(f"--stratify: there is no column {quoted(column)} in {whose}{also}")


def name_of(value: str) -> str:
    """The name of the stratum of a value: the value, if it may stand in a table and is not long.

    :func:`transforms.inputs.rows.public` masks the secrets in it: without a digest the user, password and signature of
    an address, with one whatever else. What is then longer than ``MAX_NAME`` is cut here, and ends with a digest of the
    whole value, so that two long values that begin alike are two strata.
    """
    return _short_name(str(value)) if len(value) <= MAX_NAME else _name(value)


def _name(value: str) -> str:
    public = rows.public(value)
    if len(public) <= MAX_NAME and public != UNREADABLE:
        return public
    digest = content_id(value, letter="~", digits=12)
    return public[: MAX_NAME - len(digest)] + digest


_short_name = lru_cache(maxsize=2**14)(_name)
