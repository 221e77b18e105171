"""How an image's maps agree with those that the explainer makes when something else has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from transforms import tables
from transforms.core.errors import NoMap
from transforms.core.metrics.curves import map_agreement
from transforms.core.records import Image, LoadFailure, content_id
from transforms.core.task import ExplanationTarget
from transforms.evaluating.measured_image import Key, MapSource, MeasuredImage, Outcome, each, key_of

_NOTHING = 1e-6
"""A map whose values differ by no more than this part of the other's is one of rounding errors."""


def agreement_rows(image: MeasuredImage) -> Iterator[tables.Row]:
    """Rows of the agreement of every explanation with what the explainer makes when something else has changed."""
    measuring = image.measuring
    if "sanity" in measuring.measures:
        for stage, models in zip(measuring.stages, image.networks.stages, strict=True):
            explainers = (*measuring.explaining.explainers, *measuring.controls)
            varied = image.made(explainers, models, image.comparable)
            more = {**stage.columns, "model_id": models.bundle.model_id}
            yield from _agreements(image, "sanity", varied, **more)
            yield from _control_agreements(image, varied, **more)
    if "seeds" in measuring.measures:
        yield from _agreements(image, "seeds", image.made(measuring.seeds, image.models, image.comparable))
    if "noise" in measuring.measures:
        noisy = replace(image.image, pixels=_noisy(image))
        explainers = measuring.explaining.explainers
        yield from _agreements(image, "noise", image.made(explainers, image.models, image.comparable, image=noisy))
    if "shuffled" in measuring.measures:
        yield from _agreements(image, "shuffled", _shuffled(image))
    if "stranger" in measuring.measures:
        strangers: dict[Key, Outcome] = {
            key_of(one): image.stranger_map(one.task, one.method) for one in image.explained
        }
        yield from _agreements(image, "stranger", strangers)


def _agreements(
    image: MeasuredImage, metric: str, varied: Mapping[Key, Outcome], **more: object
) -> Iterator[tables.Row]:
    for one in image.explained:
        if key_of(one) not in varied:
            continue  # an explainer that draws nothing has no other seed
        value = _agreement(image.map_of(one), varied[key_of(one)])
        yield image.row(one.task, metric, MapSource(one.method, one.explainer_id), value, **more)


def _control_agreements(image: MeasuredImage, varied: Mapping[Key, Outcome], **more: object) -> Iterator[tables.Row]:
    for control in image.measuring.controls:
        for task in image.tasks:
            key: Key = (task.pair.pair_id, task.side, control.method.name)
            value = _agreement(each(image.control_maps[key], image.comparable), varied[key])
            yield image.row(task, "sanity", MapSource(control.method.name, control.id, control=True), value, **more)


def _shuffled(image: MeasuredImage) -> dict[Key, Outcome]:
    """The maps of the same image against an image of another query's pair, in the role of its own.

    It is one for all pairs of a query, but for those that have it themselves.
    """
    explainers = image.measuring.explaining.explainers
    tasks: list[ExplanationTarget] = []
    missing: dict[Key, Outcome] = {}
    for task in image.tasks:
        stranger = image.measuring.stranger(task, but=(task.other,))
        if stranger is None:
            failure = LoadFailure.of(NoMap("no other query of the run that compares alike has another image"))
            missing |= {(task.pair.pair_id, task.side, one.method.name): failure for one in explainers}
        elif task.side == "query":
            tasks.append(ExplanationTarget(replace(task.pair, reference=stranger.image("reference")), task.side))
        else:
            tasks.append(ExplanationTarget(replace(task.pair, query=stranger.image("query")), task.side))
    return missing | image.made(explainers, image.models, image.comparable, tasks=tasks)


def _noisy(image: MeasuredImage) -> Image:
    rng = np.random.default_rng(int(content_id(str(image.measuring.seed), image.image.sha256, letter="")[:12], 16))
    noise = rng.normal(0, image.measuring.noise, image.image.pixels.shape)
    noisy: Image = np.clip(np.rint(image.image.pixels + noise), 0, 255).astype(np.uint8)
    return noisy


def _agreement(one: Outcome, other: Outcome) -> float | LoadFailure:
    """Spearman's correlation of a map and what became of it, or why there is none.

    A map that is the same everywhere agrees with nothing, and so do the last digits of one: as the explanation it would
    pass every check of sanity, and as a random network's map it would let others pass.
    """
    if isinstance(one, LoadFailure):
        return one
    if isinstance(other, LoadFailure):
        return other
    if one.min() == one.max():
        return LoadFailure.of(NoMap("the explanation's map is the same everywhere: it does not say where"))
    if np.ptp(other) <= _NOTHING * np.ptp(one):
        return LoadFailure.of(NoMap("the map that it is compared with is the same everywhere: it says nothing"))
    return map_agreement(one, other).spearman
