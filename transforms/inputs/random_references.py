"""Which images are the random references of a run's nulls: drawn in the launcher, by a hash, from all there are.

From the catalogue, if there is one, else from the images that the manifest names on the other side, rows that are not
sampled included. So a query has the same null in a sample as in a whole audit, and nearly the same one next month.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

from transforms.core.records import Product, Side
from transforms.core.statistics.nulls import REFERENCES, SPARE, place
from transforms.inputs import catalogue, manifest
from transforms.inputs.rows import public

Drawn = Mapping[Side, tuple[str, ...]]
"""Addresses of what images of each side are compared with."""


def of_catalogue(address: str, sides: Sequence[Side], seed: int) -> Drawn:
    """Images of the catalogue's products, drawn by their ids."""
    products = (item for item in catalogue.read(address, columns=()) if isinstance(item, Product))
    drawn = _first(((product.id, product.image) for product in products), seed)
    return dict.fromkeys(sides, drawn)


def of_manifest(files: Iterable[str], columns: Mapping[str, str], sides: Sequence[Side], seed: int) -> Drawn:
    """Images that the manifest's ``files`` name on the other side of each of ``sides``.

    They are drawn by their public addresses: a signature changes from day to day.
    """
    files, found = tuple(files), dict[Side, tuple[str, ...]]()
    for side in sides:
        other: Side = "reference" if side == "query" else "query"
        addresses = (one for file in files for one in manifest.read_addresses(file, other, columns=columns))
        found[side] = _first(((public(one), one) for one in addresses), seed)
    return found


def _first(named: Iterator[tuple[str, str]], seed: int) -> tuple[str, ...]:
    """The addresses of the names that come first by :func:`place`, of one name the first in the alphabet."""
    heap: list[tuple[int, str]] = []
    held: dict[int, str] = {}
    last = None
    for name, address in named:
        if (name, address) == last:
            continue  # rows of a product are often neighbours
        last = name, address
        at = int(place(name, seed), 16)
        if at in held:
            held[at] = min(held[at], address)
        elif len(heap) < REFERENCES + SPARE:
            heapq.heappush(heap, (-at, name))
            held[at] = address
        elif at < -heap[0][0]:
            del held[-heapq.heapreplace(heap, (-at, name))[0]]
            held[at] = address
    return tuple(held[at] for at in sorted(held))
