"""Sliding window: saliency as the drop in similarity when a window is hidden.

M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 3.2, as SANE (Plummer
et al., ECCV 2020, section 3.1) takes it to pairs of images::

    S(x) = mean of (base - f_n) over the windows n that cover x

Windows and strides are in pixels: 32 and 4 at 112 in the code of SANE. The last window of a row or column is flush with
the edge, so every pixel is covered also where the stride does not divide what is left.

0 means: hiding windows over the pixel leaves the similarity as it is, on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

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


@dataclass(frozen=True)
class SlidingWindow:
    """A sliding-window design. ``corners`` int [N, 2] holds windows' tops and lefts; ``window`` is (height, width)."""

    size: tuple[int, int]
    window: tuple[int, int]
    corners: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    key: str

    @property
    def n(self) -> int:
        """N, the number of windows."""
        return len(self.corners)

    def masks(self, start: int, stop: int) -> Float32:
        """Masks ``start`` to ``stop``, float32 [stop - start, H, W]: 0 in the window, 1 elsewhere."""
        out = np.ones((stop - start, *self.size), np.float32)
        for mask, (top, left) in zip(out, self.corners[start:stop], strict=True):
            mask[top : top + self.window[0], left : left + self.window[1]] = 0
        return out

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Maps float64 [R, H, W]; see the module's formula. Pixels that no window has covered yet are 0."""
        n = check_scores(scores, base, self.n)
        covered = self._spread(np.ones(n))
        maps = np.zeros((len(scores), *self.size))
        for score, similarity, out in zip(scores, base, maps, strict=True):
            np.divide(self._spread(similarity - score), covered, out=out, where=covered > 0.5)
        return maps

    def _spread(self, values: Float64) -> Float64:
        """``sum_n values[n] * window_n`` float64 [H, W], through a table of differences."""
        (top, left), (height, width) = self.corners[: len(values)].T, self.window
        steps = np.zeros((self.size[0] + 1, self.size[1] + 1))
        np.add.at(steps, (top, left), values)
        np.add.at(steps, (top + height, left), -values)
        np.add.at(steps, (top, left + width), -values)
        np.add.at(steps, (top + height, left + width), values)
        return np.cumsum(np.cumsum(steps, axis=0), axis=1)[:-1, :-1]


def sliding_window(size: tuple[int, int], *, window: int = 32, stride: int = 4) -> SlidingWindow:
    """The design of all windows of ``window`` x ``window`` pixels at every ``stride`` pixels of a frame (H, W).

    A window longer than a side of the frame is cut to it.
    """
    if window < 1 or stride < 1:
        raise ValueError(f"a sliding window needs window >= 1 and stride >= 1, got {window} and {stride}")
    shape = (min(window, size[0]), min(window, size[1]))
    tops, lefts = (_starts(side, length, stride) for side, length in zip(size, shape, strict=True))
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    key = content_id("sliding-window-1", repr((size, shape, stride)), letter="k")
    return SlidingWindow(size, shape, corners, key)


def _starts(side: int, length: int, stride: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    starts = np.arange(0, side - length + 1, stride)
    last = side - length
    return starts if starts[-1] == last else np.append(starts, last)


@dataclass(frozen=True)
class SlidingWindowMethod(ConfiguredMethod):
    """Sliding window; the parameters are those of :func:`transforms.core.saliency.sliding_window.sliding_window`."""

    name: ClassVar[str] = "sliding_window"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(masks=True)
    fill: ClassVar[str] = "auto"
    banks: ClassVar[int] = 1
    window: int = 32
    stride: int = 4

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """A pass for each window."""
        design = self.design(size, 0)
        return MethodCost(design.n, design.key, self.banks)

    def design(self, size: tuple[int, int], bank: int) -> SlidingWindow:
        """The design for frames of ``size`` (H, W); there is one bank."""
        return sliding_window(size, window=self.window, stride=self.stride)

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Runs the masked passes."""
        design = image.design(self)
        return Perturbation(design, image.base, image.perturbed(design), image.function)
