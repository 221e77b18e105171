"""An image whose explanations are measured: its pairs, its maps, and maps made again when something has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from transforms import tables
from transforms.core.errors import NoMap
from transforms.core.imaging.images import restore
from transforms.core.imaging.maps import area_average
from transforms.core.records import EmbeddedImage, Float32, Float64, Frame, LoadFailure
from transforms.core.saliency.explainer import Explainer
from transforms.core.similarity import conditioned, similarities
from transforms.core.target import ExplanationTarget
from transforms.evaluating.outcomes import Key, Outcome, key_of
from transforms.evaluating.remake_maps import MapRemaker, PassCounter
from transforms.evaluating.settings import EvaluationSettings
from transforms.inputs.region_files import RegionReader
from transforms.serving.load_image import ImageLoader, Load, LoadedImage
from transforms.serving.models import Models
from transforms.tables.explained import Explained


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


@dataclass(frozen=True, slots=True)
class MapSource:
    """Who made a map: an explainer of the run, or a control, by the name that its rows have."""

    method: str
    explainer_id: str
    control: bool = False


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
        """Similarities [N] of ``embeddings`` [N, D] to the target's counterpart, under the pair's condition."""
        return similarities_of(target, embeddings, self.others[target.counterpart], self.models)

    @cached_property
    def full_maps(self) -> Mapping[Key, Outcome]:
        """The run's explainers' maps, made again at the frame's size."""
        return dict(self.remade(self.settings.explaining.explainers))

    @cached_property
    def control_maps(self) -> Mapping[Key, Outcome]:
        """The controls' maps, which depend on no network."""
        return dict(self.remade(self.settings.controls))

    def map_of(self, explained: Explained) -> Outcome:
        """The map of an explanation: [h, w] as it is stored, or [H, W] made again."""
        if self.settings.full:
            return self.full_maps[key_of(explained)]
        if explained.map is None:
            return LoadFailure.of(NoMap("the table has no map of finite numbers for this pair. Audit it again."))
        if explained.map.shape != (size := self.settings.explaining.map_size):
            found = f"the table's map is {explained.map.shape}, the run's are {size}. Audit it again."
            return LoadFailure.of(NoMap(found))
        return explained.map.astype(np.float64)

    def remade(
        self,
        explainers: Sequence[Explainer],
        models: Models | None = None,
        *,
        targets: Sequence[ExplanationTarget] | None = None,
        image: LoadedImage | None = None,
    ) -> Iterator[tuple[Key, Outcome]]:
        """Maps [H, W] that ``explainers`` make of the image and its pairs, or of what stands for one of these."""
        if not explainers:
            return
        explaining = replace(self.settings.explaining, explainers=tuple(explainers))
        remaker = MapRemaker(explaining, models or self.models, self.load, self.passes)
        known = models is None and targets is None and remaker.reference_masks is None
        targets = self.targets if targets is None else targets
        counterparts = self.others if known else remaker.counterparts(targets)
        yield from remaker.maps(image or self.image, targets, counterparts)

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
        """The row of one measure of a map of ``map_source``; ``more`` are nullable columns."""
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
