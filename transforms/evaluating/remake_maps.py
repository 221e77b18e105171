"""Maps made again, as an audit makes them: by a run's explainers or by controls, also of what has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transforms.core.errors import PairError
from transforms.core.records import EmbeddedImage, LoadFailure
from transforms.core.saliency.explainer import ReferenceMasks
from transforms.core.target import ExplanationTarget
from transforms.evaluating.outcomes import Key, Outcome, attempt, map_key
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.serving.embed import embed
from transforms.serving.load_image import Load, LoadedImage
from transforms.serving.models import Models

Counterparts = Mapping[str, EmbeddedImage | LoadFailure]
"""The other images of pairs by address, as one network embeds them."""


@dataclass(eq=False)
class PassCounter:
    """Forward passes so far."""

    count: int = 0


@dataclass(frozen=True, eq=False)
class MapRemaker:
    """Explainers with the network that they ask; ``passes`` counts what they cost."""

    explaining: ExplanationSettings
    models: Models
    load: Load
    passes: PassCounter

    @property
    def reference_masks(self) -> ReferenceMasks | None:
        """The masks of the pairs' other images, where an explainer looks at those too."""
        return next((one.references for one in self.explaining.explainers if one.references), None)

    def counterparts(self, targets: Sequence[ExplanationTarget]) -> Counterparts:
        """The other images of ``targets``, embedded; masked as well where an explainer wants it."""
        masked = self.reference_masks
        addresses = list(dict.fromkeys(target.counterpart for target in targets))
        self.passes.count += len(addresses) * (1 + (masked.masks if masked else 0))
        return dict(embed(addresses, self.load, self.models, masked, addresses if masked else ()))

    def maps(
        self, image: LoadedImage, targets: Sequence[ExplanationTarget], counterparts: Counterparts
    ) -> Iterator[tuple[Key, Outcome]]:
        """The map float64 [H, W] of every one of ``targets``, whose image is ``image``, by every explainer."""
        matched: list[Matched] = []
        for target in targets:
            other = counterparts[target.counterpart]
            if isinstance(other, LoadFailure):
                yield from self._failed(target, other)
            else:
                matched.append((target, other))
        if not matched:
            return
        prepared = attempt(lambda: PreparedImage.of(image, self.explaining, self.models, self.load, matched))
        if isinstance(prepared, LoadFailure):
            for target, _ in matched:
                yield from self._failed(target, prepared)
            return
        for found in prepared.maps(matched):
            for at, (target, _) in enumerate(found.matched):
                made = LoadFailure.of(found.maps) if isinstance(found.maps, PairError) else found.maps.saliency[at]
                yield map_key(target, found.explainer.method.name), made
        self.passes.count += prepared.passes

    def _failed(self, target: ExplanationTarget, failure: LoadFailure) -> Iterator[tuple[Key, Outcome]]:
        for one in self.explaining.explainers:
            yield map_key(target, one.method.name), failure
