"""Real photographs to measure with: queries of a manifest, their references, and the catalogue that they come from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.records import Float32, Image, Pair, Product, content_id
from transforms.core.saliency.rise import Rise, rise
from transforms.inputs import catalogue, manifest
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Query:
    """A query with the embeddings [R, D] of its references; ``number`` is its place among the queries."""

    number: int
    address: str
    image: LoadedImage
    references: Float32


@dataclass(eq=False)
class Photographs:
    """Queries, in an order that a hash of their names decides, and the embeddings [I, D] of the catalogue's images.

    ``of_catalogue`` holds each address's place in ``embeddings``.
    """

    models: Models
    queries: list[Query]
    embeddings: Float32
    of_catalogue: dict[str, int]
    masks: int
    passes: int = 0
    _perturbed: dict[tuple[int, str, int], Float32] = field(default_factory=dict, repr=False)
    _designs: dict[int, Rise] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """The frame, (H, W)."""
        return self.models.similarity.size

    def design(self, seed: int) -> Rise:
        """The RISE design of ``masks`` masks that ``seed`` draws: the paper's, independent and averaged.

        Fills and banks are compared by the plainest form of the method.
        """
        if seed not in self._designs:
            self._designs[seed] = rise(
                self.size, masks=self.masks, sampling="independent", estimator="average", seed=seed
            )
        return self._designs[seed]

    def fill(self, query: Query, kind: str) -> Float32:
        """The fill ``kind`` for a query, [1, 1, 1, 3] or [1, H, W, 3]."""
        return make_fill(kind, query.image.pixels, self.models.bundle.fill_mean)

    def perturbed(self, query: Query, fill: str, seed: int) -> Float32:
        """Embeddings [N, D] of a query under the masks of ``seed``; kept, since several measurements ask for them."""
        key = (query.number, fill, seed)
        if key not in self._perturbed:
            self._perturbed[key] = self.masked(query.image.pixels, self.design(seed), self.fill(query, fill))
        return self._perturbed[key]

    def masked(self, pixels: Image, design: Rise | Given, fill: Float32) -> Float32:
        """Embeddings [N, D] of ``pixels`` under the masks of ``design``."""
        self.passes += design.n
        return self.models.similarity.perturbed(pixels, self.models.similarity.bank(design, hold=False), fill)

    def base(self, query: Query) -> Float32:
        """The embedding [1, D] of the whole query."""
        return self.models.similarity.embed(query.image.pixels[None])


@dataclass(frozen=True, eq=False)
class Given:
    """Masks [N, H, W] that are there already, as a design without an estimator."""

    given: Float32
    key: None = None

    @property
    def n(self) -> int:
        """N, the number of masks."""
        return len(self.given)

    @property
    def size(self) -> tuple[int, int]:
        """The frame, (H, W)."""
        return (self.given.shape[1], self.given.shape[2])

    def masks(self, start: int, stop: int) -> Float32:
        """Masks ``start`` to ``stop``."""
        return self.given[start:stop]

    def estimate(self, scores: object, base: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """There is none."""
        raise NotImplementedError("given masks hide regions; no map is estimated from them")


def load(
    bundle: str, pairs: str, products: str, *, queries: int, references: int, masks: int, threads: int, batch: int
) -> Photographs:
    """Reads and embeds ``queries`` queries of the manifest ``pairs`` with at least ``references`` references each.

    Raises UsageError where the manifest has too few of them, or a photograph cannot be read.
    """
    models = Models(Serving(bundle, "cpu", threads, batch))
    beside = {os.path.dirname(os.path.abspath(name)) for name in (pairs, products)}
    addresses = {item.id: item.image for item in catalogue.read(products) if isinstance(item, Product)}
    images = {os.path.dirname(address) for address in addresses.values()}
    loader = ImageLoader(Access((*beside, *images)), ImageLimits(), models.bundle.resize)

    read = _readable(loader, sorted(set(addresses.values())))
    pixels = np.stack([pixels for _, pixels in read])
    place = {address: at for at, (address, _) in enumerate(read)}
    embeddings = models.similarity.embed(pixels)

    matched = _matched(pairs, addresses, place)
    fit = sorted((query for query in matched if len(matched[query]) >= references), key=_hash)
    if len(fit) < queries:
        raise UsageError(
            f"{pairs} has {len(fit)} queries of at least {references} references whose photographs can be read; "
            f"{queries} were asked for. Make a larger manifest with `whymatch pairs`, or lower --queries."
        )
    chosen = []
    for number, query in enumerate(fit[:queries]):
        of_query = [place[reference] for reference in matched[query][:references]]
        chosen.append(Query(number, query, loader(query), embeddings[of_query]))
    return Photographs(models, chosen, embeddings, place, masks, passes=len(read))


def nearest(photographs: Photographs, embedded: Float32, but: Sequence[str] = ()) -> Float32:
    """The cosine [N] of each of ``embedded`` [N, D] to the nearest catalogue image, not counting those at ``but``."""
    similar = _unit(embedded) @ _unit(photographs.embeddings).T
    similar[:, [photographs.of_catalogue[address] for address in but]] = -1
    best: Float32 = similar.max(axis=1)
    return best


def with_progress(items: Sequence[T], what: str) -> Iterator[T]:
    """``items`` one by one, saying how many are done and when the rest will be."""
    start = time.monotonic()
    for done, item in enumerate(items):
        if done and done % 10 == 0:
            left = (time.monotonic() - start) / done * (len(items) - done)
            print(f"{what}: {done} of {len(items)} queries, {left:.0f} s left", flush=True)
        yield item
    print(f"{what}: {len(items)} queries in {time.monotonic() - start:.0f} s", flush=True)


def require(*paths: str) -> None:
    """UsageError that names the first of ``paths`` that is not there."""
    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"{path} is not there: `make fashion` makes a bundle and a manifest")


def _readable(loader: ImageLoader, addresses: Sequence[str]) -> list[tuple[str, Image]]:
    read = []
    for address in addresses:
        try:
            read.append((address, loader(address).pixels))
        except PairError as error:
            print(f"left out: {os.path.basename(address)}: {error}")
    if not read:
        raise UsageError("no photograph of the catalogue can be read")
    return read


def _matched(pairs: str, addresses: dict[str, str], place: dict[str, int]) -> dict[str, list[str]]:
    """The references of each query of a manifest, by address, of pairs of readable photographs."""
    matched: dict[str, list[str]] = {}
    for pair in manifest.read(pairs):
        if isinstance(pair, Pair):
            query = pair.query or addresses.get(pair.query_id, "")
            reference = pair.reference or addresses.get(pair.reference_id, "")
            if query in place and reference in place:
                matched.setdefault(query, []).append(reference)
    return matched


def _hash(address: str) -> str:
    return content_id(os.path.basename(address), letter="q")


def _unit(vectors: Float32) -> Float32:
    unit: Float32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
