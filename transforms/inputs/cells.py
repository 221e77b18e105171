"""Values of a file's cells as texts, by explicit rules: no type is ever inferred.

A cell is the text that the file holds, or None where it holds nothing: ``007`` stays ``007`` and ``NA`` stays ``NA``.

- Empty and blank texts, JSON's null and Parquet's null are None.
- Integers, also decimals of scale 0, become their digits; UUIDs their usual form.
- Every other value (a number with a fraction, a boolean, a time, a list, an object) becomes an :class:`NonTextCell`:
its text,
  good enough to be kept, and refused as an id. An id that some tool has turned into ``7.0`` is no longer the id.
- A text that is no Unicode, holds a NUL character or is longer than ``MAX_TEXT`` is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from transforms.core.errors import BadRow
from transforms.core.messages import quoted
from transforms.inputs.lines import RawFloat, is_unicode

MAX_TEXT = 2**17
"""Characters of one cell: the limit of Python's csv module, kept in all formats."""

_FRACTION = "a number with a fraction or an exponent"


class NonTextCell(str):
    """The text of a cell that is neither a text nor an integer; ``kind`` names what it is, with its article."""

    kind: str

    @classmethod
    def of(cls, text: str, kind: str) -> NonTextCell:
        """``text`` of a value that is ``kind``."""
        odd = cls(text)
        odd.kind = kind
        return odd


def checked(text: str, column: str) -> str | None:
    """A cell's text, None for a blank one; BadRow where it is no text that a table can hold."""
    if not text or text.isspace():
        return None
    if len(text) > MAX_TEXT:
        raise BadRow(f"{column} has {len(text)} characters, at most {MAX_TEXT} are read")
    if "\0" in text:
        raise BadRow(f"{column} holds a NUL character: {quoted(text)}")
    if not is_unicode(text):
        raise BadRow(f"{column} is not UTF-8: {quoted(text)}; save the file as UTF-8")
    return text


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float):
        return _FRACTION
    return {dict: "an object", list: "a list", str: "a text", int: "an integer"}.get(type(value), "null")


def json_text(value: Any) -> str | None:
    """The text of a value of a JSON object that :func:`transforms.inputs.lines.objects` has read."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.text if isinstance(value, RawFloat) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return NonTextCell.of(text, _kind(value))


def is_bulky(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, objects or binary data: nothing to read unasked."""
    return bool(pa.types.is_nested(kind) or _binary(kind))


def _binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def parquet_texts(values: Any) -> list[str | None]:
    """The texts of one column of a batch (a pyarrow Array), by its declared type."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return parquet_texts(values.dictionary_decode())
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        return parquet_texts(values.storage)
    for fits, read in _READERS:
        if fits(kind):
            return read(values)
    return _nested(values)


def _uuids(values: Any) -> list[str | None]:
    return [None if value is None else str(value) for value in values.to_pylist()]


def _texts(values: Any) -> list[str | None]:
    # By way of binary: Arrow does not check that a Parquet file's text is UTF-8.
    raw = values.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]


def _integers(values: Any) -> list[str | None]:
    return [None if value is None else str(int(value)) for value in values.to_pylist()]


def _timestamps(values: Any) -> list[str | None]:
    # Without the zone: its name may be unknown here. Times with a zone are stored, and shown, in UTC.
    return _odd(values.cast(pa.timestamp(values.type.unit)).cast(pa.string()), "a time")


def _nested(values: Any) -> list[str | None]:
    kind = values.type
    try:
        found = values.to_pylist()
        texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in found]
    except ValueError:
        texts = [f"<{kind}>"] * len(values)  # nested values that Python has no equal for
    return [text and NonTextCell.of(text, f"a value of type {kind}") for text in texts]


def _odd(values: pa.Array[Any], kind: str) -> list[str | None]:
    return [None if value is None else NonTextCell.of(str(value), kind) for value in values.to_pylist()]


def _binary_text(value: bytes | None) -> str | None:
    """Old writers mark no text as text: bytes that are UTF-8 are taken for one."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return NonTextCell.of(value[:32].hex(), "binary data")


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], list[str | None]]], ...] = (
    (lambda kind: isinstance(kind, pa.UuidType), _uuids),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind), _texts),
    (lambda kind: pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0), _integers),
    (lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind), lambda values: _odd(values, _FRACTION)),
    (pa.types.is_boolean, lambda values: _odd(values.cast(pa.string()), "a boolean")),
    (pa.types.is_null, lambda values: [None] * len(values)),
    (_binary, lambda values: [_binary_text(value) for value in values.to_pylist()]),
    (pa.types.is_timestamp, _timestamps),
    (
        lambda kind: pa.types.is_date(kind) or pa.types.is_time(kind),
        lambda values: _odd(values.cast(pa.string()), "a time"),
    ),
)
"""How the values of a type become texts: the first that fits; what nothing fits is nested."""
