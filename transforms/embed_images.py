"""Each distinct image of the pairs, decoded and embedded once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.utils import shared

from transforms.core.errors import NonFiniteEmbedding, PairError
from transforms.core.fill import make_fill
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.saliency.explainer import ReferenceMasks, Side
from transforms.core.similarity import keep
from transforms.core.types import EmbeddedImage, LoadFailure, Pair
from transforms.load_image import ImageLoader, Load, LoadedImage
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.subject import finite

Outcome = tuple[str, EmbeddedImage | LoadFailure]


@dataclass(eq=False)
class EmbedImages(beam.PTransform):  # type: ignore[misc]
    """Pairs to ``(address, EmbeddedImage | LoadFailure)``, one for each distinct address, queries' included.

    ``masked``, if given, is how the images that others are compared with are perturbed; ``sides`` are the explained
    ones.
    """

    serving: Serving
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()
    masked: ReferenceMasks | None = None
    sides: tuple[Side, ...] = ("query",)

    def expand(self, pairs: Any) -> Any:
        batch = self.serving.batch or DEFAULT_BATCH["cpu"]
        return (
            pairs
            | "Addresses" >> beam.FlatMap(lambda pair: self._addresses(pair))
            | "Distinct" >> beam.CombinePerKey(any)
            | "Batch" >> beam.BatchElements(min_batch_size=batch, max_batch_size=batch)
            | "Embed" >> beam.ParDo(_Embed(self.serving, self.load, self.handle, self.progress, self.masked))
        )

    def _addresses(self, pair: Pair) -> Iterator[tuple[str, bool]]:
        """Each image, and whether masked versions of it are wanted: where the other one is explained against it."""
        yield pair.query, self.masked is not None and "reference" in self.sides
        yield pair.reference, self.masked is not None and "query" in self.sides


class _Embed(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        serving: Serving,
        load: ImageLoader,
        handle: shared.Shared,
        progress: Progress,
        masked: ReferenceMasks | None,
    ) -> None:
        self._serving, self._load, self._handle, self._progress = serving, load, handle, progress
        self._masked = masked
        self._metrics = StageMetrics("embed")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._handle.acquire(lambda: Models(self._serving))

    def process(self, wanted: list[tuple[str, bool]]) -> Iterable[Outcome]:
        addresses = [address for address, _ in wanted]
        perturb = self._masked.masks if self._masked else 0
        with self._metrics.inference(len(addresses) + perturb * sum(masked for _, masked in wanted)):
            outcomes = embed(
                addresses, self._load, self._models, self._masked, {one for one, masked in wanted if masked}
            )
        failed = sum(isinstance(outcome, LoadFailure) for _, outcome in outcomes)
        self._metrics.items(len(outcomes) - failed)
        self._metrics.failures(failed)
        self._progress.add("images", len(addresses))
        return outcomes


def embed(
    addresses: list[str],
    load: Load,
    models: Models,
    masked: ReferenceMasks | None = None,
    wanted: Collection[str] = (),
) -> list[Outcome]:
    """Embeds the images at ``addresses``; one that cannot be loaded or embedded becomes its failure.

    Those of ``wanted`` get their masked versions too.
    """
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    loaded: dict[str, LoadedImage] = {}
    for address in addresses:
        try:
            loaded[address] = load(address)
        except PairError as error:
            outcomes[address] = LoadFailure.of(error)
    if loaded:
        outcomes.update(_embed_loaded(loaded, models))
    for address in wanted if masked else ():
        outcome = outcomes[address]
        if masked and isinstance(outcome, EmbeddedImage):
            outcomes[address] = _with_masked(outcome, loaded[address], masked, models)
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


def _with_masked(
    image: EmbeddedImage, loaded: LoadedImage, masked: ReferenceMasks, models: Models
) -> EmbeddedImage | LoadFailure:
    """``image`` with what is kept of its masked versions (``transforms.core.similarity.keep``).

    That crosses the shuffle to the images that are compared with it, and no image or mask does.
    """
    try:
        design = models.design(masked.method(models.similarity.size), loaded.sha256)
        fill = make_fill(masked.fill, loaded.pixels, models.bundle.fill_mean)
        versions = finite(models.similarity.perturbed(loaded.pixels, models.bank_of(design), fill))
    except PairError as error:
        return LoadFailure.of(error)
    masks = [np.array(mask, np.float32) for mask in models.bundle.conditions.values()]
    return replace(image, perturbed=keep(versions, masks, models.bundle.similarity_function))
