"""Names of attributes, ``column=value``."""

from __future__ import annotations


def column_of(name: str) -> str:
    """The catalogue's column of an attribute's name."""
    return name.partition("=")[0]
