"""Each distinct image of the pairs, decoded and embedded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.utils import shared

from transforms.core.errors import NonFiniteEmbedding, PairError
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.types import EmbeddedImage, LoadFailure, Pair
from transforms.load_image import ImageLoader, LoadedImage
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress

Outcome = tuple[str, EmbeddedImage | LoadFailure]


@dataclass(eq=False)
class EmbedImages(beam.PTransform):  # type: ignore[misc]
    """Pairs to ``(address, EmbeddedImage | LoadFailure)``, one for each distinct address, queries' included."""

    serving: Serving
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()

    def expand(self, pairs: Any) -> Any:
        batch = self.serving.batch or DEFAULT_BATCH["cpu"]
        return (
            pairs
            | "Addresses" >> beam.FlatMap(_addresses)
            | "Distinct" >> beam.Distinct()
            | "Batch" >> beam.BatchElements(min_batch_size=batch, max_batch_size=batch)
            | "Embed" >> beam.ParDo(_Embed(self.serving, self.load, self.handle, self.progress))
        )


def _addresses(pair: Pair) -> Iterator[str]:
    yield pair.query
    yield pair.reference


class _Embed(beam.DoFn):  # type: ignore[misc]
    def __init__(self, serving: Serving, load: ImageLoader, handle: shared.Shared, progress: Progress) -> None:
        self._serving, self._load, self._handle, self._progress = serving, load, handle, progress
        self._metrics = StageMetrics("embed")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._handle.acquire(lambda: Models(self._serving))

    def process(self, addresses: list[str]) -> Iterable[Outcome]:
        with self._metrics.inference(len(addresses)):
            outcomes = embed(addresses, self._load, self._models)
        failed = sum(isinstance(outcome, LoadFailure) for _, outcome in outcomes)
        self._metrics.items(len(outcomes) - failed)
        self._metrics.failures(failed)
        self._progress.add("images", len(addresses))
        return outcomes


def embed(addresses: list[str], load: ImageLoader, models: Models) -> list[Outcome]:
    """Embeds the images at ``addresses``; one that cannot be loaded or embedded becomes its failure."""
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    loaded: dict[str, LoadedImage] = {}
    for address in addresses:
        try:
            loaded[address] = load(address)
        except PairError as error:
            outcomes[address] = LoadFailure.of(error)
    if loaded:
        outcomes.update(_embed_loaded(loaded, models))
    return [(address, outcomes[address]) for address in addresses]


def _embed_loaded(loaded: dict[str, LoadedImage], models: Models) -> dict[str, EmbeddedImage | LoadFailure]:
    pixels = np.stack([image.pixels for image in loaded.values()])
    try:
        embeddings = models.similarity.embed(pixels)
        scores = models.attributes.predict(pixels)[0] if models.attributes else None
    except PairError as error:
        if len(loaded) == 1:
            return {address: LoadFailure.of(error) for address in loaded}
        # one image must not take the others of its batch with it
        alone = [_embed_loaded({address: image}, models) for address, image in loaded.items()]
        return {address: outcome for one in alone for address, outcome in one.items()}
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    for at, (address, image) in enumerate(loaded.items()):
        if np.isfinite(embeddings[at]).all():
            outcomes[address] = EmbeddedImage(
                address, image.sha256, *image.frame.original, embeddings[at], None if scores is None else scores[at]
            )
        else:
            outcomes[address] = LoadFailure.of(NonFiniteEmbedding("the embedding holds NaN or infinity"))
    return outcomes
