"""The products of a catalogue that can be paired, and their embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.pair_condition import PairCondition
from pipeline.inputs.progress_lines import progress_lines
from pipeline.text.left_out import LeftOut
from transforms import storage
from transforms.core.errors import AmbiguousProduct, UsageError
from transforms.core.messages import Echo
from transforms.core.records import EmbeddedImage, Failure, Float32, LoadFailure, Product
from transforms.inputs import catalogue as catalogues
from transforms.serving.embed import embed
from transforms.serving.load_image import Load
from transforms.serving.models import Models


@dataclass(frozen=True)
class EmbeddedProducts:
    """The products whose image could be embedded, in the catalogue's order."""

    products: list[Product]
    embeddings: Float32  # [I, D]
    groups: NDArray[np.int64]  # [I]; equal for images of equal bytes


def read_products(
    address: str, failures: LeftOut, *, split: str | None, under: PairCondition | None, columns: tuple[str, ...]
) -> list[Product]:
    """The products of the catalogue at ``address`` that can be paired, with the attributes of ``columns``.

    They are of ``split``, where one is asked for, and of the types that the condition ``under`` joins; each has an id
    of its own. What was left out is added to ``failures``. UsageError where there are fewer than two.
    """
    products: list[Product] = []
    of_condition = () if under is None or under.column is None else (under.column,)
    for item in catalogues.read(address, columns=tuple(dict.fromkeys((*of_condition, *columns)))):
        if isinstance(item, Failure):
            failures.add(item.reason, f"{item.source}: {item.message}")
        else:
            products.append(item)
    rows = Counter(product.id for product in products)
    wanted = []
    for product in products:
        if split is not None and product.split != split:
            continue
        if under is not None and under.side(product) is None:
            continue
        if rows[product.id] > 1:
            failures.add(AmbiguousProduct.reason, f"{storage.shown(product.id)}, the id of {rows[product.id]} rows")
        else:
            wanted.append(product)
    if len(wanted) < 2:
        splits = ", ".join(sorted({repr(product.split) for product in products if product.split})[:20]) or "none"
        of_split = f" of split {split!r} (its splits: {splits})" if split is not None else ""
        of_types = f" whose {of_condition[0]} is what the condition joins" if of_condition else ""
        raise UsageError(
            f"{storage.shown(address)} has {len(wanted)} usable products{of_split}{of_types}; a pair needs two. "
            f"{failures.counts.total():,} rows were left out" + "".join(f"; {text}" for text in failures.first.values())
        )
    return wanted


def embed_products(
    products: Sequence[Product], load: Load, models: Models, failures: LeftOut, echo: Echo
) -> EmbeddedProducts:
    """Embeds each distinct image once; products whose image cannot be embedded are added to ``failures``."""
    addresses = list(dict.fromkeys(product.image for product in products))
    progress = progress_lines("embedding", "images", len(addresses), echo)
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    for address, outcome in embed(addresses, load, models, scores=False):
        outcomes[address] = outcome
        progress.add(1)
    kept, vectors, groups = [], [], []
    group_of: dict[str, int] = {}
    for product in products:
        image = outcomes[product.image]
        if isinstance(image, LoadFailure):
            failures.add(image.reason, f"{storage.shown(product.id)}: {image.message}")
            continue
        kept.append(product)
        groups.append(group_of.setdefault(image.sha256, len(group_of)))
        vectors.append(image.embedding)
    dimension = models.bundle.embedding_size
    return EmbeddedProducts(kept, np.array(vectors, np.float32).reshape(-1, dimension), np.array(groups, np.int64))
