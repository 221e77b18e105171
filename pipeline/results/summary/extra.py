"""The column ``extra`` of explanations: manifest columns that ``--keep`` named, a JSON object in every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from transforms.core.errors import UsageError


def keys(column: pa.Array) -> set[str]:
    """All keys of ``column``; UsageError where a row holds no JSON object."""
    return {key for one in _objects(column) if one is not None for key in one}


def values(column: pa.Array, key: str) -> list[str | None]:
    """What each row of ``column`` has under ``key``, as a text; None where it has nothing."""
    texts = [_text(one.get(key)) if one is not None else None for one in _objects(column)]
    places = column.dictionary_encode().indices.to_pylist()
    return [None if place is None else texts[place] for place in places]


def _objects(column: pa.Array) -> Iterator[dict[str, Any] | None]:
    """The distinct values of ``column``, in the order of its dictionary."""
    for text in column.dictionary_encode().dictionary.to_pylist():
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UsageError("the column extra of the table explanations holds what is no JSON object. Audit again.")
        yield found


def _text(value: Any) -> str | None:
    """A value as ``--by`` names it; an audit writes texts and null."""
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
