"""The explaining step: one set of masked forward passes for an image serves all of its references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.core.errors import PairError
from transforms.core.memory import CHUNK
from transforms.core.types import Failure, LoadFailure
from transforms.explain_image import Explaining, Matched, PreparedImage, Task
from transforms.load_image import ImageLoader
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress


@dataclass(frozen=True)
class Worker:
    """What the explaining step needs on a worker; all of it can be pickled."""

    serving: Serving
    explaining: Explaining
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()


@dataclass(eq=False)
class ExplainQueries(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of pairs and ``(address, EmbeddedImage | LoadFailure)``.

    Outputs: ``rows`` of the table explanations, ``failures``, and ``counts`` of forward passes and explained images.
    """

    worker: Worker

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        pairs, images = inputs
        progress, explaining = self.worker.progress, self.worker.explaining
        tasks = pairs | "Sides" >> beam.FlatMap(lambda pair: [Task(pair, side) for side in explaining.sides])
        joined = (
            {"tasks": tasks | "ByOther" >> beam.Map(lambda task: (task.other, task)), "images": images}
            | "JoinOthers" >> beam.CoGroupByKey()
            | "Matched"
            >> beam.FlatMapTuple(lambda _, joined: _matched(joined, explaining, progress))
            .with_output_types(tuple[str, Any])
            .with_outputs("failures", main="matched")
        )
        explained = (
            joined.matched
            | "GroupByImage" >> beam.GroupByKey()
            | "Explain" >> beam.ParDo(_Explain(self.worker)).with_outputs("failures", "counts", main="rows")
        )
        failures = (joined.failures, explained.failures) | "Failures" >> beam.Flatten()
        return {"rows": explained.rows, "failures": failures, "counts": explained.counts}


def _matched(joined: dict[str, Iterable[Any]], explaining: Explaining, progress: Progress) -> Iterator[Any]:
    """``(explained address, (task, other image))`` for every task of one other image, or their failures."""
    outcomes = list(joined["images"])
    matched = 0
    for task in joined["tasks"]:
        if isinstance(outcomes[0], LoadFailure):
            yield pvalue.TaggedOutput("failures", explaining.failure(task, outcomes[0]))
        else:
            matched += 1
            yield task.explained, (task, outcomes[0])
    if matched:
        progress.add("pairs", matched)


class _Explain(beam.DoFn):  # type: ignore[misc]
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._metrics = StageMetrics("explain")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(self, element: tuple[str, Iterable[Matched]]) -> Iterator[Any]:
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
                prepared = PreparedImage.of(image, explaining, self._models, self._worker.load, everything)
                _ = prepared.shared.explained
        except PairError as error:
            for task, _ in items:
                self._worker.progress.add("done")
                self._metrics.failures()
                yield pvalue.TaggedOutput("failures", explaining.failure(task, error))
            return
        while chunk := list(islice(items, CHUNK)):
            for outcome in prepared.rows(chunk):
                if isinstance(outcome, Failure):
                    self._metrics.failures()
                    yield pvalue.TaggedOutput("failures", outcome)
                else:
                    yield outcome
            self._metrics.items(len(chunk))
            self._worker.progress.add("done", len(chunk))
        self._metrics.passes(prepared.passes)
        yield pvalue.TaggedOutput("counts", ("queries", 1))
        yield pvalue.TaggedOutput("counts", ("forward_passes", prepared.passes))
