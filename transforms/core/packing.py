"""Records as nested lists of plain values, and back: what a coder writes without the names of fields.

Equal records become equal lists, whichever objects they share: pickle's bytes depend on these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

_PLAIN = frozenset([int, float, bool, bytes, type(None)])
_NESTED = frozenset([tuple, list])
_NOT_UTF8 = ""
"""Marks a text that holds lone surrogates, as file names do; no dtype is called so."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a record is taken apart, ``parts``, and ``made`` of these again."""

    parts: Callable[[Any], Iterable[Any]]
    made: Callable[..., Any]


def form_of(kind: type) -> Form:
    """The form of a dataclass: its fields, in their order."""
    names = [field.name for field in fields(kind)]
    return Form(lambda record: (getattr(record, name) for name in names), kind)


class Packing:
    """Packs records of the classes of ``forms``, and what these hold.

    That is None, bool, int, float, str, bytes, tuples, arrays, and other such records; a NumPy scalar becomes Python's.
    A record becomes the list of its class's place and its packed parts; an array of its dtype, shape and bytes. Tuples
    stay tuples, and no value is a list otherwise.
    """

    def __init__(self, forms: Mapping[type, Form]) -> None:
        self._places = {kind: (place, form.parts) for place, (kind, form) in enumerate(forms.items())}
        self._makers = [form.made for form in forms.values()]

    def pack(self, value: Any) -> Any:
        """``value`` packed; TypeError for what is none of the above."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str:
            return value if value.isascii() else _packed_text(value)
        if kind is tuple:
            return tuple([one if type(one) in _PLAIN else self.pack(one) for one in value])
        if kind in self._places:
            place, parts = self._places[kind]
            return [place, *[part if type(part) in _PLAIN else self.pack(part) for part in parts(value)]]
        if isinstance(value, np.ndarray):
            return [value.dtype.str, value.shape, value.tobytes()]
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"no record holds a value of {kind.__module__}.{kind.__qualname__}")

    def unpack(self, packed: Any) -> Any:
        """The value that was packed."""
        if type(packed) is tuple:
            return tuple([self.unpack(one) if type(one) in _NESTED else one for one in packed])
        if type(packed) is not list:
            return packed
        head, *parts = packed
        if type(head) is int:
            return self._makers[head](*[self.unpack(part) if type(part) in _NESTED else part for part in parts])
        if head == _NOT_UTF8:
            return parts[0].decode("utf-8", "surrogatepass")
        shape, data = parts
        return np.frombuffer(data, head).reshape(shape).copy()  # aligned and writable, as any other array


def _packed_text(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        return [_NOT_UTF8, text.encode("utf-8", "surrogatepass")]
    return text
