"""RISE: saliency as the mean similarity under random masks that keep a pixel.

V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section
3.2; used on the query image of a pair as in SANE (Plummer et al., ECCV 2020, section 3.1).

A mask is a grid of ``cells`` x ``cells`` independent draws, 1 with probability ``p``, upsampled bilinearly to
(cells + 1) C_H x (cells + 1) C_W pixels, where C = ceil(size / cells), and cropped at a random shift of less than a
cell.

The map is the paper's eq. 6 normalised by what was drawn instead of by its expectation, with the mean score
subtracted::

    S(x) = sum_n (f_n - mean f) M_n(x) / sum_n M_n(x)

Deviations, with reasons. (1) Dividing by the expectation N p lets the large mean of a cosine through as noise: r = 0.39
with the converged map, against 0.91 for the form above. (2) Without subtracting the mean score a map has 6 % of
contrast. (3) The outermost half cell repeats the edge's draw, where the authors' code mirrors.

0 means: keeping the pixel leaves the similarity at its mean over masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from transforms.core.saliency.contract import check_scores
from transforms.core.types import Float32, Float64, content_id


@dataclass(frozen=True)
class Rise:
    """A RISE design. ``grids`` float32 [N, cells, cells] of 0 and 1; ``shifts`` int [N, 2], row and column."""

    size: tuple[int, int]
    grids: Float32
    shifts: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    key: str

    @property
    def n(self) -> int:
        """N, the number of masks."""
        return len(self.grids)

    def masks(self, start: int, stop: int) -> Float32:
        """Masks ``start`` to ``stop``, float32 [stop - start, H, W]."""
        up_y, up_x = self._upsampling
        rows, columns = up_y[self.shifts[start:stop, 0]], up_x[self.shifts[start:stop, 1]]
        masks: Float32 = np.matmul(rows @ self.grids[start:stop], columns.transpose(0, 2, 1)).astype(
            np.float32, copy=False
        )
        return masks

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        """Maps float64 [R, H, W]; see the module's formula. Pixels that no mask kept are 0.

        The sums are taken in cell space: masks of one shift share their upsampling, so their grids are added first. No
        [N, H, W] is held.
        """
        n = check_scores(scores, base, self.n)
        kept = self._sum(np.ones(n))
        maps = np.empty((len(scores), *self.size))
        for score, out in zip(scores, maps, strict=True):
            above = score - score[0]  # exactly 0 where all scores are equal, which a rounded mean alone is not
            np.divide(self._sum(above - above.mean()), kept, out=out, where=kept > 0)
            out[kept <= 0] = 0
        return maps

    def _sum(self, weights: Float64) -> Float64:
        """``sum_n weights[n] * mask_n`` float64 [H, W], summed in one fixed order."""
        n, cells = len(weights), self.grids.shape[1]
        order, starts, at = self._by_shift(n)
        weighted = weights[order, None] * self._flat[order]
        up_y, up_x = (up.astype(np.float64) for up in self._upsampling)
        (shifts_y, height, _), (shifts_x, width, _) = up_y.shape, up_x.shape
        by_shift = np.zeros((shifts_y, shifts_x, cells * cells))
        by_shift[at[:, 0], at[:, 1]] = np.add.reduceat(weighted, starts, axis=0)
        folded = by_shift.reshape(shifts_y, shifts_x, cells, cells).transpose(0, 2, 1, 3)
        right = up_x.transpose(0, 2, 1).reshape(shifts_x * cells, width)
        left = up_y.transpose(1, 0, 2).reshape(height, shifts_y * cells)
        total: Float64 = left @ (folded.reshape(shifts_y * cells, shifts_x * cells) @ right)
        return total

    @cached_property
    def _flat(self) -> Float64:
        return self.grids.reshape(self.n, -1).astype(np.float64)

    @cached_property
    def _upsampling(self) -> tuple[Float32, Float32]:
        cells = self.grids.shape[1]
        return _upsampling(self.size[0], cells), _upsampling(self.size[1], cells)

    def _by_shift(
        self, n: int
    ) -> tuple[
        np.ndarray[tuple[int], np.dtype[np.int64]],
        np.ndarray[tuple[int], np.dtype[np.int64]],
        np.ndarray[tuple[int, int], np.dtype[np.int64]],
    ]:
        """The first ``n`` masks ordered by shift: their order, where each shift starts in it, and the shifts [S, 2]."""
        shifts = self.shifts[:n]
        order = np.lexsort((shifts[:, 1], shifts[:, 0]))
        at, starts = np.unique(shifts[order], axis=0, return_index=True)
        return order, starts, at


def rise(
    size: tuple[int, int], *, masks: int = 2000, cells: int = 8, p: float = 0.5, seed: int = 0, bank: int = 0
) -> Rise:
    """Draws a RISE design.

    Args:
      size: the frame (H, W); not smaller than ``cells`` in either axis.
      masks: N. The paper takes 4,000 to 8,000, for classifiers.
      cells: cells a side of the grid (the paper's h and w).
      p: the probability that a cell is kept.
      seed: the run's seed. ``bank``: which of several independent sets of masks to draw.
    """
    if masks < 1 or cells < 1 or not 0 < p < 1 or cells > min(size):
        raise ValueError(
            f"RISE needs at least one mask, 1 to {min(size)} cells a side for a {size[0]} x {size[1]} frame and "
            f"0 < p < 1; got masks={masks}, cells={cells}, p={p}"
        )
    key = content_id("rise-1", repr((size, masks, cells, p, seed, bank)), letter="k")
    rng = np.random.default_rng([seed, bank])
    grids = (rng.random((masks, cells, cells)) < p).astype(np.float32)
    cell = [-(-side // cells) for side in size]
    shifts = rng.integers(0, cell, size=(masks, 2))
    return Rise(size, grids, shifts, key)


def _upsampling(side: int, cells: int) -> Float32:
    """Bilinear weights [C, side, cells], C = ceil(side / cells): entry [d] upsamples and crops at shift d."""
    cell = -(-side // cells)
    up = (cells + 1) * cell
    position = np.clip((np.arange(up) + 0.5) * cells / up - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(int), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((up, cells))
    rows = np.arange(up)
    np.add.at(weights, (rows, low), 1 - (position - low))
    np.add.at(weights, (rows, high), position - low)
    return np.stack([weights[shift : shift + side] for shift in range(cell)]).astype(np.float32)
