"""The explaining step: one set of masked forward passes for an image serves all of its references."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.core.errors import PairError
from transforms.core.memory import CHUNK
from transforms.core.records import EmbeddedImage, Failure, LoadFailure, Side
from transforms.core.statistics.nulls import NullReferences
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.image_regions import ImageRegions
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.inputs.random_references import Drawn
from transforms.inputs.region_files import RegionReader
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving


@dataclass(frozen=True)
class Worker:
    """What the explaining step needs on a worker; all of it can be pickled.

    ``regions`` reads what a catalogue knows of the photographs' regions.
    """

    serving: Serving
    explaining: ExplanationSettings
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()
    regions: RegionReader | None = None


@dataclass(eq=False)
class DrawReferences(beam.PTransform):  # type: ignore[misc]
    """Embeds the run's random references, whose addresses are given by side; one that cannot be is left out.

    Outputs: ``drawn``, one element, ``{side: NullReferences}``, and ``counts`` of forward passes.
    """

    worker: Worker
    addresses: Drawn

    def expand(self, root: Any) -> Any:
        return (
            root
            | "Addresses" >> beam.Create([dict(self.addresses)])
            | "Embed" >> beam.ParDo(_EmbedDrawn(self.worker)).with_outputs("counts", main="drawn")
        )


_WAITS = (1.0, 4.0)
"""Seconds before a random reference is read again."""


class _EmbedDrawn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def setup(self) -> None:
        self._models: Models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(self, addresses: Drawn) -> Iterator[Any]:
        distinct = sorted({address for some in addresses.values() for address in some})
        batch = self._models.similarity.batch
        found: dict[str, EmbeddedImage] = {}
        for start in range(0, len(distinct), batch):
            found.update(self._embedded(distinct[start : start + batch]))
        yield {
            side: NullReferences.of(found[address] for address in some if address in found)
            for side, some in addresses.items()
        }
        yield pvalue.TaggedOutput("counts", ("forward_passes", len(found)))
        yield pvalue.TaggedOutput("counts", ("random_references", len(found)))

    def _embedded(self, addresses: list[str]) -> Iterator[tuple[str, EmbeddedImage]]:
        """What can be embedded; a fault of the storage that may pass is given time, since every row hangs on these."""
        for wait in (*_WAITS, None):
            again = []
            for address, outcome in embed(addresses, self._worker.load, self._models):
                if isinstance(outcome, EmbeddedImage):
                    yield address, outcome
                elif outcome.retryable:
                    again.append(address)
            if not again or wait is None:
                return
            addresses = again
            time.sleep(wait)


@dataclass(eq=False)
class ExplainQueries(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of pairs and ``(address, EmbeddedImage | LoadFailure)``.

    ``drawn`` is a side input of one mapping, that of :class:`DrawReferences`.

    Outputs: ``rows`` of the table explanations, not yet judged, ``failures``, ``counts`` of forward passes and of
    explained images, and ``null_statistics``, the statistics of shuffled pairs as ``(sha256, NullStatistic)``.
    """

    worker: Worker
    drawn: Any

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        pairs, images = inputs
        progress, explaining = self.worker.progress, self.worker.explaining
        targets = pairs | "Sides" >> beam.FlatMap(
            lambda pair: [ExplanationTarget(pair, side) for side in explaining.sides]
        )
        joined = (
            {"tasks": targets | "ByOther" >> beam.Map(lambda target: (target.counterpart, target)), "images": images}
            | "JoinOthers" >> beam.CoGroupByKey()
            | "Matched"
            >> beam.FlatMapTuple(lambda _, joined: _matched(joined, explaining, progress))
            .with_output_types(tuple[str, Any])
            .with_outputs("failures", main="matched")
        )
        explained = (
            joined.matched
            | "GroupByImage" >> beam.GroupByKey()
            | "Explain"
            >> beam.ParDo(_Explain(self.worker), self.drawn).with_outputs(
                "failures", "counts", "null_statistics", main="rows"
            )
        )
        failures = (joined.failures, explained.failures) | "Failures" >> beam.Flatten()
        return {
            "rows": explained.rows,
            "failures": failures,
            "counts": explained.counts,
            "null_statistics": explained.null_statistics,
        }


def _matched(joined: dict[str, Iterable[Any]], explaining: ExplanationSettings, progress: Progress) -> Iterator[Any]:
    """``(explained address, (task, other image))`` for every task of one other image, or their failures."""
    outcomes = list(joined["images"])
    matched = 0
    for target in joined["tasks"]:
        if isinstance(outcomes[0], LoadFailure):
            yield pvalue.TaggedOutput("failures", explaining.failure(target, outcomes[0]))
        else:
            matched += 1
            yield target.explained, (target, outcomes[0])
    if matched:
        progress.add("pairs", matched)


class _Explain(beam.DoFn):  # type: ignore[misc]
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._metrics = StepCounters("explain")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models: Models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(self, element: tuple[str, Iterable[Matched]], drawn: Mapping[Side, NullReferences]) -> Iterator[Any]:
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
                prepared = PreparedImage.of(image, explaining, self._models, self._worker.load, everything, drawn)
                _ = prepared.session.explained
        except PairError as error:
            for target, _ in items:
                self._worker.progress.add("done")
                self._metrics.failures()
                yield pvalue.TaggedOutput("failures", explaining.failure(target, error))
            return
        compared: set[tuple[str | None, Side]] = set()
        regions = ImageRegions(self._worker.regions, image.frame)
        while chunk := list(islice(items, CHUNK)):
            compared.update((target.pair.condition, target.side) for target, _ in chunk)
            for outcome in explanation_rows(prepared, chunk, regions):
                if isinstance(outcome, Failure):
                    self._metrics.failures()
                    yield pvalue.TaggedOutput("failures", outcome)
                else:
                    yield outcome
            self._metrics.items(len(chunk))
            self._worker.progress.add("done", len(chunk))
        for null_statistic in prepared.null_statistics(sorted(compared, key=str)):
            yield pvalue.TaggedOutput("null_statistics", (image.sha256, null_statistic))
        self._metrics.passes(prepared.passes)
        yield pvalue.TaggedOutput("counts", ("queries", 1))
        yield pvalue.TaggedOutput("counts", ("forward_passes", prepared.passes))
