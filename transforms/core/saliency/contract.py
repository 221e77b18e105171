"""What a saliency method is, and what it may ask of the image that it explains.

A method is pure: it knows neither model nor pipeline. Whoever runs it hands it a :class:`ImageView`, the image with
what the bundle's networks can say of it, and gets a :class:`Saliency`, which turns references into maps::

    method.prepare(image) -> saliency: all passes that serve every reference
    saliency.maps(references) -> maps [R, H, W]

Perturbation methods share one form, a :class:`Design` of masks with an estimator::

    design.masks -> embeddings [N, D] -> scores [R, N] -> design.estimate(scores, base) -> maps [R, H, W]

The others need a :class:`Gradient`, or the last feature map in closed form; controls look at the pixels, or at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from transforms.core.records import Float32, Float64, Image
from transforms.core.similarity import SimilarityFunction

Graph = Literal["gradient", "projection"]
"""A graph that a bundle may have beside the similarity's."""


@dataclass(frozen=True)
class Needs:
    """What a method asks of a bundle and of a worker, and what it can do therefore.

    Attributes:
      graph: the graph that it runs beside the similarity's.
      superpixels: whether workers cut images into superpixels for it.
      masks: whether its masks do not depend on the image, so that it is :class:`Perturbing`.
      image_first: whether its passes depend on the image alone: it is then compared with any further vector at no
        passes, and has nulls and contrasts.
      linear: whether the similarity must be linear in the reference, as a cosine and a dot product are.
      optimises: whether it finds masks of its own for either image, in place of those that a run draws for references.
    """

    graph: Graph | None = None
    superpixels: bool = False
    masks: bool = False
    image_first: bool = True
    linear: bool = False
    optimises: bool = False


@dataclass(frozen=True)
class MethodCost:
    """What a method takes for frames of one size.

    Attributes:
      masks: masked passes an image, at most; what has an equal ``key`` under an equal fill shares them.
      banks: how many sets of masks are kept between images.
      coefficients: numbers that an estimate holds for each map beside the map itself.
      image: passes an image besides.
      steps: passes of the gradient for each vector that the image is compared with.
    """

    masks: int = 0
    key: Hashable = None
    banks: int = 0
    coefficients: int = 1
    image: int = 0
    steps: int = 0


class Masks(Protocol):
    """The masks under which an image is embedded, for one frame size.

    ``n`` is their number, ``size`` the frame (H, W). What has an equal ``key`` has equal masks and shares one mask
    bank; what has none shares with nobody.
    """

    @property
    def n(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def key(self) -> str | None: ...

    def masks(self, start: int, stop: int) -> Float32:
        """Masks float32 [stop - start, H, W] in [0, 1]: 1 keeps a pixel, 0 replaces it by the fill."""


class Design(Masks, Protocol):
    """The masks of one method and its estimator."""

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Saliency maps float64 [R, H, W] from ``scores`` [R, n'] of the first n' masks and ``base`` [R].

        ``base`` is the similarity of the unmasked query to each reference. A higher value means that the pixel raises
        the similarity; what 0 means is said by each method. A reference's map depends on its own scores alone, to the
        bit, whatever other references it is estimated with.
        """


class SplittableDesign(Design, Protocol):
    """A design whose masks come in blocks of ``block``, whole sets of which are designs of their own."""

    @property
    def block(self) -> int: ...

    def subset(self, rows: NDArray[np.int64]) -> SplittableDesign:
        """The design of the masks ``rows`` alone."""


class Gradient(Protocol):
    """The slope of the similarity in the mask, for one image and one fill: what Mask and the gradient methods ask.

    The masked image is ``fill + mask * (image - fill)``, and ``noise`` float32 [1, H, W, 3], in units of the network's
    normalised input, is added to it. Row b compares mask b with reference b and depends on nothing else.
    """

    @property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        """Similarity [B], its gradient with respect to the mask [B, H, W], and the masked image's embedding [B, D].

        ``masks`` is [B, H, W] in [0, 1], ``references`` [B, D].
        """


@dataclass(frozen=True)
class References:
    """The other images of the pairs: what the explained image is compared with.

    All are compared under one condition, the image's, and vectors are what it leaves of them. ``embeddings`` is
    float32 [R, D]. Where the references are perturbed too, ``perturbed`` float32 [R, K, D] holds what their masked
    versions became, K = 1 with the mean where the similarity is linear in it, after ``passes`` passes of each, and
    ``gradients(start, stop)`` is the slope in the masks of references ``start`` to ``stop``, row by row.
    """

    embeddings: Float32
    perturbed: Float32 | None = None
    passes: int = 0
    gradients: Callable[[int, int], Gradient] | None = None

    def vectors(self) -> Float32:
        """What is compared with, float32 [R, K, D]: the masked versions where there are some."""
        return self.embeddings[:, None] if self.perturbed is None else self.perturbed


@dataclass(frozen=True)
class Maps:
    """Saliency maps float64 [R, H, W], after ``passes`` forward passes of the network for each of them.

    ``bias`` [R] is what of the similarity no pixel accounts for, if that is known. ``reliability`` [R] is the
    correlation of the maps of two halves of the masks, where the method has masks that can be halved.
    """

    saliency: Float64
    passes: int
    bias: Float64 | None = None
    reliability: Float64 | None = None


class Saliency(Protocol):
    """What a method found out about an image before it saw a reference."""

    def maps(self, references: References) -> Maps:
        """One map a reference. It depends on its own reference alone, to the bit."""

    def reliability_by_chance(self, references: References, seed: int) -> Float64 | None:
        """What ``Maps.reliability`` [R] is where scores and masks belong together by chance; None where there is none.

        ``seed`` draws which score goes with which mask.
        """


class ImageView(Protocol):
    """An image that is explained, and what the bundle's networks say of it, under one condition of the similarity.

    ``size`` is the frame (H, W), ``pixels`` uint8 [H, W, 3] the image in it, ``base`` float32 [1, D] the embedding of
    the whole image. A method knows of no conditions: embeddings come as the condition compares them. The passes are the
    same for all conditions.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def pixels(self) -> Image: ...

    @property
    def function(self) -> SimilarityFunction: ...

    @property
    def base(self) -> Float32: ...

    def seed(self, seed: int) -> int:
        """The seed of what is drawn for this image alone, from the run's ``seed`` and the image's content.

        Draws that all images share would leave their error in every mean over a catalogue.
        """

    def design(self, method: Perturbing) -> Design:
        """The design of ``method`` for this image, drawn from the bank that its content chooses."""

    def perturbed(self, design: Design, stopping_rule: Callable[[Float32], int | None] | None = None) -> Float32:
        """Embeddings float32 [n', D] of the image under the masks of ``design``, in order.

        ``stopping_rule`` is shown the embeddings so far whenever there are more, and says after how many of them to
        stop.
        """

    def superpixels(self) -> NDArray[np.int64]:
        """Labels [H, W] of the image's superpixels."""

    def gradient(self) -> Gradient:
        """The slope of the similarity in the mask of this image."""

    def local(self) -> tuple[Float32, Float32]:
        """What each position adds to the embedding before its L2 norm, float32 [D, h, w], and the bias [D]."""


class Method(Protocol):
    """A configured method. ``needs`` is what it asks of a bundle, ``fill`` what it hides pixels with by default."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[Needs]
    fill: ClassVar[str]

    @property
    def converges(self) -> bool:
        """Whether it stops when its maps for all references have converged."""

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """What it takes for frames of ``size`` (H, W); ValueError where it does not fit into one."""

    def parameters(self) -> dict[str, Any]:
        """What tells this configuration from another of the same method."""

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Runs the passes that serve all references. ``references`` are all of them, where ``converge`` asks."""


class Perturbing(Method, Protocol):
    """A method of masks that do not depend on the image. ``banks`` is how many independent sets of them it draws.

    With 0 banks every image has a set of its own.
    """

    @property
    def banks(self) -> int: ...

    def design(self, size: tuple[int, int], bank: int) -> Design:
        """The design for frames of ``size`` (H, W), from bank number ``bank``."""


def check_scores(scores: Float64, base: Float64, n: int) -> int:
    """The number of masks n' that ``scores`` [R, n'] covers; ValueError where the shapes do not fit ``n`` masks."""
    if scores.ndim != 2 or base.shape != scores.shape[:1] or not 0 < scores.shape[1] <= n:
        raise ValueError(
            f"expected scores [R, n'] with 0 < n' <= {n} and base [R], got scores {scores.shape} and base {base.shape}"
        )
    return int(scores.shape[1])


NO_FILL = "none"
"""The fill of a method that hides nothing."""


class ConfiguredMethod:
    """What methods have in common: the fields of a method's dataclass are its parameters."""

    @property
    def converges(self) -> bool:
        """Whether it stops when its maps for all references have converged."""
        return False

    def parameters(self) -> dict[str, Any]:
        """What tells this configuration from another of the same method."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


def draws_masks(method: Method) -> TypeGuard[Perturbing]:
    """Whether ``method`` is one of masks that do not depend on the image."""
    return method.needs.masks
