"""What crosses from step to step: the records, their coder, and the outputs that several steps have.

A record crosses as its fields, a table's row as its cells, none of them with names: equal records are equal bytes. To
every runner they are opaque, and keys are texts or pairs of text and number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from apache_beam import coders

from transforms.beam.typed import (
    Coder,
    PCollection,
    Step,
    Tag,
    flatten,
    group_by_key,
    group_of,
    list_of,
    map_each,
    pair_of,
)
from transforms.core.packing import Form, Packing, form_of
from transforms.core.records import EmbeddedImage, Failure, LoadFailure, Pair, Product
from transforms.core.statistics.nulls import NullReferences
from transforms.core.statistics.verdict import Threshold
from transforms.core.target import ExplanationTarget
from transforms.evaluating.attributes import EmbeddedProduct
from transforms.explaining.null_statistics import NullStatistic
from transforms.tables.cells import TableRow
from transforms.tables.explained import Explained

Count = tuple[str, int]
"""A number of the run by its name; those of one name are added up."""

COUNTS = Tag("counts", tuple[str, int])
FAILURES = Tag("failures", Failure)

K = TypeVar("K")
L = TypeVar("L")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EmbeddingOutcome:
    """What became of the image at ``address``."""

    address: str
    outcome: EmbeddedImage | LoadFailure


@dataclass(frozen=True, slots=True)
class Joined:
    """An element of one of the two collections that are joined: the first or the second."""

    second: bool
    element: Any


RECORDS = (
    Pair,
    Failure,
    Product,
    EmbeddedImage,
    LoadFailure,
    EmbeddingOutcome,
    ExplanationTarget,
    NullReferences,
    NullStatistic,
    Threshold,
    Explained,
    EmbeddedProduct,
    Joined,
)

_PACKING = Packing({**{kind: form_of(kind) for kind in RECORDS}, TableRow: Form(TableRow.cells, TableRow.of)})
_PLAIN = coders.FastPrimitivesCoder().as_deterministic_coder("whymatch's records")


class RecordCoder(Coder):
    """Records to bytes and back; see :class:`transforms.core.packing.Packing`."""

    def encode(self, value: Any) -> bytes:
        """The bytes of ``value``."""
        data: bytes = _PLAIN.encode(_PACKING.pack(value))
        return data

    def decode(self, encoded: bytes) -> Any:
        """The record of these bytes."""
        return _PACKING.unpack(_PLAIN.decode(encoded))

    def is_deterministic(self) -> bool:
        """It is, so that records may be keys."""
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


for _kind in (*RECORDS, TableRow):
    coders.registry.register_coder(_kind, RecordCoder)


@dataclass(frozen=True)
class Join(
    Step[tuple[PCollection[tuple[K, L]], PCollection[tuple[K, R]]], PCollection[tuple[K, tuple[list[L], list[R]]]]],
    Generic[K, L, R],
):
    """Two collections of keyed elements, of ``key`` and ``first`` and of ``key`` and ``second``, to those of each key.

    The elements are records of ``RECORDS`` or rows.
    """

    key: type[K]
    first: type[L]
    second: type[R]

    def expand(
        self, inputs: tuple[PCollection[tuple[K, L]], PCollection[tuple[K, R]]]
    ) -> PCollection[tuple[K, tuple[list[L], list[R]]]]:
        """Both collections in one, each element saying which it is of."""
        first, second = inputs
        one_of = pair_of(self.key, Joined)
        collections = [
            first | "First" >> map_each(pair_of(self.key, self.first), one_of, _first),
            second | "Second" >> map_each(pair_of(self.key, self.second), one_of, _second),
        ]
        return (
            collections
            | "Both" >> flatten(one_of)
            | "GroupByKey" >> group_by_key(self.key, Joined)
            | "Apart"
            >> map_each(
                group_of(self.key, Joined),
                pair_of(self.key, pair_of(list_of(self.first), list_of(self.second))),
                _apart,
            )
        )


def _first(keyed: tuple[K, Any]) -> tuple[K, Joined]:
    return keyed[0], Joined(False, keyed[1])


def _second(keyed: tuple[K, Any]) -> tuple[K, Joined]:
    return keyed[0], Joined(True, keyed[1])


def _apart(group: tuple[K, Iterable[Joined]]) -> tuple[K, tuple[list[Any], list[Any]]]:
    key, joined = group
    apart: tuple[list[Any], list[Any]] = [], []
    for one in joined:
        apart[one.second].append(one.element)
    return key, apart
