"""The explaining step: one set of masked forward passes for a query serves all of its references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms import tables
from transforms.core.errors import NonFiniteEmbedding, PairError
from transforms.core.explanation import ExplainedQuery, explain
from transforms.core.fill import make_fill
from transforms.core.maps import background_of
from transforms.core.saliency.methods import Method
from transforms.core.types import EmbeddedImage, Failure, Frame, LoadFailure, Pair
from transforms.load_image import ImageLoader, LoadedImage
from transforms.metrics import StageMetrics
from transforms.models import Models, Serving
from transforms.progress import Progress

CHUNK = 256
"""References that are estimated together; it bounds memory and changes no result."""


@dataclass(frozen=True)
class Explainer:
    """What to explain with: the method, the fill, how many attributes to keep, and the size of the stored map."""

    method: Method
    fill: str
    top: int = 5
    map_size: tuple[int, int] = (28, 28)


@dataclass(frozen=True)
class Worker:
    """What the explaining step needs on a worker; all of it can be pickled."""

    serving: Serving
    explainer: Explainer
    load: ImageLoader
    handle: shared.Shared
    progress: Progress = Progress()


@dataclass(eq=False)
class ExplainQueries(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of pairs and ``(address, EmbeddedImage | LoadFailure)``.

    Outputs: ``rows`` of the table explanations, ``failures``, and ``counts`` of forward passes and queries.
    """

    worker: Worker

    def expand(self, inputs: tuple[Any, Any]) -> dict[str, Any]:
        pairs, images = inputs
        progress = self.worker.progress
        joined = (
            {"pairs": pairs | "ByReference" >> beam.Map(lambda pair: (pair.reference, pair)), "images": images}
            | "JoinReferences" >> beam.CoGroupByKey()
            | "Matched"
            >> beam.FlatMapTuple(lambda _, joined: _matched(joined, progress))
            .with_output_types(tuple[str, Any])
            .with_outputs("failures", main="matched")
        )
        explained = (
            joined.matched
            | "GroupByQuery" >> beam.GroupByKey()
            | "Explain" >> beam.ParDo(_Explain(self.worker)).with_outputs("failures", "counts", main="rows")
        )
        failures = (joined.failures, explained.failures) | "Failures" >> beam.Flatten()
        return {"rows": explained.rows, "failures": failures, "counts": explained.counts}


Matched = tuple[Pair, EmbeddedImage]


def _matched(joined: dict[str, Iterable[Any]], progress: Progress) -> Iterator[Any]:
    """``(query address, (pair, reference))`` for every pair of one reference, or its failures."""
    outcomes = list(joined["images"])
    matched = 0
    for pair in joined["pairs"]:
        if isinstance(outcomes[0], LoadFailure):
            yield pvalue.TaggedOutput("failures", Failure.of(pair, outcomes[0]))
        else:
            matched += 1
            yield pair.query, (pair, outcomes[0])
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
        items = iter(matched)
        try:
            image = self._worker.load(address)
            bank = self._models.bank(self._worker.explainer.method, image.sha256)
            with self._metrics.inference(bank.design.n + 1):
                query = PreparedQuery.of(image, self._worker.explainer, self._models)
        except PairError as error:
            for pair, _ in items:
                self._worker.progress.add("done")
                self._metrics.failures()
                yield pvalue.TaggedOutput("failures", Failure.of(pair, error))
            return
        yield pvalue.TaggedOutput("counts", ("queries", 1))
        yield pvalue.TaggedOutput("counts", ("forward_passes", query.passes))
        while chunk := list(islice(items, CHUNK)):
            yield from query.rows(chunk, self._worker.explainer, self._models)
            self._metrics.items(len(chunk))
            self._worker.progress.add("done", len(chunk))


@dataclass(frozen=True)
class PreparedQuery:
    """A query after its forward passes: all that its references need."""

    frame: Frame
    explained: ExplainedQuery
    passes: int

    @classmethod
    def of(cls, image: LoadedImage, explainer: Explainer, models: Models) -> PreparedQuery:
        """Runs the N masked passes and the unmasked one; raises PairError."""
        bank = models.bank(explainer.method, image.sha256)
        fill = make_fill(explainer.fill, image.pixels, models.bundle.fill_mean)
        base = models.similarity.embed(image.pixels[None])
        perturbed = models.similarity.perturbed(image.pixels, bank, fill)
        if not (np.isfinite(base).all() and np.isfinite(perturbed).all()):
            raise NonFiniteEmbedding("an embedding of the query, masked or not, holds NaN or infinity")
        confidence = activations = None
        if models.attributes:
            scores, maps = models.attributes.predict(image.pixels[None])
            confidence, activations = scores[0], maps[0]
        explained = ExplainedQuery(bank.design, base, perturbed, background_of(image.pixels), confidence, activations)
        return cls(image.frame, explained, bank.design.n + 1)

    def rows(self, matched: list[Matched], explainer: Explainer, models: Models) -> Iterator[tables.Row]:
        """The explanations' rows for ``matched`` pairs of this query."""
        explanations = explain(
            self.explained,
            np.stack([reference.embedding for _, reference in matched]),
            function=models.bundle.similarity_function,
            phi=models.bundle.phi,
            top=explainer.top,
            map_size=explainer.map_size,
        )
        for (pair, reference), explanation in zip(matched, explanations, strict=True):
            yield tables.explanation_row(
                pair,
                reference,
                explanation,
                bundle=models.bundle,
                method=explainer.method,
                fill=explainer.fill,
                frame=self.frame,
                passes=self.passes,
                provider=models.similarity.provider,
            )
