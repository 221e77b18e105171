"""What an evaluation measures, and how: what its workers are told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transforms.core.records import Float32, Side, content_id
from transforms.core.saliency.explainer import Explainer
from transforms.core.target import ExplanationTarget
from transforms.explaining.settings import ExplanationSettings


@dataclass(frozen=True)
class CascadeStage:
    """A randomised copy of the bundle: the network's blocks from the top down to ``block`` are random, a share
    ``depth`` of them; ``judged`` is False where that is a linear head alone."""

    bundle: str
    block: str
    depth: float
    judged: bool

    @property
    def columns(self) -> dict[str, Any]:
        """What tells its rows of the table metrics apart."""
        return {"block": self.block, "depth": self.depth, "judged": self.judged}


@dataclass(frozen=True)
class UnrelatedPair:
    """A pair of another query: the addresses of its images, its condition, and its stored maps by method."""

    query_id: str
    explained: str
    counterpart: str
    side: Side
    maps: Mapping[str, Float32] = field(repr=False)
    condition: str | None = None

    def image(self, side: Side) -> str:
        """The address of its query or its reference."""
        return self.explained if side == self.side else self.counterpart


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and how.

    Attributes:
      evaluation_id: goes into every row.
      measures: what ``--metrics`` asks for (:func:`transforms.core.metrics.registry.requests`).
      explaining: the run's explainers, those that are measured.
      controls: maps that explain nothing, as explainers; ``unrelated`` is one more where ``with_unrelated`` says so.
      fills: what hides pixels for insertion and deletion.
      full: whether maps are made again at the frame's size; else those of the table are measured.
      seeds: the run's explainers with another seed, those that have one.
      noise: standard deviation of the noise, in pixel units, 0 to 255.
      stages: the cascade of randomised bundles, from the top.
      strangers: pairs of other queries, among which a query's is chosen by its id.
      labels, tolerance: the region that maps should find, and how far from it a peak may be, in the frame's pixels.
      seed: of the noise.
    """

    evaluation_id: str
    measures: frozenset[str]
    explaining: ExplanationSettings
    controls: tuple[Explainer, ...] = ()
    with_unrelated: bool = False
    fills: tuple[str, ...] = ("#ffffff",)
    full: bool = False
    seeds: tuple[Explainer, ...] = ()
    noise: float = 5.0
    stages: tuple[CascadeStage, ...] = ()
    unrelated: tuple[UnrelatedPair, ...] = ()
    labels: frozenset[int] = frozenset()
    tolerance: float = 0.0
    seed: int = 0

    def asks(self, *measures: str) -> bool:
        """Whether one of ``measures`` is wanted."""
        return not self.measures.isdisjoint(measures)

    @property
    def source(self) -> Literal["stored", "full"]:
        """Which maps are measured."""
        return "full" if self.full else "stored"

    def unrelated_pair(self, target: ExplanationTarget, but: Collection[str] = ()) -> UnrelatedPair | None:
        """A pair of another query, with maps of all methods, of ``target``'s condition and of another image than it
        explains.

        It is chosen by the query's id, among those none of whose images is at one of the addresses ``but``; None where
        there is none.
        """
        methods = {explainer.method.name for explainer in self.explaining.explainers}
        others = [
            one
            for one in self.unrelated
            if one.query_id != target.pair.query_id
            and one.maps.keys() >= methods
            and one.condition == target.pair.condition
            and one.explained != target.explained
            and not {one.explained, one.counterpart} & set(but)
        ]
        if not others:
            return None
        return others[int(content_id(target.pair.query_id, letter="")[:12], 16) % len(others)]
