"""Polyvore Outfits: M. Vasileva et al., "Learning Type-Aware Embeddings for Fashion Compatibility", ECCV 2018
(arXiv 1803.09196), one of the two data sets of SANE (Plummer et al., ECCV 2020, section 4).

Items of one outfit go together; two of different types are compared under the condition of their types. The pairs of
types that come with the data set as a pickle are not read: a pickle can run code, and the outfits say the same.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

from pipeline.datasets.reading import json_entries, label, local_folder, member, names_in, opened, plain_name
from pipeline.datasets.writing import SPLITS, Item, LeftOutItems, PairOf, PublishedDataset
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import quoted
from transforms.inputs.lines import Lines, records

METADATA, CATEGORIES, IMAGES = "polyvore_item_metadata.json", "categories.csv", "images"
TYPE, CATEGORY, OUTFIT = "semantic_category", "category", "outfit"
MAX_ITEMS = 200
"""Items of an outfit; the largest of the data set has 19, and pairs grow with the square."""

Variant = Literal["nondisjoint", "disjoint"]

_Description: TypeAlias = tuple[str | None, str | None]
"""Type and fine category of an item."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """An outfit of a split, with its distinct items in their order."""

    id: str
    split: str
    items: tuple[str, ...]


def read(folder: str, variant: Variant, *, conditions: bool = True) -> tuple[PublishedDataset, list[Outfit]]:
    """The products of one variant, in the order in which its outfits first name them, and the outfits.

    An item of several splits is of the last of train, valid and test, so that nothing that is tested has trained. One
    without metadata or without an image is left out; one without a type is a product that is in no pair. Its outfit is
    the first of its split.

    UsageError where a file is missing, damaged or of another layout, or an id is no plain name.
    """
    folder = local_folder(folder, "the data set")
    left_out = LeftOutItems()
    outfits = [outfit for split in SPLITS for outfit in _outfits(os.path.join(folder, variant, f"{split}.json"), split)]
    homes, several = _homes(outfits)
    described, notes = _described(folder, homes, variant, left_out)
    items = dict(_products(folder, homes, described, left_out))
    if several:
        notes.append(_named("items are in outfits of several splits and are of the last of these", several))
    if untyped := [item.id for item in items.values() if item.type is None]:
        notes.append(_named("products have no type, and so no pairs", untyped))
    if twice := len(outfits) - len({outfit.id for outfit in outfits}):
        notes.append(f"{twice:,} outfits have the set_id of another one, and count all the same")
    return PublishedDataset(folder, (TYPE, CATEGORY, OUTFIT), items, left_out, tuple(notes), conditions), outfits


def _homes(outfits: Sequence[Outfit]) -> tuple[dict[str, Outfit], list[str]]:
    """The outfit that each item has its split of, and the items of several splits; ``outfits`` are in their order."""
    homes: dict[str, Outfit] = {}
    several: dict[str, None] = {}
    for outfit in outfits:
        for item in outfit.items:
            before = homes.get(item)
            if before is None or before.split != outfit.split:
                homes[item] = outfit
            if before is not None and before.split != outfit.split:
                several[item] = None
    return homes, list(several)


def _products(
    folder: str, homes: Mapping[str, Outfit], described: Mapping[str, _Description], left_out: LeftOutItems
) -> Iterator[tuple[str, Item]]:
    """The products by id: the items that have metadata and an image."""
    pictured = _pictured(os.path.join(folder, IMAGES), homes)
    for item, outfit in homes.items():
        if item not in described:
            left_out.add("items without metadata", item)
        elif item not in pictured:
            left_out.add(f"items without an image in {IMAGES}/", item)
        else:
            kind, category = described[item]
            yield item, Item(item, f"{IMAGES}/{item}.jpg", outfit.split, (kind, category, outfit.id), kind)


def outfit_pairs(dataset: PublishedDataset, outfits: Sequence[Outfit]) -> Iterator[PairOf]:
    """Each two items of different types of one outfit, once; the one that the outfit names first is the query.

    Both must be products of the outfit's split. What is left out is counted.
    """
    number = {item: at for at, item in enumerate(dataset.items)}
    seen: set[int] = set()
    for outfit in outfits:
        known = [dataset.items[item] for item in outfit.items if item in dataset.items]
        usable = [item for item in known if item.split == outfit.split and item.type is not None]
        lost = _couples(len(outfit.items)) - _couples(len(known))
        dataset.left_out.count("pairs of an outfit with an item that is left out", lost)
        lost = _couples(len(known)) - _couples(len(usable))
        dataset.left_out.count("pairs of an outfit with an item of another split or of no type", lost)
        for query, reference in combinations(usable, 2):
            if query.type == reference.type:
                dataset.left_out.count("pairs of an outfit of one type")
                continue
            low, high = sorted((number[query.id], number[reference.id]))
            key = low * len(number) + high
            if key in seen:
                dataset.left_out.count("pairs that another outfit has too")
                continue
            seen.add(key)
            yield PairOf(query.id, reference.id)


def _couples(count: int) -> int:
    return count * (count - 1) // 2


def _named(what: str, names: list[str]) -> str:
    return f"{len(names):,} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _outfits(path: str, split: str) -> Iterator[Outfit]:
    for place, entry in json_entries(path, "["):
        outfit = plain_name(member(entry, "set_id", object, path, place), path, place, "set_id")
        items = member(entry, "items", list, path, place)
        if len(items) > MAX_ITEMS:
            raise UsageError(
                f"{storage.shown(path)}, {place}: the outfit {quoted(outfit)} has {len(items):,} items, at most "
                f"{MAX_ITEMS} are taken; remove it"
            )
        ids = [plain_name(member(item, "item_id", object, path, place), path, place, "item_id") for item in items]
        yield Outfit(outfit, split, tuple(dict.fromkeys(ids)))


def _described(
    folder: str, wanted: Container[str], variant: str, left_out: LeftOutItems
) -> tuple[dict[str, _Description], list[str]]:
    """Type and fine category of the items ``wanted``, by id, and what there is to note.

    The fine category is the name that categories.csv has for the metadata's category_id, or the category_id itself.
    The type is the metadata's; where that is empty, the one of categories.csv.
    """
    path = os.path.join(folder, METADATA)
    names = _categories(os.path.join(folder, CATEGORIES))
    found: dict[str, _Description] = {}
    unused, unnamed = 0, 0
    shared: dict[str, str] = {}  # one text for each value, not one for each item
    for key, entry in json_entries(path, "{"):
        item = plain_name(key, path, f"the key {quoted(key)}", "item_id")
        if item not in wanted:
            unused += 1
            continue
        place = f"item {item}"
        if item in found:
            raise UsageError(f"{storage.shown(path)}, {place}: the item is there more than once; remove all but one")
        if not isinstance(entry, dict):
            raise UsageError(f"{storage.shown(path)}, {place}: an object is expected; unpack the data set again")
        number = label(entry.get("category_id"), path, place, "category_id")
        kind = label(entry.get(TYPE), path, place, TYPE)
        category = number
        if names and number is not None:
            unnamed += number not in names
            category, of = names.get(number, (number, None))
            kind = kind or of
        found[item] = (kind and shared.setdefault(kind, kind), category and shared.setdefault(category, category))
    left_out.count(f"items of the metadata that are in no outfit of {variant}", unused)
    noted = f"{unnamed:,} items have a category_id that is not in {CATEGORIES} and stands for itself"
    return found, [noted] if unnamed else []


def _categories(path: str) -> dict[str, tuple[str, str | None]]:
    """Fine name and type by category_id; nothing where the file is not there. A header is known by its first cell."""
    found: dict[str, tuple[str, str | None]] = {}
    if not os.path.lexists(path):
        return found
    with opened(path) as file:
        for row, cells in enumerate(records(Lines(file, storage.shown(path))), 1):
            place = f"row {row}"
            if isinstance(cells, str) or not 2 <= len(cells) <= 3:
                why = cells if isinstance(cells, str) else f"it has {len(cells)} cells"
                raise UsageError(
                    f"{storage.shown(path)}, {place}: {why}; expected are category_id, fine name and type: correct it, "
                    "or remove the file, and category_ids stand for themselves"
                )
            number, name, kind = (label(cell, path, place, "cell") for cell in (*cells, None)[:3])
            if row == 1 and not (number or "").isdecimal():
                continue
            if number is None or name is None or number in found:
                why = "the category_id is there twice" if number in found else "a cell is empty"
                raise UsageError(
                    f"{storage.shown(path)}, {place}: {why}; correct it, or remove the file, and category_ids stand "
                    "for themselves"
                )
            found[number] = (name, kind)
    return found


def _pictured(folder: str, wanted: Container[str]) -> set[str]:
    """Which of the items ``wanted`` have an image."""
    return {item for name in names_in(folder) if name.endswith(".jpg") and (item := name[:-4]) in wanted}
