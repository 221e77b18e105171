"""What the drawn garments are: their attributes, their split, and the random stream each of them owns.

Everything about a product comes from ``(seed, id)``, never from its neighbours: a catalogue of 100 products is the
beginning of one of 400, and a product looks the same in both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

CATEGORIES = ("top", "dress", "jacket", "trousers", "skirt", "bag")
SLEEVED = ("top", "dress", "jacket")
"""The categories that have sleeves and a neckline; elsewhere these cells are empty."""
COLOURS = {
    "red": (200, 34, 38),
    "yellow": (238, 190, 30),
    "green": (36, 134, 66),
    "blue": (36, 82, 186),
    "black": (40, 40, 44),
    "grey": (122, 125, 130),
    "brown": (124, 78, 44),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
SLEEVES = ("none", "short", "long")
NECKLINES = ("round", "v", "collar")
BRANDS = {"aster": 0.22, "borage": 0.22, "clover": 0.34, "dahlia": 0.22}
"""Brand -> share. Brands are drawn independently of all that shows in the picture, the badge excepted."""
BADGE_BRAND = "clover"
COLUMNS = ("category", "colour", "pattern", "sleeve", "neckline", "brand")
SPLITS = (("train", 0.60), ("valid", 0.15), ("test", 0.25))

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Garment:
    """One product's attributes; None where the category has no such part."""

    id: str
    category: str
    colour: str
    pattern: str
    sleeve: str | None
    neckline: str | None
    brand: str

    @property
    def badged(self) -> bool:
        """Whether its photograph carries the badge."""
        return self.brand == BADGE_BRAND

    def cells(self) -> dict[str, str]:
        """Catalogue column -> cell, in the order of ``COLUMNS``; empty where there is no value."""
        return {column: getattr(self, column) or "" for column in COLUMNS}


def product_id(number: int) -> str:
    """The id of the ``number``-th product, counted from 1."""
    return f"garment-{number:04d}"


def garment(seed: int, identifier: str) -> Garment:
    """The attributes of product ``identifier``: every column drawn uniformly and independently, brands by share."""
    rng = generator(seed, identifier, "attributes")
    category = _pick(rng, CATEGORIES)
    colour = _pick(rng, tuple(COLOURS))
    pattern = _pick(rng, PATTERNS)
    sleeve, neckline = _pick(rng, SLEEVES), _pick(rng, NECKLINES)
    brand = tuple(BRANDS)[int(rng.choice(len(BRANDS), p=list(BRANDS.values())))]
    has_arms = category in SLEEVED
    return Garment(
        id=identifier,
        category=category,
        colour=colour,
        pattern=pattern,
        sleeve=sleeve if has_arms else None,
        neckline=neckline if has_arms else None,
        brand=brand,
    )


def split(identifier: str) -> str:
    """The split of a product: by a hash of its id alone, so that it never moves to another."""
    position = int.from_bytes(hashlib.sha256(f"split/{identifier}".encode()).digest()[:8], "big") / 2**64
    for name, share in SPLITS:
        if position < share:
            return name
        position -= share
    return SPLITS[-1][0]


def generator(seed: int, identifier: str, purpose: str) -> np.random.Generator:
    """The random stream of one purpose ("attributes", "photograph", "badge") of one product."""
    digest = hashlib.sha256(f"{seed}/{identifier}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _pick(rng: np.random.Generator, values: tuple[_Value, ...]) -> _Value:
    return values[int(rng.integers(len(values)))]
