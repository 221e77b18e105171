"""The explaining step: one set of masked forward passes for an image serves all of its references."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from transforms.beam.crossing import COUNTS, FAILURES, Count, EmbeddingOutcome, Join
from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.beam.typed import (
    DoFn,
    PCollection,
    Pipeline,
    Shared,
    SidedDoFn,
    SideInput,
    Step,
    Tag,
    Tagged,
    create,
    flat_map,
    flatten,
    group_by_key,
    map_each,
    par_do,
    par_do_with,
    split,
)
from transforms.core.records import EmbeddedImage, Failure, LoadFailure, Pair, Side
from transforms.core.statistics.nulls import NullReferences
from transforms.core.target import ExplanationTarget
from transforms.explaining.explain_image import ExplainedChunk, ExplainedImageSummary, ImageExplainer
from transforms.explaining.null_statistics import NullStatistic
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.inputs.random_references import Drawn
from transforms.inputs.region_files import RegionReader
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.tables.cells import TableRow


@dataclass(frozen=True)
class Worker:
    """What the explaining step needs on a worker; all of it can be pickled.

    ``regions`` reads what a catalogue knows of the photographs' regions.
    """

    serving: Serving
    explaining: ExplanationSettings
    load: ImageLoader
    handle: Shared
    progress: Progress = Progress()
    regions: RegionReader | None = None


class DrawnReferences(NamedTuple):
    """Random references by side, one element, and ``counts`` of these and of the forward passes that they took."""

    drawn: PCollection[dict[Side, NullReferences]]
    counts: PCollection[Count]


@dataclass(frozen=True)
class DrawReferences(Step[Pipeline, DrawnReferences]):
    """Embeds the run's random references, whose addresses are given by side; one that cannot be is left out."""

    worker: Worker
    addresses: Drawn

    def expand(self, root: Pipeline) -> DrawnReferences:
        """All of them together: they are few."""
        addresses = root | "Addresses" >> create(dict[Side, tuple[str, ...]], [dict(self.addresses)])
        drawn = addresses | "Embed" >> par_do(
            dict[Side, tuple[str, ...]], dict[Side, NullReferences], _EmbedDrawn(self.worker), COUNTS
        )
        return DrawnReferences(drawn.main, drawn[COUNTS])


_WAITS = (1.0, 4.0)
"""Seconds before a random reference is read again."""


class _EmbedDrawn(DoFn[dict[Side, tuple[str, ...]]]):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def setup(self) -> None:
        self._models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(self, addresses: dict[Side, tuple[str, ...]]) -> Iterator[dict[Side, NullReferences] | Tagged]:
        distinct = sorted({address for some in addresses.values() for address in some})
        batch = self._models.similarity.batch
        found: dict[str, EmbeddedImage] = {}
        for start in range(0, len(distinct), batch):
            found.update(self._embedded(distinct[start : start + batch]))
        yield {
            side: NullReferences.of(found[address] for address in some if address in found)
            for side, some in addresses.items()
        }
        yield COUNTS(("forward_passes", len(found)))
        yield COUNTS(("random_references", len(found)))

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


NULL_STATISTICS = Tag("null_statistics", tuple[str, NullStatistic])
"""Statistics of shuffled pairs, by the sha256 of the explained image."""


class ExplainedQueries(NamedTuple):
    """``rows`` of the table explanations, not yet judged, and all else that explaining says.

    ``counts`` are of forward passes and of explained images.
    """

    rows: PCollection[TableRow]
    failures: PCollection[Failure]
    counts: PCollection[Count]
    null_statistics: PCollection[tuple[str, NullStatistic]]


@dataclass(frozen=True)
class ExplainQueries(Step[tuple[PCollection[Pair], PCollection[EmbeddingOutcome]], ExplainedQueries]):
    """Pairs and what became of their images to explanations.

    ``drawn`` are the random references, as :class:`DrawReferences` gives them.
    """

    worker: Worker
    drawn: SideInput[dict[Side, NullReferences]]

    def expand(self, inputs: tuple[PCollection[Pair], PCollection[EmbeddingOutcome]]) -> ExplainedQueries:
        """Targets to their counterparts by a join, then all those of one explained image together."""
        pairs, images = inputs
        targets = pairs | "Sides" >> flat_map(Pair, ExplanationTarget, self._targets)
        by_other = targets | "ByOther" >> map_each(
            ExplanationTarget, tuple[str, ExplanationTarget], lambda target: (target.counterpart, target)
        )
        outcomes = images | "ByAddress" >> map_each(
            EmbeddingOutcome, tuple[str, EmbeddingOutcome], lambda one: (one.address, one)
        )
        joined = (by_other, outcomes) | "JoinOthers" >> Join(str, ExplanationTarget, EmbeddingOutcome)
        matched = joined | "Matched" >> split(
            tuple[str, tuple[list[ExplanationTarget], list[EmbeddingOutcome]]],
            tuple[str, tuple[ExplanationTarget, EmbeddedImage]],
            self._matched,
            FAILURES,
        )
        explained = (
            matched.main
            | "GroupByImage" >> group_by_key(str, tuple[ExplanationTarget, EmbeddedImage])
            | "Explain"
            >> par_do_with(
                tuple[str, Iterable[tuple[ExplanationTarget, EmbeddedImage]]],
                TableRow,
                _Explain(self.worker),
                self.drawn,
                FAILURES,
                COUNTS,
                NULL_STATISTICS,
            )
        )
        failures = [matched[FAILURES], explained[FAILURES]] | "Failures" >> flatten(Failure)
        return ExplainedQueries(explained.main, failures, explained[COUNTS], explained[NULL_STATISTICS])

    def _targets(self, pair: Pair) -> Iterator[ExplanationTarget]:
        return (ExplanationTarget(pair, side) for side in self.worker.explaining.sides)

    def _matched(
        self, group: tuple[str, tuple[list[ExplanationTarget], list[EmbeddingOutcome]]]
    ) -> Iterator[tuple[str, Matched] | Tagged]:
        """Every target of one counterpart, by the address of the image that is explained, or their failures."""
        _, (targets, outcomes) = group
        counterpart = outcomes[0].outcome
        if isinstance(counterpart, LoadFailure):
            for target in targets:
                yield FAILURES(self.worker.explaining.failure(target, counterpart))
            return
        for target in targets:
            yield target.explained, (target, counterpart)
        if targets:
            self.worker.progress.add("pairs", len(targets))


class _Explain(SidedDoFn[tuple[str, Iterable[Matched]], Mapping[Side, NullReferences]]):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._metrics = StepCounters("explain")

    def setup(self) -> None:
        with self._metrics.loading():
            self._models = self._worker.handle.acquire(lambda: Models(self._worker.serving))

    def process(
        self, element: tuple[str, Iterable[Matched]], drawn: Mapping[Side, NullReferences]
    ) -> Iterator[TableRow | Tagged]:
        address, matched = element
        worker = self._worker
        explainer = ImageExplainer(
            worker.explaining, self._models, worker.load, drawn, worker.regions, self._metrics.inference
        )
        targets = 0
        for done in explainer.explain(address, matched):
            if isinstance(done, ExplainedChunk):
                targets += done.targets
                yield from self._outcomes(done)
            else:
                # only an image that was read has a summary: what there is of another is failures, and no items
                self._metrics.items(targets)
                yield from self._summed(done)

    def _outcomes(self, chunk: ExplainedChunk) -> Iterator[TableRow | Tagged]:
        failures = [outcome for outcome in chunk.outcomes if isinstance(outcome, Failure)]
        self._metrics.failures(len(failures))
        self._worker.progress.add("done", chunk.targets)
        yield from map(FAILURES, failures)
        yield from (TableRow("explanations", outcome) for outcome in chunk.outcomes if not isinstance(outcome, Failure))

    def _summed(self, summary: ExplainedImageSummary) -> Iterator[Tagged]:
        self._metrics.passes(summary.passes)
        yield from (NULL_STATISTICS((summary.sha256, one)) for one in summary.null_statistics)
        yield COUNTS(("queries", 1))
        yield COUNTS(("forward_passes", summary.passes))
