"""What is explained of an image, and with what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transforms.core.errors import PairError
from transforms.core.records import EmbeddedImage, Failure, LoadFailure, Side
from transforms.core.saliency.explainer import Explainer
from transforms.core.target import ExplanationTarget

Matched = tuple[ExplanationTarget, EmbeddedImage]
"""A target with the other image of its pair."""


@dataclass(frozen=True)
class ExplanationSettings:
    """What to explain and with what: the explainers, which of a pair's images, how many attributes to keep, and the
    size of the stored map."""

    explainers: tuple[Explainer, ...]
    sides: tuple[Side, ...] = ("query",)
    top: int = 5
    map_size: tuple[int, int] = (28, 28)

    def failure(self, target: ExplanationTarget, error: PairError | LoadFailure, method: str | None = None) -> Failure:
        """The failure of ``target``, of all methods where none is named."""
        side = target.side if len(self.sides) > 1 else None
        return replace(Failure.of(target.pair, error), side=side, method=method if len(self.explainers) > 1 else None)

    def stands_for(self, failure: Failure) -> int:
        """How many explanations a failure says are missing."""
        methods = len(self.explainers) if failure.method is None else 1
        return methods * (len(self.sides) if failure.side is None else 1)
