"""Values on the command line that argparse has no type for; wrong ones name what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transforms.core.errors import UsageError


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
