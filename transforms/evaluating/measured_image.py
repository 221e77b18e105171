"""An image whose explanations are measured: its pairs, its maps, and maps made again when something has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from transforms import tables
from transforms.core.errors import NoMap, PairError
from transforms.core.imaging.images import restore
from transforms.core.imaging.maps import area_average
from transforms.core.records import EmbeddedImage, Float32, Float64, Frame, LoadFailure, Side
from transforms.core.saliency.explainer import Explainer
from transforms.core.similarity import conditioned, similarities
from transforms.core.target import ExplanationTarget
from transforms.evaluating.settings import UNRELATED, EvaluationSettings
from transforms.explaining.prepared_image import PreparedImage
from transforms.inputs.region_files import RegionReader
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader, Load, LoadedImage
from transforms.serving.models import Models
from transforms.tables.explained import Explained

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
class ImageReaders:
    """How a worker reads photographs, and label images where regions are asked for."""

    load: ImageLoader
    regions: RegionReader | None = None


@dataclass(eq=False)
class PassCounter:
    """Forward passes so far."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class MapSource:
    """Who made a map: an explainer of the run, or a control, by the name that its rows have."""

    method: str
    explainer_id: str
    control: bool = False


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map [H, W] to be measured, and the pairs that it is of."""

    map_source: MapSource
    map: Outcome
    of: tuple[ExplanationTarget, ...]


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """The image that was explained, and its explanations, whose images are those that were audited.

    ``others`` are the pairs' other images by address. ``load`` remembers what it decoded.
    """

    image: LoadedImage
    explained: tuple[Explained, ...]
    others: Mapping[str, EmbeddedImage]
    networks: Networks
    settings: EvaluationSettings
    load: Load
    regions: RegionReader | None
    passes: PassCounter

    @property
    def models(self) -> Models:
        return self.networks.models

    @cached_property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""
        return self.models.similarity.size

    @cached_property
    def targets(self) -> tuple[ExplanationTarget, ...]:
        """Each explained side of each pair once, whatever the number of methods."""
        found = {(one.target.pair.pair_id, one.target.side): one.target for one in self.explained}
        return tuple(found.values())

    def scores(self, target: ExplanationTarget, embeddings: Float32) -> Float64:
        """Similarities [N] of ``embeddings`` [N, D] to the task's other image, under the pair's condition."""
        return similarities_of(target, embeddings, self.others[target.counterpart], self.models)

    @cached_property
    def full_maps(self) -> Mapping[Key, Outcome]:
        """The run's explainers' maps, made again at the frame's size."""
        return self.made(self.settings.explaining.explainers, self.models, lambda saliency: saliency)

    @cached_property
    def control_maps(self) -> Mapping[Key, Outcome]:
        """The controls' maps, which depend on no network."""
        return self.made(self.settings.controls, self.models, lambda saliency: saliency)

    def map_of(self, explained: Explained) -> Outcome:
        """The map of an explanation: [h, w] as it is stored, or [H, W] made again."""
        if self.settings.full:
            return self.full_maps[explained.target.pair.pair_id, explained.target.side, explained.method]
        if explained.map is None:
            return LoadFailure.of(NoMap("the table has no map of finite numbers for this pair. Audit it again."))
        if explained.map.shape != (size := self.settings.explaining.map_size):
            found = f"the table's map is {explained.map.shape}, the run's are {size}. Audit it again."
            return LoadFailure.of(NoMap(found))
        return explained.map.astype(np.float64)

    def made(
        self,
        explainers: Sequence[Explainer],
        models: Models,
        keep: Callable[[Float64], Float64],
        targets: Sequence[ExplanationTarget] | None = None,
        image: LoadedImage | None = None,
    ) -> dict[Key, Outcome]:
        """What ``explainers`` make of ``tasks`` with ``models``; of every map what ``keep`` leaves is kept."""
        targets = self.targets if targets is None else targets
        explaining = replace(self.settings.explaining, explainers=tuple(explainers))
        made: dict[Key, Outcome] = {}
        if not explainers:
            return made
        masked = next((one.references for one in explainers if one.references), None)
        addresses = list(dict.fromkeys(target.counterpart for target in targets))
        others: Mapping[str, EmbeddedImage | LoadFailure] = self.others
        if models is not self.models or targets is not self.targets or masked:
            others = dict(embed(addresses, self.load, models, masked, addresses if masked else ()))
            self.passes.count += len(addresses) * (1 + (masked.masks if masked else 0))
        matched = []
        for target in targets:
            other = others[target.counterpart]
            if isinstance(other, LoadFailure):
                made |= {(target.pair.pair_id, target.side, one.method.name): other for one in explainers}
            else:
                matched.append((target, other))
        if not matched:
            return made
        prepared = attempt(lambda: PreparedImage.of(image or self.image, explaining, models, self.load, matched))
        if isinstance(prepared, LoadFailure):
            return made | {
                (target.pair.pair_id, target.side, one.method.name): prepared
                for target, _ in matched
                for one in explainers
            }
        for found in prepared.maps(matched):
            for at, (target, _) in enumerate(found.matched):
                key = (target.pair.pair_id, target.side, found.explainer.method.name)
                made[key] = (
                    LoadFailure.of(found.maps) if isinstance(found.maps, PairError) else keep(found.maps.saliency[at])
                )
        self.passes.count += prepared.passes
        return made

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The maps that are compared with each other, [H, W]; a control's is one for all pairs of the image."""
        found = [
            Candidate(MapSource(one.method, one.explainer_id), each(self.map_of(one), self.enlarged), (one.target,))
            for one in self.explained
        ]
        first = self.targets[0]
        for control in self.settings.controls:
            name = control.method.name
            made = self.control_maps[first.pair.pair_id, first.side, name]
            # through the same cells as the explanations' maps, so that none is sharper than another
            alike = each(made, lambda saliency: self.enlarged(self.comparable(saliency)))
            found.append(Candidate(MapSource(name, control.id, control=True), alike, self.targets))
        if self.settings.with_unrelated:
            found += list(self._unrelated_candidates())
        return tuple(found)

    def _unrelated_candidates(self) -> Iterator[Candidate]:
        for explainer in self.settings.explaining.explainers:
            method = explainer.method.name
            targets = [one.target for one in self.explained if one.method == method]
            # a query's pairs of one condition and side have one stranger, and so one set of passes
            alike = {(target.pair.query_id, target.pair.condition, target.side): target for target in targets}
            for key, first in alike.items():
                of = tuple(one for one in targets if (one.pair.query_id, one.pair.condition, one.side) == key)
                made = each(self.unrelated_map(first, method), self.enlarged)
                yield Candidate(MapSource(f"{UNRELATED}_{method}", explainer.id, control=True), made, of)

    def unrelated_map(self, target: ExplanationTarget, method: str) -> Outcome:
        """Another query's stored map of ``method``, [h, w]."""
        unrelated_pair = self.settings.unrelated_pair(target)
        if unrelated_pair is None or method not in unrelated_pair.maps:
            return LoadFailure.of(NoMap(f"no other query of the run that compares alike has a map of {method}"))
        return unrelated_pair.maps[method].astype(np.float64)

    def enlarged(self, saliency: Float64) -> Float64:
        """``saliency`` at the frame's size: linear between the centres of its cells."""
        if saliency.shape == self.size:
            return saliency
        frame = Frame(self.size, self.size, (0.0, 0.0, float(self.size[0]), float(self.size[1])))
        return restore(saliency, frame).astype(np.float64)

    def comparable(self, saliency: Float64) -> Float64:
        """``saliency`` [H, W] at the size of the maps that are measured."""
        return saliency if self.settings.full else area_average(saliency, self.settings.explaining.map_size)

    def row(
        self, target: ExplanationTarget, metric: str, map_source: MapSource, value: float | LoadFailure, **more: object
    ) -> tables.Row:
        """The row of one measure of a map of ``maker``; ``more`` are nullable columns."""
        named = {"explainer_id": map_source.explainer_id, "model_id": self.models.bundle.model_id, **more}
        return tables.metric_row(
            self.settings.evaluation_id,
            metric,
            map_source.method,
            target.pair,
            value,
            side=target.side,
            control=map_source.control,
            map=self.settings.source,
            **named,
        )


def similarities_of(target: ExplanationTarget, embeddings: Float32, other: EmbeddedImage, models: Models) -> Float64:
    """Similarities [N] of ``embeddings`` [N, D] and ``other``, as the pair's condition compares them."""
    condition, function = target.pair.condition, models.bundle.similarity_function
    mask = None if condition is None else np.array(models.bundle.conditions[condition], np.float32)
    rows = conditioned(other.embedding[None], mask, function)
    scores: Float64 = similarities(rows, conditioned(embeddings, mask, function), function)[0]
    return scores


def key_of(explained: Explained) -> Key:
    return explained.target.pair.pair_id, explained.target.side, explained.method


def each(outcome: Outcome, change: Callable[[Float64], Float64]) -> Outcome:
    return outcome if isinstance(outcome, LoadFailure) else change(outcome)


def attempt(work: Callable[[], T]) -> T | LoadFailure:
    """What ``work`` returns, or the failure that it raises as PairError."""
    try:
        return work()
    except PairError as error:
        return LoadFailure.of(error)
