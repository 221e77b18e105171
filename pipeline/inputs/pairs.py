"""``whymatch pairs``: the manifest of what a model would recommend, by exact search over a catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.embedded_products import EmbeddedProducts, embed_products, read_products
from pipeline.inputs.manifest_files import writer
from pipeline.inputs.pair_condition import PairCondition, check_sides, find_condition
from pipeline.inputs.recommend import NearestSearch, recommend
from pipeline.runs.runners import default_threads
from pipeline.text.left_out import LeftOut
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging import images
from transforms.core.messages import Echo
from transforms.core.records import content_id
from transforms.serving import bundle as bundles
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import Device, resolve_device
from transforms.storage.addresses import is_local


@dataclass(frozen=True)
class PairsSettings:
    """Which products of a catalogue are paired, and how they are searched. UsageError for a number below 1.

    Attributes:
      catalogue: its local images must lie under its folder, or under one of ``image_roots``.
      bundle: its address.
      out: a .csv, .jsonl or .parquet file that does not exist yet.
      condition: the condition of the bundle to compare under; needed where it has any. Products of one of the types
        that it joins are queries for those of the other; all for all where the bundle does not say which types these
        are, or the catalogue lacks their column.
      similar_by: only products that agree in all of these columns of the catalogue are paired, such as the positives
        that a network was trained with. One with an empty cell there is paired with none; it is counted and said.
      split: only products of this split, as queries and as references.
      queries: how many of them to search for: those with the smallest hash of ``seed`` and id, the same in every order
        of the catalogue. All by default.
      threads, batch: CPU threads, and images embedded at once. chunk: queries searched for at once.
      allow_http: whether images may lie at addresses of public hosts.
    """

    catalogue: str
    bundle: str
    out: str
    top_k: int = 8
    condition: str | None = None
    similar_by: Sequence[str] = ()
    split: str | None = None
    queries: int | None = None
    seed: int = 0
    device: Device = "auto"
    threads: int | None = None
    batch: int | None = None
    chunk: int = 256
    image_roots: Sequence[str] = ()
    allow_http: bool = False

    def __post_init__(self) -> None:
        counts = {"top-k": self.top_k, "queries": self.queries, "threads": self.threads, "batch": self.batch}
        for name, value in {**counts, "chunk": self.chunk}.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class PairsSummary:
    """What became of a catalogue. ``failures`` counts by reason the rows and products that could not be used."""

    pairs: int
    queries: int
    products: int
    failures: Counter[str]


def make_pairs(settings: PairsSettings, echo: Echo = print) -> PairsSummary:
    """Writes the most similar other products of each product to the manifest that ``settings`` name.

    Images of equal bytes are never paired, whatever their ids. A product that cannot be used (its row, its id that
    another row has too, its image) is counted by reason, said, and left out.

    Raises UsageError, before anything is embedded, where an option, the catalogue or the bundle does not allow it.
    """
    out = settings.out
    write = writer(out)
    bundle = bundles.read(settings.bundle)
    condition = find_condition(bundle, settings.condition, settings.catalogue, echo)
    images.require_safe_decoder()
    failures = LeftOut()
    embedded = _embedded(settings, condition, failures, echo)
    asked = sample([product.id for product in embedded.products], settings.queries, settings.seed)
    search = NearestSearch(settings.top_k, settings.chunk, condition, tuple(settings.similar_by))
    rows = recommend(embedded, bundle, asked, search, echo)
    storage.publish(out, write(rows))
    echo(f"{len(rows):,} pairs of {len(asked):,} queries and {len(embedded.products):,} products: {storage.shown(out)}")
    return PairsSummary(len(rows), len(asked), len(embedded.products), failures.counts)


def _embedded(
    settings: PairsSettings, condition: PairCondition | None, failures: LeftOut, echo: Echo
) -> EmbeddedProducts:
    """The products that can be paired; says what is left out. UsageError where there are fewer than two."""
    catalogue = settings.catalogue
    columns = tuple(settings.similar_by)
    products = read_products(catalogue, failures, split=settings.split, under=condition, columns=columns)
    check_sides(products, condition)
    device = resolve_device(settings.device)
    batch = settings.batch or (16 if device == "cpu" else 256)
    threads = settings.threads or default_threads(1)
    models = Models(Serving(settings.bundle, device, threads, batch, attributes=False))
    roots = [*settings.image_roots, *([storage.resolve("", catalogue)] if is_local(catalogue) else [])]
    access = storage.Access(roots=tuple(roots), allow_http=settings.allow_http)
    load = ImageLoader(access, images.ImageLimits(), models.bundle.resize)
    embedded = embed_products(products, load, models, failures, echo)
    for reason, count in failures.counts.most_common():
        echo(f"left out: {count:,} {reason}, the first: {failures.first[reason]}")
    if len(embedded.products) < 2:
        raise UsageError(f"{len(embedded.products)} of {len(products):,} products can be used; a pair needs two")
    check_sides(embedded.products, condition)
    return embedded


def sample(ids: Sequence[str], count: int | None, seed: int) -> NDArray[np.intp]:
    """Ascending indices of the ``count`` ids with the smallest hash of ``seed`` and id; of all ids for None."""
    ranked = sorted(range(len(ids)), key=lambda index: content_id(str(seed), ids[index], letter="s", digits=64))
    return np.array(sorted(ranked[:count]), np.intp)
