"""An explainer: everything that must be equal for two maps to be comparable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from transforms.core.records import content_id
from transforms.core.saliency.contract import Method
from transforms.core.saliency.rise import RiseMethod

Perturb = Literal["query", "both"]


@dataclass(frozen=True)
class ReferenceMasks:
    """How the other image of a pair is perturbed: by ``masks`` masks of independently drawn cells, hidden by ``fill``.

    All explainers of a run share them, whatever their own masks are: what counts is the mean over many versions. Thirty
    masks as in the code of SANE.
    """

    masks: int
    fill: str
    seed: int

    def method(self, size: tuple[int, int]) -> RiseMethod:
        """The method that draws the masks for frames of ``size`` (H, W)."""
        cells = min(RiseMethod.cells, *size)
        return RiseMethod(masks=self.masks, cells=cells, sampling="independent", seed=self.seed)


@dataclass(frozen=True)
class Explainer:
    """A method, what it hides pixels with, and which of a pair's images it perturbs.

    ``perturb`` "query" compares masked versions of the explained image with the other image as it is; "both" with
    masked versions of the other image, averaged (Plummer et al., ECCV 2020, section 3.1). ``references`` says which,
    None for Mask, which finds a mask for either image. With ``contrast`` the similarity is explained less its mean over
    random references of the catalogue (``transforms.core.statistics.nulls``).
    """

    method: Method
    fill: str
    perturb: Perturb = "query"
    references: ReferenceMasks | None = None
    contrast: bool = False

    @property
    def converges(self) -> bool:
        """Whether the method stops when its maps for all references have converged."""
        return self.method.converges

    @property
    def compares_freely(self) -> bool:
        """Whether the image is compared with any further vector at no passes."""
        return self.perturb == "query" and self.method.needs.image_first

    @cached_property
    def id(self) -> str:
        """Id of what makes two maps comparable: the method, its estimator's version, its parameters, fill, perturb."""
        parameters = repr(sorted(self.method.parameters().items()))
        masks = f"{RiseMethod.version} {self.references!r}" if self.references else ""
        version, contrast = str(self.method.version), ["contrast"] * self.contrast
        return content_id(self.method.name, version, parameters, self.fill, self.perturb, masks, *contrast, letter="e")
