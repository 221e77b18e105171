"""Controls: maps that look like explanations and never ask the model. What they reach, a measure gives for nothing.

A measure that ranks a method no higher than noise, than the middle of the frame or than the image's own edges does not
show that the method explains the model. J. Adebayo, J. Gilmer, M. Muelly, I. Goodfellow, M. Hardt, B. Kim, "Sanity
Checks for Saliency Maps", NeurIPS 2018, figure 1, hold maps against an edge detector: it knows neither the model nor
the data that it was trained on, so no randomisation of either changes its map.

A control's map is the same for every reference, and its 0 means nothing for the similarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage

from transforms.core.records import Float64
from transforms.core.saliency.contract import (
    NO_FILL,
    ConfiguredMethod,
    ImageView,
    Maps,
    MethodCost,
    Needs,
    References,
    Saliency,
)

_LUMINANCE = (0.299, 0.587, 0.114)
"""Rec. ITU-R BT.601: the luma of red, green and blue, as in Pillow's mode L."""


class _Control(ConfiguredMethod):
    """What all controls have in common: they ask the network for nothing."""

    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs()
    fill: ClassVar[str] = NO_FILL

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """Nothing."""
        return MethodCost()


@dataclass(frozen=True)
class RandomControl(_Control):
    """Noise: ``cells`` x ``cells`` uniform draws, upsampled bilinearly as RISE upsamples its masks; values in [0, 1).

    A side of fewer pixels than ``cells`` has a draw for each pixel. There is one map an image, not one a reference: it
    is drawn before any reference is known.
    """

    name: ClassVar[str] = "random"
    cells: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ValueError(f"the random control needs at least one cell a side, got {self.cells}")

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Draws the map, from the run's seed and the image's content."""
        height, width = image.size
        cells = min(self.cells, height), min(self.cells, width)
        noise = np.random.default_rng(image.seed(self.seed)).random(cells)
        return _Same(_upsampling(height, cells[0]) @ noise @ _upsampling(width, cells[1]).T)


@dataclass(frozen=True)
class CentreControl(_Control):
    """A Gaussian at the frame's centre, where photographs of products show the product; values in [0, 1].

    ``spread`` is its standard deviation, in parts of each side: in a frame that is not square it is an ellipse.
    """

    name: ClassVar[str] = "centre"
    spread: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.spread < inf:
            raise ValueError(f"the centre control needs a finite spread above 0, got {self.spread}")

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Draws the map, which is the same for all images of a frame."""
        rows, columns = (
            np.exp(-(((np.arange(side) - (side - 1) / 2) / (self.spread * side)) ** 2) / 2) for side in image.size
        )
        return _Same(np.outer(rows, columns))


@dataclass(frozen=True)
class EdgeControl(_Control):
    """The image's edges: the length of the Sobel gradient of its luma, blurred; 0 where the image is even.

    I. Sobel, G. Feldman, "A 3x3 Isotropic Gradient Operator for Image Processing", 1968. ``smoothing`` is the blur's
    standard deviation, in parts of each side, 0 for none: single pixels are finer than any map is.
    """

    name: ClassVar[str] = "edges"
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < inf:
            raise ValueError(f"the edge control needs a finite smoothing of 0 or more, got {self.smoothing}")

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Finds the edges of the image's pixels; beyond the frame it goes on as at its border, which is no edge."""
        pixels = image.pixels.astype(np.float64)
        luma = sum(weight * pixels[..., channel] for channel, weight in enumerate(_LUMINANCE))
        edges = np.hypot(*(ndimage.sobel(luma, axis, mode="nearest") for axis in (0, 1)))
        blur = [self.smoothing * side for side in image.size]
        return _Same(ndimage.gaussian_filter(edges, blur, mode="nearest"))


@dataclass(frozen=True)
class _Same:
    """One map [H, W] for all references."""

    saliency: Float64

    def reliability_by_chance(self, references: References, seed: int) -> None:
        """None: there are no masks that could be halved."""

    def maps(self, references: References) -> Maps:
        return Maps(np.repeat(self.saliency[None], len(references.embeddings), axis=0), passes=0)


def _upsampling(side: int, cells: int) -> Float64:
    """Bilinear weights [side, cells] from cells' centres to pixels' centres; the outermost half cells are constant."""
    at = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    weights: Float64 = np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0)
    return weights


CONTROLS: dict[str, type[Any]] = {control.name: control for control in (RandomControl, CentreControl, EdgeControl)}
"""The controls by name."""

UNRELATED = "stranger"
"""The control that is another query's map of the same method; its rows are of the method ``stranger_<method>``."""
