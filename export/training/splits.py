"""Which products train, validate and test: one rule for trainings and for all that must not look at what trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from transforms.core.records import Product

SPLITS = {name: name for name in ("train", "valid", "test")} | {"val": "valid", "validation": "valid", "dev": "valid"}
"""What a catalogue may call a split, in lower case, and what it is called here."""


def with_splits(products: Sequence[Product]) -> list[Product]:
    """``products`` with the splits train, valid and test as a training has them.

    Without any split 1 in 10 is valid and 1 in 10 test, by a hash of the id. With splits, a product without one trains,
    and where nothing is valid, 1 in 10 of train becomes so. Products of other splits are left out.
    """
    kept = [product for product in products if product.split is None or product.split.lower() in SPLITS]
    given = [None if product.split is None else SPLITS[product.split.lower()] for product in kept]
    lots = [int.from_bytes(hashlib.sha256(one.id.encode("utf-8", "surrogatepass")).digest()[:8]) % 10 for one in kept]
    if not any(given):
        splits = [{0: "test", 1: "valid"}.get(lot, "train") for lot in lots]
    else:
        splits = [split or "train" for split in given]
        if "valid" not in splits:
            splits = [
                "valid" if split == "train" and lot == 1 else split for split, lot in zip(splits, lots, strict=True)
            ]
    return [replace(product, split=split) for product, split in zip(kept, splits, strict=True)]
