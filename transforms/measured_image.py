"""An image whose explanations are measured: its pairs, its maps, and maps made again when something has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from transforms import tables
from transforms.core.errors import ImageChanged, NoMap, PairError
from transforms.core.images import restore
from transforms.core.maps import area_average
from transforms.core.saliency.explainer import Explainer, Side
from transforms.core.similarity import conditioned, similarities
from transforms.core.types import EmbeddedImage, Float32, Float64, Frame, LoadFailure
from transforms.embed_images import embed
from transforms.explain_image import PreparedImage, Task
from transforms.load_image import ImageLoader, LoadedImage
from transforms.measuring import STRANGER, Measuring
from transforms.models import Models
from transforms.read_explanations import Explained
from transforms.regions import RegionReader
from transforms.subject import finite

_CHANGED = 1e-2
"""A similarity that differs by more than this part from the audited one is of other images: devices differ by less."""

Key = tuple[str, Side, str]
"""A pair's id, the side that is explained, and the method."""
Outcome = Float64 | LoadFailure
T = TypeVar("T")


@dataclass(frozen=True)
class Networks:
    """The bundle's networks, and those of each stage of the cascade."""

    models: Models
    stages: tuple[Models, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a worker reads photographs, and label images where regions are asked for."""

    load: ImageLoader
    regions: RegionReader | None = None


@dataclass(eq=False)
class Passes:
    """Forward passes so far."""

    count: int = 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map to be measured, and the explanations or pairs that it is of."""

    method: str
    control: bool
    explainer_id: str | None
    map: Outcome  # [H, W]
    source: str
    of: tuple[Task, ...]


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """The image that was explained, and what is known of its explanations."""

    image: LoadedImage
    explained: tuple[Explained, ...]
    networks: Networks
    measuring: Measuring
    reading: Reading
    passes: Passes

    @property
    def models(self) -> Models:
        return self.networks.models

    @cached_property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""
        return self.models.similarity.size

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Each explained side of each pair once, whatever the number of methods."""
        found = {(one.task.pair.pair_id, one.task.side): one.task for one in self.explained}
        return tuple(found.values())

    @cached_property
    def others(self) -> Mapping[str, EmbeddedImage | LoadFailure]:
        """The pairs' other images by address."""
        addresses = list(dict.fromkeys(task.other for task in self.tasks))
        self.passes.count += len(addresses)
        return dict(embed(addresses, self.reading.load, self.models))

    @cached_property
    def checked(self) -> Mapping[tuple[str, Side], EmbeddedImage | LoadFailure]:
        """The other image of each task, or why the task cannot be measured: as where an image is not the audited one.

        Without this an image that was replaced since would make a good map look bad.
        """
        self.passes.count += 1
        base = attempt(lambda: finite(self.models.similarity.embed(self.image.pixels[None])))
        audited = {(one.task.pair.pair_id, one.task.side): one.similarity for one in self.explained}
        found: dict[tuple[str, Side], EmbeddedImage | LoadFailure] = {}
        for task in self.tasks:
            key, other = (task.pair.pair_id, task.side), self.others[task.other]
            if isinstance(base, LoadFailure) or isinstance(other, LoadFailure):
                found[key] = base if isinstance(base, LoadFailure) else other
                continue
            now = float(self.scores(task, base, other)[0])
            found[key] = changed_since(audited[key], now) or other
        return found

    def scores(self, task: Task, embeddings: Float32, other: EmbeddedImage) -> Float64:
        """Similarities [N] of ``embeddings`` [N, D] to the other image, under the pair's condition."""
        function, mask = self.models.bundle.similarity_function, self._mask(task)
        rows = conditioned(other.embedding[None], mask, function)
        scores: Float64 = similarities(rows, conditioned(embeddings, mask, function), function)[0]
        return scores

    def _mask(self, task: Task) -> Float32 | None:
        condition = task.pair.condition
        return None if condition is None else np.array(self.models.bundle.conditions[condition], np.float32)

    @cached_property
    def full_maps(self) -> Mapping[Key, Outcome]:
        """The run's explainers' maps, made again at the frame's size."""
        return self.made(self.measuring.explaining.explainers, self.models, lambda saliency: saliency)

    @cached_property
    def control_maps(self) -> Mapping[Key, Outcome]:
        """The controls' maps, which ask no pass of a network."""
        return self.made(self.measuring.controls, self.models, lambda saliency: saliency)

    def map_of(self, explained: Explained) -> Outcome:
        """The map of an explanation: [h, w] as it is stored, or [H, W] made again."""
        if self.measuring.full:
            return self.full_maps[explained.task.pair.pair_id, explained.task.side, explained.method]
        if explained.map is None:
            return LoadFailure.of(NoMap("the table has no map of finite numbers for this pair. Audit it again."))
        return explained.map.astype(np.float64)

    def made(
        self,
        explainers: Sequence[Explainer],
        models: Models,
        keep: Callable[[Float64], Float64],
        tasks: Sequence[Task] | None = None,
        image: LoadedImage | None = None,
    ) -> dict[Key, Outcome]:
        """What ``explainers`` make of ``tasks`` with ``models``; of every map what ``keep`` leaves is kept."""
        tasks = self.tasks if tasks is None else tasks
        explaining = replace(self.measuring.explaining, explainers=tuple(explainers))
        made: dict[Key, Outcome] = {}
        if not explainers:
            return made
        masked = next((one.references for one in explainers if one.references), None)
        addresses = list(dict.fromkeys(task.other for task in tasks))
        if models is self.models and tasks is self.tasks and not masked:
            others = self.others
        else:
            others = dict(embed(addresses, self.reading.load, models, masked, addresses if masked else ()))
            self.passes.count += len(addresses) * (1 + (masked.masks if masked else 0))
        matched = []
        for task in tasks:
            other = others[task.other]
            if isinstance(other, LoadFailure):
                made |= {(task.pair.pair_id, task.side, one.method.name): other for one in explainers}
            else:
                matched.append((task, other))
        if not matched:
            return made
        prepared = attempt(
            lambda: PreparedImage.of(image or self.image, explaining, models, self.reading.load, matched)
        )
        if isinstance(prepared, LoadFailure):
            return made | {
                (task.pair.pair_id, task.side, one.method.name): prepared for task, _ in matched for one in explainers
            }
        for found in prepared.maps(matched):
            for at, (task, _) in enumerate(found.matched):
                key = (task.pair.pair_id, task.side, found.explainer.method.name)
                made[key] = (
                    LoadFailure.of(found.maps) if isinstance(found.maps, PairError) else keep(found.maps.saliency[at])
                )
        self.passes.count += prepared.passes
        return made

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The maps that are compared with each other, [H, W]; a control's is one for all pairs of the image."""
        found = [
            Candidate(
                one.method,
                False,
                one.explainer_id,
                each(self.map_of(one), self.enlarged),
                self.measuring.source,
                (one.task,),
            )
            for one in self.explained
        ]
        for control in self.measuring.controls:
            name = control.method.name
            maps = [self.control_maps[task.pair.pair_id, task.side, name] for task in self.tasks]
            # one that fails has a reference that cannot be read
            made = next((one for one in maps if not isinstance(one, LoadFailure)), maps[0])
            # through the same cells as the explanations' maps, so that none is sharper than another
            alike = each(made, lambda saliency: self.enlarged(self.comparable(saliency)))
            found.append(Candidate(name, True, control.id, alike, self.measuring.source, self.tasks))
        if self.measuring.with_strangers:
            found += list(self._strangers())
        return tuple(found)

    def _strangers(self) -> Iterator[Candidate]:
        several = len(self.measuring.explaining.explainers) > 1
        for explainer in self.measuring.explaining.explainers:
            method = explainer.method.name
            of: dict[str, list[Task]] = {}
            for one in self.explained:
                if one.method == method:
                    of.setdefault(one.task.pair.query_id, []).append(one.task)
            for query_id, tasks in of.items():
                made = self.stranger_map(query_id, method)
                yield Candidate(
                    f"{STRANGER}_{method}" if several else STRANGER,
                    True,
                    explainer.id,
                    each(made, self.enlarged),
                    self.measuring.source,
                    tuple(tasks),
                )

    def stranger_map(self, query_id: str, method: str) -> Outcome:
        """Another query's stored map of ``method``, [h, w]."""
        stranger = self.measuring.stranger(query_id)
        if stranger is None or method not in stranger.maps:
            return LoadFailure.of(NoMap(f"no other query of the run has a map of {method}"))
        return stranger.maps[method].astype(np.float64)

    def enlarged(self, saliency: Float64) -> Float64:
        """``saliency`` at the frame's size: linear between the centres of its cells."""
        if saliency.shape == self.size:
            return saliency
        frame = Frame(self.size, self.size, (0.0, 0.0, float(self.size[0]), float(self.size[1])))
        return restore(saliency, frame).astype(np.float64)

    def other(self, task: Task) -> EmbeddedImage | LoadFailure:
        return self.checked[task.pair.pair_id, task.side]

    def comparable(self, saliency: Float64) -> Float64:
        """``saliency`` [H, W] at the size of the maps that are measured."""
        return saliency if self.measuring.full else area_average(saliency, self.measuring.explaining.map_size)

    def as_measured(self, saliency: Float64) -> Float64:
        """A stored map at the size of the maps that are measured."""
        return self.enlarged(saliency) if self.measuring.full else saliency

    def row(
        self, task: Task, metric: str, candidate: Candidate, value: float | LoadFailure, **more: object
    ) -> tables.Row:
        named = {"explainer_id": candidate.explainer_id, "model_id": self.models.bundle.model_id, **more}
        return tables.metric_row(
            self.measuring.evaluation_id,
            metric,
            candidate.method,
            task.pair,
            value,
            side=task.side,
            control=candidate.control,
            **named,
        )


def changed_since(then: float | None, now: float) -> LoadFailure | None:
    """Why a pair whose similarity was ``then`` in the audit and is ``now`` another cannot be measured, else None."""
    # the other way round a NaN would pass
    if then is not None and abs(now - then) <= _CHANGED * max(1.0, abs(then)):
        return None
    error = ImageChanged(
        f"the similarity is {now:.4f} and was {'none' if then is None else f'{then:.4f}'} in the audit: one of the "
        "images has changed since. Audit again, or give the images that were audited."
    )
    return LoadFailure.of(error)


def key_of(explained: Explained) -> Key:
    return explained.task.pair.pair_id, explained.task.side, explained.method


def each(outcome: Outcome, change: Callable[[Float64], Float64]) -> Outcome:
    return outcome if isinstance(outcome, LoadFailure) else change(outcome)


def attempt(work: Callable[[], T]) -> T | LoadFailure:
    """What ``work`` returns, or the failure that it raises as PairError."""
    try:
        return work()
    except PairError as error:
        return LoadFailure.of(error)
