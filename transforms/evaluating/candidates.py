"""The maps of an image that are compared with each other: the run's own, and controls beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transforms.core.records import Float64
from transforms.core.saliency.controls import UNRELATED
from transforms.core.target import ExplanationTarget
from transforms.evaluating.measured_image import MapSource, MeasuredImage
from transforms.evaluating.outcomes import Outcome, each, map_key


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map [H, W] to be measured, and the pairs that it is of."""

    map_source: MapSource
    map: Outcome
    of: tuple[ExplanationTarget, ...]


def candidates(image: MeasuredImage) -> tuple[Candidate, ...]:
    """All of them, at the frame's size."""
    return (*_own(image), *_controls(image), *(_unrelated(image) if image.settings.with_unrelated else ()))


def _own(image: MeasuredImage) -> Iterator[Candidate]:
    for one in image.explained:
        found = each(image.map_of(one), image.enlarged)
        yield Candidate(MapSource(one.method, one.explainer_id), found, (one.target,))


def _controls(image: MeasuredImage) -> Iterator[Candidate]:
    """A control's map is one for all pairs of the image."""

    def alike(saliency: Float64) -> Float64:
        # through the same cells as the explanations' maps, so that none is sharper than another
        return image.enlarged(image.comparable(saliency))

    for control in image.settings.controls:
        name = control.method.name
        made = image.control_maps[map_key(image.targets[0], name)]
        yield Candidate(MapSource(name, control.id, control=True), each(made, alike), image.targets)


def _unrelated(image: MeasuredImage) -> Iterator[Candidate]:
    for explainer in image.settings.explaining.explainers:
        method = explainer.method.name
        targets = [one.target for one in image.explained if one.method == method]
        # a query's pairs of one condition and side have one stranger, and so one set of passes
        alike = {(target.pair.query_id, target.pair.condition, target.side): target for target in targets}
        for key, first in alike.items():
            of = tuple(one for one in targets if (one.pair.query_id, one.pair.condition, one.side) == key)
            made = each(image.unrelated_map(first, method), image.enlarged)
            yield Candidate(MapSource(f"{UNRELATED}_{method}", explainer.id, control=True), made, of)
