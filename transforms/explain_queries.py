"""The explaining step: one set of masked forward passes for an image serves all of its references.

It serves them under whatever conditions of the similarity they are compared: a condition multiplies embeddings, which
are the network's. References are estimated condition by condition, so that no more than one condition's embeddings are
held beside the network's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms import tables
from transforms.core.errors import NonFiniteMap, PairError
from transforms.core.explanation import explain
from transforms.core.fill import make_fill
from transforms.core.memory import CHUNK
from transforms.core.saliency.contract import Gradient, References, Saliency
from transforms.core.saliency.explainer import Explainer, Side
from transforms.core.similarity import conditioned, kept_under, similarities
from transforms.core.types import EmbeddedImage, Failure, Float32, Float64, LoadFailure, Pair
from transforms.load_image import ImageLoader, LoadedImage
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.subject import Shared, Subject


@dataclass(frozen=True, slots=True)
class Task:
    """One pair, one of whose images is to be explained: ``side``."""

    pair: Pair
    side: Side

    @property
    def explained(self) -> str:
        """The address of the image that is explained."""
        return self.pair.query if self.side == "query" else self.pair.reference

    @property
    def other(self) -> str:
        """The address of the image that it is compared with."""
        return self.pair.reference if self.side == "query" else self.pair.query


@dataclass(frozen=True)
class Explaining:
    """What to explain and with what: the explainers, which of a pair's images, how many attributes to keep, and the
    size of the stored map."""

    explainers: tuple[Explainer, ...]
    sides: tuple[Side, ...] = ("query",)
    top: int = 5
    map_size: tuple[int, int] = (28, 28)

    def failure(self, task: Task, error: PairError | LoadFailure, method: str | None = None) -> Failure:
        """The failure of ``task``, of all methods where none is named."""
        side = task.side if len(self.sides) > 1 else None
        return replace(Failure.of(task.pair, error), side=side, method=method if len(self.explainers) > 1 else None)

    def stands_for(self, failure: Failure) -> int:
        """How many explanations a failure says are missing."""
        methods = len(self.explainers) if failure.method is None else 1
        return methods * (len(self.sides) if failure.side is None else 1)


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


Matched = tuple[Task, EmbeddedImage]
"""A task with the other image of its pair."""


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


@dataclass(frozen=True)
class PreparedImage:
    """An image after the passes that serve all of its references.

    ``saliencies`` has one for every explainer, or why there is none. They are of the network's own embeddings; those of
    a condition are made from the same passes, when its references are there.
    """

    shared: Shared
    explaining: Explaining
    load: ImageLoader
    saliencies: tuple[Saliency | PairError, ...]

    @classmethod
    def of(
        cls,
        image: LoadedImage,
        explaining: Explaining,
        models: Models,
        load: ImageLoader,
        matched: Sequence[Matched] = (),
    ) -> PreparedImage:
        """Runs the passes; raises PairError where not even the whole image can be embedded.

        ``matched`` are all references, for explainers that stop when their maps for all of them have converged.
        """
        shared = Shared(image, models)
        _ = shared.base, shared.explained
        made = cls(shared, explaining, load, ())
        return replace(made, saliencies=tuple(made._prepare(explainer, matched) for explainer in explaining.explainers))

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self.shared.passes

    def rows(self, matched: Sequence[Matched]) -> Iterator[tables.Row | Failure]:
        """A row of the table explanations, or a failure, for every one of ``matched`` and every explainer."""
        function = self.shared.models.bundle.similarity_function
        for condition in dict.fromkeys(task.pair.condition for task, _ in matched):
            some = [one for one in matched if one[0].pair.condition == condition]
            base = conditioned(self.shared.base, self.shared.mask(condition), function)
            found = similarities(self._embeddings(some, condition), base, function)[:, 0]
            for explainer, saliency in self._saliencies(condition):
                yield from self._rows_of(explainer, saliency, some, found)

    def _saliencies(self, condition: str | None) -> Iterator[tuple[Explainer, Saliency | PairError]]:
        """Each explainer with what it found out about the image as ``condition`` compares it, made when asked for."""
        for explainer, saliency in zip(self.explaining.explainers, self.saliencies, strict=True):
            if condition is None or isinstance(saliency, PairError):
                yield explainer, saliency
            else:
                yield explainer, self._prepare(explainer, condition=condition)

    def _prepare(
        self, explainer: Explainer, matched: Sequence[Matched] = (), condition: str | None = None
    ) -> Saliency | PairError:
        references = self._references(explainer, matched) if matched and explainer.converges else None
        try:
            return explainer.method.prepare(Subject(self.shared, explainer.fill, condition), references)
        except PairError as error:
            return error

    def _rows_of(
        self, explainer: Explainer, saliency: Saliency | PairError, matched: Sequence[Matched], found: Float64
    ) -> Iterator[tables.Row | Failure]:
        try:
            if isinstance(saliency, PairError):
                raise saliency
            maps = saliency.maps(self._references(explainer, matched))
            if not np.isfinite(maps.saliency).all():
                raise NonFiniteMap(f"the map of {explainer.method.name} holds NaN or infinity")
        except PairError as error:
            if len(matched) > 1 and not isinstance(saliency, PairError):
                # one reference must not take the others with it
                for at, one in enumerate(matched):
                    yield from self._rows_of(explainer, saliency, [one], found[at : at + 1])
                return
            for task, _ in matched:
                yield self.explaining.failure(task, error, explainer.method.name)
            return
        models = self.shared.models
        explanations = explain(
            self.shared.explained,
            found,
            maps,
            ranking=models.bundle.ranking,
            top=self.explaining.top,
            map_size=self.explaining.map_size,
        )
        for (task, other), explanation in zip(matched, explanations, strict=True):
            yield tables.explanation_row(
                task.pair,
                explanation,
                explainer,
                side=task.side,
                reference_scores=other.scores if task.side == "query" else self.shared.explained.confidence,
                bundle=models.bundle,
                frame=self.shared.image.frame,
                passes=maps.passes,
                provider=models.similarity.provider,
            )

    def _embeddings(self, matched: Sequence[Matched], condition: str | None) -> Float32:
        """The other images' embeddings [R, D], as ``condition`` compares them."""
        rows = np.stack([other.embedding for _, other in matched])
        return conditioned(rows, self.shared.mask(condition), self.shared.models.bundle.similarity_function)

    def _versions(self, kept: Float32, condition: str | None) -> Float32:
        """What of the masked versions that an image kept ``condition`` compares, [K, D]."""
        bundle = self.shared.models.bundle
        names = tuple(bundle.conditions)
        if not names:
            return kept
        mask = self.shared.mask(condition)
        return kept_under(kept, mask, names.index(condition), len(names), bundle.similarity_function)

    def _references(self, explainer: Explainer, matched: Sequence[Matched]) -> References:
        """The other images of ``matched``, all of one condition."""
        condition = matched[0][0].pair.condition
        embeddings = self._embeddings(matched, condition)
        if explainer.perturb == "query":
            return References(embeddings)
        kept = [other.perturbed for _, other in matched if other.perturbed is not None and explainer.references]
        versions = [self._versions(some, condition) for some in kept]

        def gradients(start: int, stop: int) -> Gradient:
            pixels = [self.load(task.other).pixels for task, _ in matched[start:stop]]
            mean = self.shared.models.bundle.fill_mean
            fills = np.concatenate([make_fill(explainer.fill, image, mean) for image in pixels])
            return self.shared.gradient(np.stack(pixels), fills, condition)

        # a run of Mask alone masks no references by anything but what it optimises
        perturbed = np.stack(versions) if versions else None
        passes = explainer.references.masks if explainer.references else 0
        return References(embeddings, perturbed, passes, gradients)
