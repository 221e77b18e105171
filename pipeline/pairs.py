"""``whymatch pairs``: the manifest of what a model would recommend, by exact search over a catalogue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.launch import default_threads
from pipeline.manifests import SCHEMA, Row, writer
from transforms import catalogue as catalogues
from transforms import storage
from transforms.addresses import is_local
from transforms.core import images, memory, neighbours
from transforms.core.errors import AmbiguousProduct, NonFiniteEmbedding, PairError, UsageError
from transforms.core.types import Failure, Float32, Product, content_id
from transforms.load_image import ImageLoader
from transforms.models import Models, Serving
from transforms.runtime import Device, resolve_device

Echo = Callable[[str], None]


@dataclass(frozen=True)
class PairsSummary:
    """What became of a catalogue. ``failures`` counts by reason the rows and products that could not be used."""

    pairs: int
    queries: int
    products: int
    failures: Counter[str]


def make_pairs(
    *,
    catalogue: str,
    bundle: str,
    out: str,
    top_k: int = 8,
    split: str | None = None,
    queries: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    batch: int | None = None,
    chunk: int = 256,
    image_roots: Sequence[str] = (),
    allow_http: bool = False,
    echo: Echo = print,
) -> PairsSummary:
    """Writes the ``top_k`` most similar other products of each product to the manifest ``out``.

    Images of equal bytes are never paired, whatever their ids. A product that cannot be used (its row, its id that
    another row has too, its image) is counted by reason, said, and left out.

    Args:
      catalogue: its local images must lie under its folder, or under one of ``image_roots``.
      out: a .csv, .jsonl or .parquet file that does not exist yet.
      split: only products of this split, as queries and as references.
      queries: how many of them to search for: those with the smallest hash of ``seed`` and id, the same in every order
        of the catalogue. All by default.
      threads, batch: CPU threads, and images embedded at once. chunk: queries searched for at once.

    Raises UsageError, before anything is embedded, where an option, the catalogue or the bundle does not allow it.
    """
    for name, value in {"top-k": top_k, "queries": queries, "threads": threads, "batch": batch, "chunk": chunk}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    write = writer(out)
    images.require_safe_decoder()
    failures = _Failures()
    products = _products(catalogue, split, failures)
    on = resolve_device(device)
    models = Models(Serving(bundle, on, threads or default_threads(1), batch or (16 if on == "cpu" else 256)))
    roots = [*image_roots, *([storage.resolve("", catalogue)] if is_local(catalogue) else [])]
    access = storage.Access(roots=tuple(roots), allow_http=allow_http)
    embedded = _embed(products, ImageLoader(access, images.Limits(), models.bundle.resize), models, failures, echo)
    failures.say(echo)
    if len(embedded.products) < 2:
        raise UsageError(f"{len(embedded.products)} of {len(products):,} products can be used; a pair needs two")
    asked = sample([product.id for product in embedded.products], queries, seed)
    rows = _search(embedded, models, asked, top_k, chunk, echo)
    storage.publish(out, write(rows))
    echo(f"{len(rows):,} pairs of {len(asked):,} queries and {len(embedded.products):,} products: {storage.shown(out)}")
    return PairsSummary(len(rows), len(asked), len(embedded.products), failures.counts)


def sample(ids: Sequence[str], count: int | None, seed: int) -> NDArray[np.intp]:
    """Ascending indices of the ``count`` ids with the smallest hash of ``seed`` and id; of all ids for None."""
    ranked = sorted(range(len(ids)), key=lambda index: content_id(str(seed), ids[index], letter="s", digits=64))
    return np.array(sorted(ranked[:count]), np.intp)


@dataclass
class _Failures:
    """Counts by reason, and the first message of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, message: str) -> None:
        self.counts[reason] += 1
        self.first.setdefault(reason, message)

    def say(self, echo: Echo) -> None:
        for reason, count in self.counts.most_common():
            echo(f"left out: {count:,} {reason}, the first: {self.first[reason]}")


@dataclass(frozen=True)
class _Embedded:
    """The products whose image could be embedded, in the catalogue's order."""

    products: list[Product]
    embeddings: Float32  # [I, D]
    groups: NDArray[np.int64]  # [I]; equal for images of equal bytes


def _products(address: str, split: str | None, failures: _Failures) -> list[Product]:
    products: list[Product] = []
    for item in catalogues.read(address, columns=()):
        if isinstance(item, Failure):
            failures.add(item.reason, f"{item.source}: {item.message}")
        else:
            products.append(item)
    rows = Counter(product.id for product in products)
    wanted = []
    for product in products:
        if split is not None and product.split != split:
            continue
        if rows[product.id] > 1:
            failures.add(AmbiguousProduct.reason, f"{storage.shown(product.id)}, the id of {rows[product.id]} rows")
        else:
            wanted.append(product)
    if len(wanted) < 2:
        splits = ", ".join(sorted({repr(product.split) for product in products if product.split})[:20]) or "none"
        of_split = f" of split {split!r} (its splits: {splits})" if split is not None else ""
        raise UsageError(
            f"{storage.shown(address)} has {len(wanted)} usable products{of_split}; a pair needs two. "
            f"{failures.counts.total():,} rows were left out" + "".join(f"; {text}" for text in failures.first.values())
        )
    return wanted


def _embed(
    products: Sequence[Product], load: ImageLoader, models: Models, failures: _Failures, echo: Echo
) -> _Embedded:
    """Embeds each distinct address once; images are held for one batch only."""
    addresses = list(dict.fromkeys(product.image for product in products))
    progress = _Progress("embedding", "images", len(addresses), echo)
    step = models.similarity.batch
    done: dict[str, tuple[str, Float32] | PairError] = {}
    for start in range(0, len(addresses), step):
        some = addresses[start : start + step]
        done.update(_embed_some(some, load, models))
        progress.add(len(some))
    kept, vectors, groups = [], [], []
    group_of: dict[str, int] = {}
    for product in products:
        outcome = done[product.image]
        if isinstance(outcome, PairError):
            failures.add(outcome.reason, f"{storage.shown(product.id)}: {outcome}")
            continue
        kept.append(product)
        groups.append(group_of.setdefault(outcome[0], len(group_of)))
        vectors.append(outcome[1])
    dimension = models.bundle.embedding_size
    return _Embedded(kept, np.array(vectors, np.float32).reshape(-1, dimension), np.array(groups, np.int64))


def _embed_some(
    addresses: Sequence[str], load: ImageLoader, models: Models
) -> dict[str, tuple[str, Float32] | PairError]:
    """The sha256 and the embedding [D] of every image, or why there is none."""
    outcomes: dict[str, tuple[str, Float32] | PairError] = {}
    loaded = {}
    for address in addresses:
        try:
            loaded[address] = load(address)
        except PairError as error:
            outcomes[address] = error
    if not loaded:
        return outcomes
    try:
        embeddings = models.similarity.embed(np.stack([image.pixels for image in loaded.values()]))
    except PairError as error:
        if len(addresses) == 1:
            return {addresses[0]: error}
        # one image must not take the others of its batch with it
        return outcomes | {
            address: one for each in loaded for address, one in _embed_some([each], load, models).items()
        }
    for (address, image), embedding in zip(loaded.items(), embeddings, strict=True):
        finite = np.isfinite(embedding).all()
        broken = NonFiniteEmbedding("the embedding holds NaN or infinity")
        outcomes[address] = (image.sha256, embedding) if finite else broken
    return outcomes


def _search(
    embedded: _Embedded, models: Models, asked: NDArray[np.intp], top_k: int, chunk: int, echo: Echo
) -> list[Row]:
    count, dimension = embedded.embeddings.shape
    bytes_needed = neighbours.search_bytes(count, dimension, min(chunk, len(asked)))
    echo(f"exact search: {len(asked):,} queries in {count:,} products, {memory.megabytes(bytes_needed)}")
    progress = _Progress("searching", "queries", len(asked), echo)
    function, model_id = models.bundle.similarity_function, models.bundle.model_id
    ids = [product.id for product in embedded.products]
    rows: list[Row] = []
    for found in neighbours.top_k(
        embedded.embeddings, top_k, function=function, groups=embedded.groups, queries=asked, chunk=chunk
    ):
        for rank, (index, score) in enumerate(zip(found.indices.tolist(), found.scores.tolist(), strict=True), 1):
            values = (ids[found.query], ids[index], rank, score, model_id)
            rows.append(dict(zip(SCHEMA.names, values, strict=True)))
        progress.add(1)
    return rows


class _Progress:
    """How much is done, and how long the rest will take: a line for each tenth, at most one a second, and the last."""

    def __init__(self, doing: str, what: str, total: int, echo: Echo) -> None:
        self._doing, self._what, self._total, self._echo = doing, what, total, echo
        self._done, self._tenth = 0, 0
        self._started = self._said = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        tenth, now = 10 * self._done // self._total, time.monotonic()
        if tenth == self._tenth or (now < self._said + 1 and self._done < self._total):
            return
        self._tenth, self._said = tenth, now
        left = round((now - self._started) * (self._total - self._done) / self._done)
        counts = f"{self._done:,} of {self._total:,} {self._what} ({self._done / self._total:.0%})"
        self._echo(f"{self._doing}: {counts}, {left // 60}:{left % 60:02d} left")
