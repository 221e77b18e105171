"""How values are written: on the command line as text, in a config file as TOML; wrong ones name what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict

from transforms.core.errors import UsageError


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Format:
    """How the values of a type are written.

    Attributes:
      read: a value, or one of several, from a word of the command line; ValueError or ArgumentTypeError if it is none.
      expected: what a value must be, in words that follow "must be".
      write: a default for ``--help``.
      words: as argparse's ``nargs``, the words that follow the flag; None for one.
      repeated: whether the flag may be given again.
      join: the value, from those of a flag with several words or of one that was given again.
      from_toml: the value from a TOML value, which is left as it is where it is for the type to refuse.
    """

    read: Callable[[str], Any]
    expected: str
    write: Callable[[Any], str] = str
    words: int | str | None = None
    repeated: bool = False
    join: Callable[[Sequence[Any]], Any] = tuple
    from_toml: Callable[[Any], Any] = _same


def names(text: str) -> tuple[str, ...]:
    """A list of names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def mapping(text: str) -> dict[str, str]:
    """``OURS=YOURS,…`` as a mapping."""
    pairs = dict(item.partition("=")[::2] for item in names(text))
    if not all(pairs.values()):
        raise argparse.ArgumentTypeError(f"expected OURS=YOURS,… and got {text!r}")
    return pairs


def setting(text: str) -> tuple[str, str]:
    """``METHOD.PARAMETER=VALUE`` as (METHOD.PARAMETER, VALUE)."""
    name, _, value = text.partition("=")
    method, _, parameter = name.partition(".")
    if not (method and parameter and value):
        raise argparse.ArgumentTypeError(f"expected METHOD.PARAMETER=VALUE, such as lime.samples=500, and got {text!r}")
    return name.strip(), value.strip()


def once(settings: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The settings by name; UsageError for one that is set twice."""
    made = dict(settings)
    if len(made) < len(settings):
        name = next(name for name, _ in settings if [key for key, _ in settings].count(name) > 1)
        raise UsageError(f"--set: {name} is set twice")
    return made


def size(text: str) -> tuple[int, int]:
    """``HxW`` as (height, width)."""
    height, by, width = text.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 224x224, and got {text!r}")
    return int(height), int(width)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"expected {count} numbers with commas between them, and got {text!r}")
    return numbers


def three(text: str) -> tuple[float, ...]:
    """Three numbers with commas between them."""
    return _numbers(text, 3)


def size_in_bytes(text: str) -> int:
    """A size such as 512M as bytes."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    factors = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    if unit not in factors or not number.isdigit():
        raise argparse.ArgumentTypeError(f"expected a size such as 512M or 4G, and got {text!r}")
    return int(number) * factors[unit]


def written_size_in_bytes(size: int) -> str:
    """What :func:`size_in_bytes` reads as ``size``, in the largest unit in which it is whole."""
    unit, factor = next(
        ((unit, factor) for unit, factor in (("G", 2**30), ("M", 2**20), ("K", 2**10)) if size % factor == 0), ("", 1)
    )
    return f"{size // factor}{unit}"


def names_or_none(text: str) -> tuple[str, ...]:
    """A list of names with commas between them; ``none`` for no name."""
    return () if names(text) == ("none",) else names(text)


def _of_text(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Reads a TOML text as the command line would, and leaves other values as they are."""
    return lambda value: read(value) if isinstance(value, str) else value


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _names_or_none(value: Any) -> Any:
    """A TOML text, or a list of the one name ``none``, as the command line would have it."""
    if isinstance(value, (list, tuple)):
        return () if list(value) == ["none"] else value
    return _of_text(names_or_none)(value)


def _paths(value: Any) -> Any:
    return tuple(map(_path, value)) if isinstance(value, list) else value


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _settings(value: Any) -> Any:
    """``{"rise.masks": 256}`` or ``{"rise": {"masks": 256}}`` as the command line's texts."""
    if not isinstance(value, Mapping):
        return value
    made: list[tuple[str, str]] = []
    for name, one in value.items():
        inner = one.items() if isinstance(one, Mapping) else [("", one)]
        made += [(f"{name}.{key}" if key else name, str(text)) for key, text in inner]
    return once(made)


def _commas(values: Sequence[Any]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


FORMATS: Mapping[type, Format] = {
    bool: Format(_same, "true or false"),
    int: Format(int, "a whole number"),
    float: Format(float, "a number"),
    str: Format(str, "a text"),
    Path: Format(Path, "a path", from_toml=_path),
}
"""The formats of types that have but one."""

LIST = "a list of texts"

Names = Annotated[tuple[str, ...], Format(names, LIST, _commas, from_toml=_of_text(names)), Strict(False)]
"""``a,b``; in TOML a list, too."""

NamesOrNone = Annotated[tuple[str, ...], Format(names_or_none, LIST, _commas, from_toml=_names_or_none), Strict(False)]
"""``a,b``, or ``none`` for an empty list."""

Words = Annotated[tuple[str, ...], Format(str, LIST, words="+", from_toml=_one_or_many), Strict(False)]
"""One or more words behind the flag; in TOML a text or a list."""

Repeated = Annotated[tuple[str, ...], Format(str, LIST, repeated=True, from_toml=_one_or_many), Strict(False)]
"""A flag that may be given again, a word each; in TOML a text or a list."""

Columns = Annotated[
    dict[str, str], Format(mapping, "a table of texts, OURS = 'YOURS'", from_toml=_of_text(mapping)), Strict(False)
]
"""``OURS=YOURS,…``; in TOML a table, too."""

Settings = Annotated[
    dict[str, str],
    Format(setting, "a table, 'METHOD.PARAMETER' = VALUE", repeated=True, join=once, from_toml=_settings),
]
"""``METHOD.PARAMETER=VALUE``, may be given again; in TOML a table, or a table of tables."""

_Pixels = Annotated[int, Field(ge=1)]

Size = Annotated[
    tuple[_Pixels, _Pixels],
    Format(size, "HxW in pixels, such as 224x224", lambda value: f"{value[0]}x{value[1]}", from_toml=_of_text(size)),
    Strict(False),
]
"""``HxW`` in pixels; in TOML ``[H, W]``, too."""

Bytes = Annotated[
    int,
    Format(size_in_bytes, "a size such as 512M or 4G", written_size_in_bytes, from_toml=_of_text(size_in_bytes)),
]
"""A number of bytes, or a size such as 4G."""

Three = Annotated[
    tuple[float, float, float],
    Format(three, "3 numbers with commas between them", _commas, from_toml=_of_text(three)),
    Strict(False),
]
"""Three numbers; in TOML a list of them, too."""

TwoPaths = Annotated[tuple[Path, Path], Format(Path, "two paths", words=2, from_toml=_paths), Strict(False)]
"""Two words behind the flag, each a path; in TOML a list."""
