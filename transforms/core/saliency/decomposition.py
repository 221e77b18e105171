"""Decomposition: the similarity itself, cut into what each position of the last feature map adds to it.

A. Stylianou, R. Souvenir, R. Pless, "Visualizing Deep Similarity Networks", WACV 2019, the case of average pooling; and
S. Zhu, T. Yang, C. Chen, "Visual Explanation for Deep Metric Learning", IEEE TIP 2021, the overall activation map, with
linear layers behind the pooling. A network that averages its feature map F over its h * w positions and is linear
from there on has an embedding that is a sum over positions::

    e = sum_x local(x) + b,   local(x) = W F(x) / (h w)

so its cosine with a reference's embedding r is one too::

    cos(e, r) = sum_x A(x) + <b, r/|r|> / |e|,   A(x) = <local(x), r/|r|> / |e|

For the dot product the lengths are left out. The papers write a sum over pairs of positions, x of the query and y of
the reference, to which layers with a bias add three terms::

    <e, r> = sum_x sum_y <local(x), local_r(y)> + sum_x <local(x), b> + sum_y <b, local_r(y)> + <b, b>

The first two terms are ``sum_x <local(x), r>``, our map; the last two are ``<b, r>``, our bias term. So the reference
enters as its whole embedding, its own bias included. A map asks what a position of *one* image adds against a fixed
vector, and that vector is what a recommender stores; a term of x and the reference's bias belongs to x, the only
position in it. What is left is one number without a position; it is reported apart, not spread over the map. The map of
the reference is had by swapping the two images. Both maps take one forward pass an image.

0 means: the position adds nothing to the inner product. The map sums to the similarity less the bias term, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transforms.core.imaging.maps import area_average
from transforms.core.records import Float32, Float64
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
from transforms.core.similarity import SimilarityFunction


@dataclass(frozen=True)
class Decomposed:
    """``maps`` float64 [R, H, W] and ``bias`` float64 [R]: ``maps.sum(axis=(1, 2)) + bias`` are the similarities."""

    maps: Float64
    bias: Float64


def decompose(
    local: Float32, bias: Float32, references: Float32, function: SimilarityFunction, size: tuple[int, int]
) -> Decomposed:
    """What each pixel of one image adds to its similarity with each of R references.

    Args:
      local: [D, h, w], the positions' parts of the image's embedding before the L2 norm.
      bias: [D], what the embedding is where all of them are 0.
      references: [R, D], of any length for the cosine.
      function: "cosine" or "dot".
      size: (H, W) of the frame that the maps are spread over: bilinear, and every sum over pixels is kept.

    Returns:
      Maps in units of the similarity per pixel. A reference's row depends on nothing of the others, to the bit. Where
      the cosine is not defined, an embedding of length 0, map and bias term are 0.

    Raises:
      ValueError: the shapes do not fit, or ``function`` is "euclidean".
    """
    if function not in ("cosine", "dot"):
        raise ValueError(
            f"decomposition needs a similarity that is linear in the embedding, cosine or dot; this bundle's is "
            f"{function!r}, and a distance is no sum over positions. Choose another method, such as rise."
        )
    if local.ndim != 3 or bias.shape != local.shape[:1] or references.shape[1:] != bias.shape or 0 in local.shape:
        raise ValueError(
            f"expected local [D, h, w], bias [D] and references [R, D], got {local.shape}, {bias.shape} and "
            f"{references.shape}"
        )
    cells, shift = local.reshape(len(local), -1).astype(np.float64), bias.astype(np.float64)
    length = np.linalg.norm(cells.sum(axis=1) + shift) if function == "cosine" else 1.0
    rows, columns = (_weights(cell, pixel) for cell, pixel in zip(local.shape[1:], size, strict=True))
    maps, terms = np.zeros((len(references), *size)), np.zeros(len(references))
    for index, reference in enumerate(references.astype(np.float64, order="C")):
        scale = length * (np.linalg.norm(reference) if function == "cosine" else 1.0)
        if scale > 0:
            parts = np.einsum("d,dp->p", reference, cells) / scale  # one reference at a time: no row sees another
            maps[index] = rows @ parts.reshape(local.shape[1:]) @ columns.T
            terms[index] = np.einsum("d,d->", reference, shift) / scale
    return Decomposed(maps, terms)


def _weights(cells: int, pixels: int) -> Float64:
    """How much of each cell goes to each pixel along one axis: [pixels, cells], columns sum to 1.

    Bilinear upsampling with half-pixel centres, each cell divided by the total of its weights over the frame, so that
    the sum over pixels is the sum over cells exactly. Where the cells divide the pixels, all totals are equal and this
    is plain bilinear upsampling over pixels / cells. Elsewhere equal cells come out with a ripple, at most 4 % for two
    pixels a cell or more: the price of an exact sum. With fewer pixels than cells, by the area of a cell in a pixel.
    """
    if pixels < cells:
        return area_average(np.eye(cells), (pixels, cells)) * (cells / pixels)
    centres = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(cells)), 0)
    return np.asarray(weights / weights.sum(axis=0))


@dataclass(frozen=True)
class DecompositionMethod(ConfiguredMethod):
    """The similarity's closed form over positions, for networks that pool and project linearly. It hides nothing."""

    name: ClassVar[str] = "decomposition"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs("projection", linear=True)
    fill: ClassVar[str] = NO_FILL

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """One pass, which keeps the last feature map."""
        return MethodCost(image=1)

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Runs the one pass."""
        local, bias = image.local()
        return _Decomposed(local, bias, image.function, image.size)


@dataclass(frozen=True)
class _Decomposed:
    local: Float32
    bias: Float32
    function: SimilarityFunction
    size: tuple[int, int]

    def reliability_by_chance(self, references: References, seed: int) -> None:
        """None: there are no masks that could be halved."""

    def maps(self, references: References) -> Maps:
        versions = references.vectors()
        if versions.shape[1] != 1:
            raise ValueError("only a similarity that is linear in the reference has a closed form over positions")
        passes = 1 + references.passes
        found = decompose(self.local, self.bias, versions[:, 0], self.function, self.size)
        if references.perturbed is None or self.function != "cosine":
            return Maps(found.maps, passes, found.bias)
        # the mean of unit vectors has no unit length, but decompose compares with unit vectors
        length = np.sqrt(np.square(versions[:, 0].astype(np.float64)).sum(axis=1))
        return Maps(found.maps * length[:, None, None], passes, found.bias * length)
