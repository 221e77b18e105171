"""An image explained against its references: one set of forward passes serves them all.

It serves them under whatever conditions of the similarity they are compared: a condition multiplies embeddings, which
are the network's. References are estimated condition by condition, so that no more than one condition's embeddings are
held beside the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transforms import tables
from transforms.core.errors import NonFiniteMap, PairError
from transforms.core.explanation import explain
from transforms.core.fill import make_fill
from transforms.core.saliency.contract import Gradient, Maps, References, Saliency
from transforms.core.saliency.explainer import Explainer, Side
from transforms.core.similarity import conditioned, kept_under, similarities
from transforms.core.types import EmbeddedImage, Failure, Float32, Float64, LoadFailure, Pair
from transforms.load_image import Load, LoadedImage
from transforms.models import Models
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


Matched = tuple[Task, EmbeddedImage]
"""A task with the other image of its pair."""


@dataclass(frozen=True, eq=False)
class ExplainedTasks:
    """What ``explainer`` says of the R tasks of ``matched``, all of one condition, or why it says nothing.

    ``similarities`` is float64 [R].
    """

    explainer: Explainer
    matched: Sequence[Matched]
    similarities: Float64
    maps: Maps | PairError


@dataclass(frozen=True)
class PreparedImage:
    """An image after the passes that serve all of its references.

    ``saliencies`` has one for every explainer, or why there is none. They are of the network's own embeddings; those of
    a condition are made from the same passes, when its references are there.
    """

    shared: Shared
    explaining: Explaining
    load: Load
    saliencies: tuple[Saliency | PairError, ...]

    @classmethod
    def of(
        cls,
        image: LoadedImage,
        explaining: Explaining,
        models: Models,
        load: Load,
        matched: Sequence[Matched] = (),
    ) -> PreparedImage:
        """Runs the passes; raises PairError where not even the whole image can be embedded.

        ``matched`` are all references, for explainers that stop when their maps for all of them have converged.
        """
        shared = Shared(image, models)
        _ = shared.base
        made = cls(shared, explaining, load, ())
        return replace(made, saliencies=tuple(made._prepare(explainer, matched) for explainer in explaining.explainers))

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self.shared.passes

    def rows(self, matched: Sequence[Matched]) -> Iterator[tables.Row | Failure]:
        """A row of the table explanations, or a failure, for every one of ``matched`` and every explainer."""
        for explained in self.maps(matched):
            if isinstance(explained.maps, PairError):
                for task, _ in explained.matched:
                    yield self.explaining.failure(task, explained.maps, explained.explainer.method.name)
            else:
                yield from self._rows_of(explained, explained.maps)

    def maps(self, matched: Sequence[Matched]) -> Iterator[ExplainedTasks]:
        """The maps of every one of ``matched`` and every explainer, or why there are none."""
        function = self.shared.models.bundle.similarity_function
        for condition in dict.fromkeys(task.pair.condition for task, _ in matched):
            some = [one for one in matched if one[0].pair.condition == condition]
            base = conditioned(self.shared.base, self.shared.mask(condition), function)
            found = similarities(self._embeddings(some, condition), base, function)[:, 0]
            for explainer, saliency in self._saliencies(condition):
                yield from self._maps_of(explainer, saliency, some, found)

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

    def _maps_of(
        self, explainer: Explainer, saliency: Saliency | PairError, matched: Sequence[Matched], found: Float64
    ) -> Iterator[ExplainedTasks]:
        if isinstance(saliency, PairError):
            yield ExplainedTasks(explainer, matched, found, saliency)
            return
        try:
            maps = saliency.maps(self._references(explainer, matched))
            if not np.isfinite(maps.saliency).all():
                raise NonFiniteMap(f"the map of {explainer.method.name} holds NaN or infinity")
        except PairError as error:
            if len(matched) == 1:
                yield ExplainedTasks(explainer, matched, found, error)
                return
            # one reference must not take the others with it
            for at, one in enumerate(matched):
                yield from self._maps_of(explainer, saliency, [one], found[at : at + 1])
            return
        yield ExplainedTasks(explainer, matched, found, maps)

    def _rows_of(self, explained: ExplainedTasks, maps: Maps) -> Iterator[tables.Row]:
        models = self.shared.models
        explanations = explain(
            self.shared.explained,
            explained.similarities,
            maps,
            ranking=models.bundle.ranking,
            top=self.explaining.top,
            map_size=self.explaining.map_size,
        )
        for (task, other), explanation in zip(explained.matched, explanations, strict=True):
            yield tables.explanation_row(
                task.pair,
                explanation,
                explained.explainer,
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
