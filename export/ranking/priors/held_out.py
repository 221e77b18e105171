"""Pairs that the network was not trained on: those of a manifest, or what the model itself recommends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from export.ranking.priors.network import CutNetwork, ImageValues
from export.ranking.priors.settings import PriorSettings
from export.ranking.products import counted
from transforms import storage
from transforms.core.attributes import neighbours
from transforms.core.errors import DuplicatePair, UnknownCondition, UnknownProduct, UsageError
from transforms.core.messages import Echo
from transforms.core.records import Failure, Pair, Product, content_id
from transforms.inputs import manifest
from transforms.serving.bundle import Bundle

_TRAINS = "pairs of a product that trains"


@dataclass(frozen=True)
class ManifestPairs:
    """A manifest of pairs, or a pattern of several, and its ``columns`` (``transforms.inputs.manifest``)."""

    address: str
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutPair:
    """A pair by the addresses of its images. ``attributes`` are the query's, empty where no catalogue speaks of it."""

    query_id: str
    query: str
    reference: str
    condition: str | None = None
    attributes: tuple[str, ...] = ()


def read_pairs(
    files: Sequence[str],
    columns: Mapping[str, str],
    products: Sequence[Product],
    trained: Collection[str],
    bundle: Bundle,
    settings: PriorSettings,
    left_out: Counter[str],
) -> list[HeldOutPair]:
    """The pairs of the manifests ``files``, of at most as many queries as the settings say.

    Pairs with a product of ``trained``, ids, by its id or by the address of its image, are left out: the network was
    made to find them similar, so they say little of what it follows elsewhere. UsageError where no pair is left.
    """
    by_id = {product.id: product for product in products}
    rows: dict[str, Pair] = {}
    for row in _usable_rows(files, columns, by_id, trained, bundle, left_out):
        other = rows.setdefault(row.pair_id, row)
        if other is not row:
            left_out[DuplicatePair.reason] += 1
            rows[row.pair_id] = min(row, other, key=manifest.canonical)
    if not rows:
        raise UsageError(
            f"{', '.join(map(file_name, files))}: no held-out pair is left: {counts_text(left_out)}. Give pairs of "
            "products that the network was not trained on, such as `whymatch pairs --split valid` writes"
        )
    asked = _first((row.query_id for row in rows.values()), settings.queries, settings.seed)
    pairs = []
    for row in sorted(rows.values(), key=manifest.canonical):
        if row.query_id in asked:
            query = by_id.get(row.query_id)
            pairs.append(
                HeldOutPair(
                    row.query_id,
                    row.query or by_id[row.query_id].image,
                    row.reference or by_id[row.reference_id].image,
                    row.condition,
                    query.names() if query else (),
                )
            )
    return pairs


def _usable_rows(
    files: Sequence[str],
    columns: Mapping[str, str],
    products: Mapping[str, Product],
    trained: Collection[str],
    bundle: Bundle,
    left_out: Counter[str],
) -> Iterator[Pair]:
    """The rows of ``files`` whose images are known and do not train, and that ``bundle`` can compare."""
    images = {products[one].image for one in trained}
    for file in files:
        manifest.check_header(file, columns=columns, has_catalogue=True)
        for row in manifest.read(file, columns=columns):
            if isinstance(row, Failure):
                left_out[row.reason] += 1
            elif not _compared(row, bundle):
                left_out[UnknownCondition.reason] += 1
            elif not ((row.query or row.query_id in products) and (row.reference or row.reference_id in products)):
                left_out[UnknownProduct.reason] += 1
            elif row.query_id in trained or row.reference_id in trained or images & {row.query, row.reference}:
                left_out[_TRAINS] += 1
            else:
                yield row


def _compared(pair: Pair, bundle: Bundle) -> bool:
    """Whether the bundle can compare the pair: under one of its conditions where it has any, else under none."""
    return pair.condition in bundle.conditions if bundle.conditions else pair.condition is None


def recommended_pairs(
    products: Sequence[Product],
    bundle: Bundle,
    network: CutNetwork,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> tuple[list[HeldOutPair], dict[str, ImageValues]]:
    """What the model recommends within the valid split; and its images by address, without the layer's values.

    UsageError where fewer than two of its products can be used.
    """
    valid = [product for product in products if product.split == "valid"]
    addresses = [product.image for product in valid]
    images = {
        address: image.without_values()
        for address, image in network.run_images(addresses, "embedding the valid split", left_out, echo)
    }
    usable = [product for product in valid if product.image in images]
    if len(usable) < 2:
        raise UsageError(
            f"the catalogue has {len(usable)} usable products of split valid; the model recommends within them, and a "
            "pair needs two. Give --pairs, a manifest of pairs that the network was not trained on."
        )
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(images[product.image].sha256, len(numbers)) for product in usable]
    asked = _first((product.id for product in usable), settings.queries, settings.seed)
    pairs = []
    for found in neighbours.top_k(
        np.stack([images[product.image].embedding for product in usable]),
        settings.top_k,
        function=bundle.similarity_function,
        groups=np.array(groups),
        queries=np.array([at for at, product in enumerate(usable) if product.id in asked], np.intp),
    ):
        query = usable[found.query]
        pairs += [HeldOutPair(query.id, query.image, usable[at].image, None, query.names()) for at in found.indices]
    return pairs, images


def _first(ids: Iterable[str], count: int, seed: int) -> set[str]:
    """Those ``count`` ids with the smallest hash of ``seed`` and id, as ``whymatch pairs --queries`` draws them."""
    return set(sorted(set(ids), key=lambda one: content_id(str(seed), one, letter="s", digits=64))[:count])


def file_name(address: str) -> str:
    """The last part of an address, without a credential that it may hold."""
    return PurePosixPath(storage.shown(address)).name


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts by reason, for a message that has to say so where there are none."""
    return counted(counts) or "nothing was left out"
