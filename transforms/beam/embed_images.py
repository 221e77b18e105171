"""Each distinct image of the pairs, decoded and embedded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap

from transforms.beam.crossing import EmbeddingOutcome
from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.beam.typed import DoFn, PCollection, Shared, Step, batch, combine_per_key, flat_map, par_do
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.records import LoadFailure, Pair, Side
from transforms.core.saliency.explainer import ReferenceMasks
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving

Wanted = tuple[str, bool]
"""The address of an image, and whether masked versions of it are wanted."""


@dataclass(frozen=True)
class EmbedImages(Step[PCollection[Pair], PCollection[EmbeddingOutcome]]):
    """Pairs to what became of each distinct address, queries' included.

    ``masked``, if given, is how the images that others are compared with are perturbed; ``sides`` are the explained
    ones.
    """

    serving: Serving
    load: ImageLoader
    handle: Shared
    progress: Progress = Progress()
    masked: ReferenceMasks | None = None
    sides: tuple[Side, ...] = ("query",)

    def expand(self, pairs: PCollection[Pair]) -> PCollection[EmbeddingOutcome]:
        """Addresses, each once, a batch at a time."""
        embedded = (
            pairs
            | "Addresses" >> flat_map(Pair, tuple[str, bool], self._addresses)
            | "Distinct" >> combine_per_key(tuple[str, bool], any)
            | "Batch" >> batch(tuple[str, bool], self.serving.batch or DEFAULT_BATCH["cpu"])
            | "Embed" >> par_do(list[tuple[str, bool]], EmbeddingOutcome, _Embed(self))
        )
        return embedded.main

    def _addresses(self, pair: Pair) -> Iterator[Wanted]:
        """Masked versions are wanted of an image where the other one is explained against it."""
        yield pair.query, self.masked is not None and "reference" in self.sides
        yield pair.reference, self.masked is not None and "query" in self.sides


class _Embed(DoFn[list[Wanted]]):
    def __init__(self, step: EmbedImages) -> None:
        self._step = step
        self._metrics = StepCounters("embed")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models = self._step.handle.acquire(lambda: Models(self._step.serving))

    def process(self, wanted: list[Wanted]) -> Iterator[EmbeddingOutcome]:
        step, addresses = self._step, [address for address, _ in wanted]
        perturbed = {address for address, masked in wanted if masked}
        with self._metrics.inference(len(addresses) + (step.masked.masks if step.masked else 0) * len(perturbed)):
            outcomes = list(embed(addresses, step.load, self._models, step.masked, perturbed))
        failed = sum(isinstance(outcome, LoadFailure) for _, outcome in outcomes)
        self._metrics.items(len(outcomes) - failed)
        self._metrics.failures(failed)
        step.progress.add("images", len(addresses))
        return starmap(EmbeddingOutcome, outcomes)
