"""SBSM, similarity-based saliency maps: how far hiding a window moves the query away from the reference.

B. Dong, R. Collins, A. Hoogs, "Explainability for Content-Based Image Retrieval", CVPR Workshops 2019, in the form of
two implementations of their institution, SMQTK's (``SBSM_SaliencyBlackbox``) and xaitk-saliency's
(``SimilarityScoring``), which agree on the estimator::

    S(x) = mean of max(base - f_n, 0) over the windows n that cover x

That is :mod:`transforms.core.saliency.sliding_window` with one difference: a window that raises the similarity when it
is hidden counts as 0 before the mean is taken, not as a negative drop. The cut is made window by window, so it cannot
be had from a sliding window's map. Both implementations take f = -(Euclidean distance); here f is the similarity that
the bundle was trained for.

Deviations, with reasons. (1) Windows lie as in SMQTK's code, whole and inside of the frame, and the last one is flush
with the edge. xaitk-saliency lets windows hang over all four edges: there a window hides less the further out it is,
so scores at the border are not comparable with others, and at 112 pixels 784 passes are needed where 441 do. (2)
xaitk-saliency divides each map by its maximum; we keep the units of the similarity, without which maps of two
references or of two models cannot be compared. (3) Window and stride are those of the sliding window, 32 and 4, where
SMQTK has 20 and 4 at 224 pixels and xaitk-saliency 50 and 20 at any size: an equal key means that a run of both
methods pays for one set of passes.

0 means: no window over the pixel lowers the similarity when it is hidden. Maps are never negative, so a pixel that
speaks against the match is 0 as well; the sliding window's map tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transforms.core.records import Float64
from transforms.core.saliency.contract import check_scores
from transforms.core.saliency.sliding_window import SlidingWindow, SlidingWindowMethod, sliding_window


@dataclass(frozen=True)
class Sbsm(SlidingWindow):
    """An SBSM design: the masks and the key of a sliding window, with SBSM's estimator."""

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Maps float64 [R, H, W], >= 0; see the module's formula. Pixels that no window has covered yet are 0."""
        n = check_scores(scores, base, self.n)
        covered = self._spread(np.ones(n))
        maps = np.zeros((len(scores), *self.size))
        for score, similarity, out in zip(scores, base, maps, strict=True):
            drops = np.maximum(similarity - score, 0)
            # the sum of zeros comes out of a table of differences as a rounding error, a count does not
            lowered = self._spread((drops > 0).astype(np.float64)) > 0.5
            np.divide(self._spread(drops), covered, out=out, where=lowered)
        return np.maximum(maps, 0)


def sbsm(size: tuple[int, int], *, window: int = 32, stride: int = 4) -> Sbsm:
    """The design of all windows of ``window`` x ``window`` pixels at every ``stride`` pixels of a frame (H, W).

    Its masks and its key are those of :func:`transforms.core.saliency.sliding_window.sliding_window` for the same
    parameters; ValueError where either is below 1.
    """
    windows = sliding_window(size, window=window, stride=stride)
    return Sbsm(windows.size, windows.window, windows.corners, windows.key)


@dataclass(frozen=True)
class SbsmMethod(SlidingWindowMethod):
    """SBSM: the sliding window's masks, and an estimator of its own (:func:`transforms.core.saliency.sbsm.sbsm`)."""

    name: ClassVar[str] = "sbsm"
    version: ClassVar[int] = 1

    def design(self, size: tuple[int, int], bank: int) -> Sbsm:
        """The design for frames of ``size`` (H, W); there is one bank."""
        return sbsm(size, window=self.window, stride=self.stride)
