"""How an image's maps agree with those that the explainer makes when something else has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from transforms import tables
from transforms.core.errors import NoMap
from transforms.core.metrics.curves import map_agreement
from transforms.core.metrics.metric import AgreementMetric
from transforms.core.metrics.registry import of_kind
from transforms.core.records import Image, LoadFailure, content_id
from transforms.core.saliency.explainer import Explainer
from transforms.core.target import ExplanationTarget
from transforms.evaluating.measured_image import MapSource, MeasuredImage
from transforms.evaluating.outcomes import Key, Outcome, each, key_of, map_key
from transforms.serving.load_image import LoadedImage
from transforms.serving.models import Models

_NOTHING = 1e-6
"""A map whose values differ by no more than this part of the other's is one of rounding errors."""


def agreement_rows(image: MeasuredImage) -> Iterator[tables.Row]:
    """Rows of the agreement of every explanation with what the explainer makes when something else has changed."""
    for metric in of_kind(AgreementMetric, image.settings.measures):
        yield from ROWS[metric.name](image, metric.name)


def _sanity(image: MeasuredImage, metric: str) -> Iterator[tables.Row]:
    """With the maps of networks whose blocks are random, from the head down; those of controls as well."""
    settings = image.settings
    for stage, models in zip(settings.stages, image.networks.stages, strict=True):
        varied = _remade(image, (*settings.explaining.explainers, *settings.controls), models)
        more = {**stage.columns, "model_id": models.bundle.model_id}
        yield from _agreements(image, metric, varied, **more)
        yield from _control_agreements(image, metric, varied, **more)


def _seeds(image: MeasuredImage, metric: str) -> Iterator[tables.Row]:
    yield from _agreements(image, metric, _remade(image, image.settings.seeds))


def _noise(image: MeasuredImage, metric: str) -> Iterator[tables.Row]:
    noisy = replace(image.image, pixels=_noisy(image))
    yield from _agreements(image, metric, _remade(image, image.settings.explaining.explainers, noisy=noisy))


def _shuffled(image: MeasuredImage, metric: str) -> Iterator[tables.Row]:
    """With the maps of the same image against an image of another query's pair, in the role of its own.

    It is one for all pairs of a query, but for those that have it themselves.
    """
    explainers = image.settings.explaining.explainers
    targets: list[ExplanationTarget] = []
    varied: dict[Key, Outcome] = {}
    for target in image.targets:
        unrelated_pair = image.settings.unrelated_pair(target, but=(target.counterpart,))
        if unrelated_pair is None:
            failure = LoadFailure.of(NoMap("no other query of the run that compares alike has another image"))
            varied |= {map_key(target, one.method.name): failure for one in explainers}
        elif target.side == "query":
            targets.append(
                ExplanationTarget(replace(target.pair, reference=unrelated_pair.image("reference")), target.side)
            )
        else:
            targets.append(ExplanationTarget(replace(target.pair, query=unrelated_pair.image("query")), target.side))
    yield from _agreements(image, metric, varied | _remade(image, explainers, targets=targets))


def _unrelated(image: MeasuredImage, metric: str) -> Iterator[tables.Row]:
    varied = {key_of(one): image.unrelated_map(one.target, one.method) for one in image.explained}
    yield from _agreements(image, metric, varied)


ROWS: Mapping[str, Callable[[MeasuredImage, str], Iterator[tables.Row]]] = {
    "sanity": _sanity,
    "shuffled": _shuffled,
    "stranger": _unrelated,
    "seeds": _seeds,
    "noise": _noise,
}
"""How each metric of agreement is measured, by its name."""


def _remade(
    image: MeasuredImage,
    explainers: Sequence[Explainer],
    models: Models | None = None,
    *,
    targets: Sequence[ExplanationTarget] | None = None,
    noisy: LoadedImage | None = None,
) -> dict[Key, Outcome]:
    """:meth:`MeasuredImage.remade`, of every map what is compared: at the size of the maps that are measured."""
    made = image.remade(explainers, models, targets=targets, image=noisy)
    return {key: each(outcome, image.comparable) for key, outcome in made}


def _agreements(
    image: MeasuredImage, metric: str, varied: Mapping[Key, Outcome], **more: object
) -> Iterator[tables.Row]:
    for one in image.explained:
        if key_of(one) not in varied:
            continue  # an explainer that draws nothing has no other seed
        value = _agreement(image.map_of(one), varied[key_of(one)])
        yield image.row(one.target, metric, MapSource(one.method, one.explainer_id), value, **more)


def _control_agreements(
    image: MeasuredImage, metric: str, varied: Mapping[Key, Outcome], **more: object
) -> Iterator[tables.Row]:
    for control in image.settings.controls:
        for target in image.targets:
            key = map_key(target, control.method.name)
            value = _agreement(each(image.control_maps[key], image.comparable), varied[key])
            yield image.row(target, metric, MapSource(control.method.name, control.id, control=True), value, **more)


def _noisy(image: MeasuredImage) -> Image:
    rng = np.random.default_rng(int(content_id(str(image.settings.seed), image.image.sha256, letter="")[:12], 16))
    noise = rng.normal(0, image.settings.noise, image.image.pixels.shape)
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
