"""What a perturbation method is: a design of masks, and an estimator from their scores to a saliency map.

A method is a pure function that returns a :class:`Design`; it knows neither model nor pipeline. Whoever runs it turns
``masks`` into embeddings once for a query, embeddings into scores for every reference, and scores into maps::

    design.masks -> embeddings [N, D] -> scores [R, N] -> design.estimate(scores, base) -> maps [R, H, W]
"""

from __future__ import annotations

from typing import Protocol

from transforms.core.types import Float32, Float64


class Design(Protocol):
    """The masks of one method for one frame size, and its estimator.

    ``n`` is the number of masks, ``size`` the frame (H, W). Designs of equal ``key`` have equal masks and share one
    mask bank; ``key`` is None where the masks depend on the image.
    """

    @property
    def n(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def key(self) -> str | None: ...

    def masks(self, start: int, stop: int) -> Float32:
        """Masks float32 [stop - start, H, W] in [0, 1]: 1 keeps a pixel, 0 replaces it by the fill."""

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Saliency maps float64 [R, H, W] from ``scores`` [R, n'] of the first n' masks and ``base`` [R].

        ``base`` is the similarity of the unmasked query to each reference. A higher value means that the pixel raises
        the similarity; what 0 means is said by each method. A reference's map depends on its own scores alone, to the
        bit, whatever other references it is estimated with.
        """


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


def check_scores(scores: Float64, base: Float64, n: int) -> int:
    """The number of masks n' that ``scores`` [R, n'] covers; ValueError where the shapes do not fit ``n`` masks."""
    if scores.ndim != 2 or base.shape != scores.shape[:1] or not 0 < scores.shape[1] <= n:
        raise ValueError(
            f"expected scores [R, n'] with 0 < n' <= {n} and base [R], got scores {scores.shape} and base {base.shape}"
        )
    return int(scores.shape[1])
