"""The explaining step: one set of masked forward passes for an image serves all of its references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.core.errors import PairError
from transforms.core.memory import CHUNK
from transforms.core.nulls import REFERENCES, SPARE, NullReferences, place
from transforms.core.saliency.explainer import Side
from transforms.core.types import EmbeddedImage, Failure, LoadFailure
from transforms.explain_image import Explaining, Matched, PreparedImage, Task
from transforms.load_image import ImageLoader
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.regions import RegionReader


@dataclass(frozen=True)
class Worker:
    """What the explaining step needs on a worker; all of it can be pickled.

    ``seed`` draws the random references; ``regions`` reads what a catalogue knows of the photographs' regions.
    """

    serving: Serving
    explaining: Explaining
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()
    seed: int = 0
    regions: RegionReader | None = None


@dataclass(eq=False)
class ExplainQueries(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of pairs and ``(address, EmbeddedImage | LoadFailure)``.

    Outputs: ``rows`` of the table explanations, not yet judged, ``failures``, ``counts`` of forward passes and of
    explained images, and ``chances``, the statistics of shuffled pairs as ``(sha256, Chance)``.
    """

    worker: Worker

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        pairs, images = inputs
        progress, explaining, seed = self.worker.progress, self.worker.explaining, self.worker.seed
        tasks = pairs | "Sides" >> beam.FlatMap(lambda pair: [Task(pair, side) for side in explaining.sides])
        joined = (
            {"tasks": tasks | "ByOther" >> beam.Map(lambda task: (task.other, task)), "images": images}
            | "JoinOthers" >> beam.CoGroupByKey()
            | "Matched"
            >> beam.FlatMapTuple(lambda _, joined: _matched(joined, explaining, progress))
            .with_output_types(tuple[str, Any])
            .with_outputs("failures", "others", main="matched")
        )
        drawn = (
            joined.others
            | "RandomReferences"
            >> beam.combiners.Top.PerKey(REFERENCES + SPARE, key=lambda image: place(image.sha256, seed), reverse=True)
            | "BySide" >> beam.combiners.ToDict()
        )
        explained = (
            joined.matched
            | "GroupByImage" >> beam.GroupByKey()
            | "Explain"
            >> beam.ParDo(_Explain(self.worker), pvalue.AsSingleton(drawn)).with_outputs(
                "failures", "counts", "chances", main="rows"
            )
        )
        failures = (joined.failures, explained.failures) | "Failures" >> beam.Flatten()
        return {
            "rows": explained.rows,
            "failures": failures,
            "counts": explained.counts,
            "chances": explained.chances,
        }


def _matched(joined: dict[str, Iterable[Any]], explaining: Explaining, progress: Progress) -> Iterator[Any]:
    """``(explained address, (task, other image))`` for every task of one other image, or their failures.

    The image itself is of the ``others`` of each side: what random references are drawn from.
    """
    outcomes = list(joined["images"])
    matched = 0
    sides: set[Side] = set()
    for task in joined["tasks"]:
        if isinstance(outcomes[0], LoadFailure):
            yield pvalue.TaggedOutput("failures", explaining.failure(task, outcomes[0]))
        else:
            matched += 1
            sides.add(task.side)
            yield task.explained, (task, outcomes[0])
    for side in sorted(sides):
        yield pvalue.TaggedOutput("others", (side, replace(outcomes[0], scores=None, perturbed=None)))
    if matched:
        progress.add("pairs", matched)


class _Explain(beam.DoFn):  # type: ignore[misc]
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._metrics = StageMetrics("explain")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(
        self, element: tuple[str, Iterable[Matched]], drawn: Mapping[Side, list[EmbeddedImage]]
    ) -> Iterator[Any]:
        address, matched = element
        explaining = self._worker.explaining
        items: Iterator[Matched] = iter(matched)
        try:
            image = self._worker.load(address)
            if any(explainer.converges for explainer in explaining.explainers):
                items = iter(everything := list(items))
            else:
                everything = []
            with self._metrics.inference():
                prepared = PreparedImage.of(
                    image,
                    explaining,
                    self._models,
                    self._worker.load,
                    everything,
                    {side: NullReferences.of(images, self._worker.seed) for side, images in drawn.items()},
                    self._worker.regions,
                )
                _ = prepared.shared.explained
        except PairError as error:
            for task, _ in items:
                self._worker.progress.add("done")
                self._metrics.failures()
                yield pvalue.TaggedOutput("failures", explaining.failure(task, error))
            return
        compared: set[tuple[str | None, Side]] = set()
        while chunk := list(islice(items, CHUNK)):
            compared.update((task.pair.condition, task.side) for task, _ in chunk)
            for outcome in prepared.rows(chunk):
                if isinstance(outcome, Failure):
                    self._metrics.failures()
                    yield pvalue.TaggedOutput("failures", outcome)
                else:
                    yield outcome
            self._metrics.items(len(chunk))
            self._worker.progress.add("done", len(chunk))
        for chance in prepared.chances(sorted(compared, key=str)):
            yield pvalue.TaggedOutput("chances", (image.sha256, chance))
        self._metrics.passes(prepared.passes)
        yield pvalue.TaggedOutput("counts", ("queries", 1))
        yield pvalue.TaggedOutput("counts", ("forward_passes", prepared.passes))
