"""Each distinct image of the pairs, decoded and embedded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.utils import shared

from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.records import LoadFailure, Pair, Side
from transforms.core.saliency.explainer import ReferenceMasks
from transforms.serving.embed import Outcome, embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving


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
        self._metrics = StepCounters("embed")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._handle.acquire(lambda: Models(self._serving))

    def process(self, wanted: list[tuple[str, bool]]) -> Iterable[Outcome]:
        addresses = [address for address, _ in wanted]
        perturb = self._masked.masks if self._masked else 0
        with self._metrics.inference(len(addresses) + perturb * sum(masked for _, masked in wanted)):
            perturbed = {one for one, masked in wanted if masked}
            outcomes = list(embed(addresses, self._load, self._models, self._masked, perturbed))
        failed = sum(isinstance(outcome, LoadFailure) for _, outcome in outcomes)
        self._metrics.items(len(outcomes) - failed)
        self._metrics.failures(failed)
        self._progress.add("images", len(addresses))
        return outcomes
