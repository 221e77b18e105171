"""How many forward passes of the similarity network a configuration takes, known before anything runs.

Passes that serve all references of an image are shared by everything that masks it alike: methods with equal masks and
fills, and all conditions of a similarity. What follows a slope has passes of its own for every pair.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from transforms.core.records import Side
from transforms.core.saliency.contract import MethodCost
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.similarity import SimilarityFunction


@dataclass(frozen=True, slots=True)
class Passes:
    """The forward passes of the similarity network that explaining the ``sides`` of pairs takes.

    masks: of every image that is explained, under masks, with those of the whole image beside the one that every image
      of the run has: all pairs of the image share them.
    gradient_passes: of the gradient, for one explanation of a pair, by all methods.
    null_gradient_passes: the same for the null of an explained image.
    other_masks: of every image that another is explained against, masked.
    at_most: whether an image may do with fewer, because a method stops when its maps have converged.
    random: of the run's random references, once.
    """

    sides: tuple[Side, ...]
    masks: int
    gradient_passes: int = 0
    null_gradient_passes: int = 0
    other_masks: int = 0
    at_most: bool = False
    random: int = 0

    @property
    def per_query(self) -> int:
        """At most, for every query of a manifest, however many pairs it has."""
        return 1 + self._explained * ("query" in self.sides) + self.other_masks * ("reference" in self.sides)

    @property
    def per_pair(self) -> int:
        """At most, for every pair of a manifest, as if no two pairs had the same reference image."""
        of_reference = 1 + self._explained * ("reference" in self.sides) + self.other_masks * ("query" in self.sides)
        return of_reference + self.gradient_passes * len(self.sides)

    @property
    def gradient_passes_per_query(self) -> int:
        """Those of ``per_query`` that are passes of the gradient."""
        return self.null_gradient_passes * ("query" in self.sides)

    @property
    def gradient_passes_per_pair(self) -> int:
        """Those of ``per_pair`` that are passes of the gradient."""
        return self.gradient_passes * len(self.sides) + self.null_gradient_passes * ("reference" in self.sides)

    def most(self, queries: int, pairs: int) -> int:
        """The passes of so many queries with so many pairs in all, at most: the run may find equal images."""
        return self.random + self.per_query * queries + self.per_pair * pairs

    def total(self, *, explained: int, pairs: int, images: int, others: int) -> int:
        """The passes of a run, exactly, unless a method stops early or a pair fails.

        Args:
          explained: distinct images that are explained. pairs: of the manifest.
          images: distinct images of the pairs, on either side.
          others: those of them that another image is explained against.
        """
        return (
            self.random
            + images
            + self._explained * explained
            + self.gradient_passes * len(self.sides) * pairs
            + self.other_masks * others
        )

    @property
    def _explained(self) -> int:
        return self.masks + self.null_gradient_passes


def passes(
    explainers: Sequence[Explainer],
    sides: tuple[Side, ...],
    *,
    size: tuple[int, int],
    function: SimilarityFunction = "cosine",
    nulls: bool = False,
    random: int = 0,
) -> Passes:
    """The passes of ``explainers`` for frames of ``size`` (H, W), with a null beside each image's pairs if ``nulls``.

    A null is one more reference: masked passes serve it too, and a slope towards it has passes of its own. ValueError
    where a method's masks do not fit into the frame. ``random`` is the number of random references that are embedded.
    """
    costs = [explainer.method.cost(size) for explainer in explainers]
    gradient_passes = sum(
        _gradient_passes(explainer, cost, function) for explainer, cost in zip(explainers, costs, strict=True)
    )
    masked = next((explainer.references for explainer in explainers if explainer.references), None)
    return Passes(
        sides=sides,
        masks=1 + _masked(explainers, costs) + max((cost.image for cost in costs), default=0),
        gradient_passes=gradient_passes,
        null_gradient_passes=gradient_passes if nulls else 0,
        other_masks=masked.masks if masked else 0,
        at_most=any(explainer.converges for explainer in explainers),
        random=random,
    )


def _masked(explainers: Iterable[Explainer], costs: Iterable[MethodCost]) -> int:
    """The masks of all explainers, equal ones under equal fills once, as
    ``transforms.explaining.image_session.ImageSession`` runs them.
    """
    shared: dict[Hashable, int] = {}
    for at, (explainer, cost) in enumerate(zip(explainers, costs, strict=True)):
        shared[at if cost.key is None else (cost.key, explainer.fill)] = cost.masks
    return sum(shared.values())


def _gradient_passes(explainer: Explainer, cost: MethodCost, function: SimilarityFunction) -> int:
    """The passes of the gradient for one explanation."""
    if explainer.perturb == "query":
        return cost.steps
    if explainer.references is None:
        return 2 * cost.steps  # Mask follows the gradient in either image
    return cost.steps * _versions(explainer.references, function)


def _versions(references: ReferenceMasks, function: SimilarityFunction) -> int:
    """How many vectors stand for the masked versions of an image under one condition: their mean, if it can."""
    return references.masks if function == "euclidean" else 1
