"""LIME: saliency as the coefficients of a local linear model over superpixels.

M. Ribeiro, S. Singh, C. Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier", KDD 2016,
sections 3.2 to 3.4 and algorithm 1, with the choices of the authors' package ``lime`` (``LimeImageExplainer`` and
``LimeBase``); on the query image of a pair as in SANE (Plummer et al., ECCV 2020, section 3.1).

A sample z in {0, 1}^S keeps superpixel s where z_s = 1 and hides it otherwise; d(z) is its cosine distance to the
sample that keeps all. The local model (the paper's eq. 2) is a weighted ridge regression with an intercept c::

    pi(z) = sqrt(exp(-d(z)^2 / kernel_width^2))
    (b, c) = argmin  sum_n pi(z_n) (f_n - c - b z_n)^2 + ridge |b|^2
    S(x)  = b_s for the superpixel s of pixel x

From the package, where the paper differs or is silent: the root in pi (the paper has none), ridge instead of least
squares, fair coins for the samples, and a first sample that keeps all.

Deviations, with reasons. (1) All superpixels stay in the model, where the paper selects K of them by lasso: a map needs
a value everywhere. The package's image explainer drops none by default either. (2) A hidden superpixel shows the run's
fill, where the package paints it in its own mean colour: maps of two methods then differ by the method alone. (3) The
labels come from outside; :mod:`transforms.serving.superpixels` says how they are cut, and why not as in the package.

0 means: hiding the superpixel does not change the similarity, in the local linear model. The ridge pulls every
coefficient towards 0, the more the fewer samples there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from transforms.core.records import Float32, Float64, content_id
from transforms.core.saliency.contract import (
    ConfiguredMethod,
    ImageView,
    MethodCost,
    Needs,
    References,
    Saliency,
    check_scores,
)
from transforms.core.saliency.perturbation import Perturbation

SEGMENTS = 100
"""Superpixels that an image is cut into, about."""


@dataclass(frozen=True)
class Lime:
    """A LIME design for one image. S is the number of its superpixels.

    ``labels`` int64 [H, W] numbers each pixel's superpixel, 0 to S - 1; ``samples`` bool [N, S], true where a
    superpixel is kept. ``kernel_width`` is in cosine distance, ``ridge`` in units of the kernel's weights, which are 1
    for a sample that keeps all.
    """

    labels: NDArray[np.int64]
    samples: NDArray[np.bool_]
    kernel_width: float
    ridge: float

    @property
    def n(self) -> int:
        """N, the number of samples."""
        return len(self.samples)

    @property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""
        height, width = self.labels.shape
        return height, width

    @cached_property
    def key(self) -> str:
        """Of the superpixels and the samples: two explainers of one image share their passes, two images do not."""
        return content_id("lime-1", repr(self.size), self.labels.tobytes(), self.samples.tobytes(), letter="k")

    def masks(self, start: int, stop: int) -> Float32:
        """Masks ``start`` to ``stop``, float32 [stop - start, H, W]: 1 in the superpixels that are kept, else 0."""
        return self.samples[start:stop].astype(np.float32)[:, self.labels]

    def weights(self, n: int) -> Float64:
        """pi of the first ``n`` samples, float64 [n] in [0, 1]; a sample that keeps nothing is at distance 1."""
        kept = self.samples[:n].mean(axis=1)
        distance = 1 - np.sqrt(kept)  # the cosine of z and the ones is sum(z) / sqrt(sum(z) S)
        weights: Float64 = np.exp(-0.5 * np.square(distance / self.kernel_width))
        return weights

    def coefficients(self, scores: Float64, base: Float64) -> Float64:
        """b of each reference, float64 [R, S], from the scores [R, n'] of the first n' samples."""
        n = check_scores(scores, base, self.n)
        weights = self.weights(n)
        shares = weights / weights.sum()
        centred = self.samples[:n] - shares @ self.samples[:n]
        weighted = np.ascontiguousarray((centred * weights[:, None]).T)  # [S, n']
        factor: Any = cho_factor(weighted @ centred + self.ridge * np.eye(len(weighted)))
        out = np.empty((len(scores), len(weighted)))
        for score, row in zip(scores, out, strict=True):  # one solution a reference: equal to the bit in any group
            above = score - score[0]  # exactly 0 where all scores are equal, and so are the coefficients
            row[:] = cho_solve(factor, weighted @ (above - shares @ above))
        return out

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Maps float64 [R, H, W]; see the module's formula. ``base`` is not used: the first sample is the query.

        From one sample alone, and where all scores are equal, maps are 0.
        """
        return self.coefficients(scores, base)[:, self.labels]


def lime(
    labels: NDArray[np.integer[Any]],
    *,
    samples: int = 1000,
    seed: int = 0,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
) -> Lime:
    """Draws the samples of a LIME design; those of a smaller ``samples`` are the first of a larger.

    Args:
      labels: integer [H, W], equal for the pixels of one superpixel; any numbers, with or without gaps.
      samples: N, 1,000 as in the package's image explainer. The first keeps all superpixels.
      seed: the run's seed. The draws depend on it and on S, not on the image.
      kernel_width: the paper's sigma, above 0. The package's 0.25 for images.
      ridge: the strength of the pull towards 0, above 0. The package's 1.
    """
    if labels.ndim != 2 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"LIME needs integer labels [H, W] of superpixels, got {labels.dtype} {list(labels.shape)}")
    check_parameters(samples, kernel_width, ridge)
    values, inverse = np.unique(labels, return_inverse=True)
    kept = np.random.default_rng(seed).random((samples, len(values))) < 0.5
    kept[0] = True
    return Lime(inverse.reshape(labels.shape).astype(np.int64), kept, kernel_width, ridge)


def check_parameters(samples: int, kernel_width: float, ridge: float) -> None:
    """ValueError for parameters that LIME cannot have."""
    if samples < 1 or not 0 < kernel_width < np.inf or not 0 < ridge < np.inf:
        raise ValueError(
            "LIME needs at least one sample, kernel_width > 0 and ridge > 0, both finite; "
            f"got samples={samples}, kernel_width={kernel_width}, ridge={ridge}"
        )


@dataclass(frozen=True)
class LimeMethod(ConfiguredMethod):
    """LIME; the parameters are those of :func:`transforms.core.saliency.lime.lime`."""

    name: ClassVar[str] = "lime"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(superpixels=True)
    fill: ClassVar[str] = "auto"
    samples: int = 1000
    kernel_width: float = 0.25
    ridge: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_parameters(self.samples, self.kernel_width, self.ridge)

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """An image's superpixels and the seed make the samples; kernel and ridge come after the passes."""
        return MethodCost(self.samples, ("lime", self.samples, self.seed), coefficients=SEGMENTS)

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Segments the image and runs the masked passes."""
        design = lime(
            image.superpixels(),
            samples=self.samples,
            kernel_width=self.kernel_width,
            ridge=self.ridge,
            seed=image.seed(self.seed),
        )
        return Perturbation(design, image.base, image.perturbed(design), image.function)
