"""RISE: saliency as the mean similarity under random masks that keep a pixel.

V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section
3.2; used on the query image of a pair as in SANE (Plummer et al., ECCV 2020, section 3.1).

A mask is a grid of ``cells`` x ``cells`` draws, 1 with probability ``p``, upsampled bilinearly to (cells + 1) C_H x
(cells + 1) C_W pixels, where C = ceil(size / cells), and cropped at a shift of less than a cell.

The map is the covariance of the score with what a mask keeps of a pixel, over the share that masks keep::

    S(x) = Cov(f(M), M(x)) / E[M(x)]

Deviations, with reasons. (1) The paper's eq. 6, sum_n f_n M_n(x) / (N p), is this plus the mean score, up to the noise
of what was drawn: that lets the large mean of a cosine through (r = 0.39 with the converged map, against 0.91 for the
estimator "average" below), and leaves a map 6 % of contrast. (2) The outermost half cell repeats the edge's draw, where
the authors' code mirrors. (3) Cells are drawn by a design ("hadamard", see ``saliency.grids``), where the paper's are
independent, and the map is estimated by regression (``saliency.regression``), where the paper averages. Together they
need a quarter of the passes for the same map, or less, which is why 512 masks are the default: on three networks they
agree with a map of 8,000 of the paper's (r = 0.974, 0.988, 0.988) as 2,000 of the paper's do (0.973, 0.977, 0.977).
(4) 8 cells a side, where the paper has 7: 64 is the order of a Hadamard matrix.

The estimator "average" is the paper's, normalised by what was drawn instead of by its expectation::

    S(x) = sum_n (f_n - mean f) M_n(x) / sum_n M_n(x)

0 means: keeping the pixel leaves the similarity at its mean over masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from transforms.core.imaging.maps import area_average
from transforms.core.records import Float32, Float64, content_id
from transforms.core.saliency import grids as drawing
from transforms.core.saliency.contract import (
    ConfiguredMethod,
    ImageView,
    MethodCost,
    Needs,
    References,
    Saliency,
    check_scores,
)
from transforms.core.saliency.grids import Sampling
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.regression import PATCHES, Regression
from transforms.core.saliency.split_half import FEWEST, SplitHalfReliability
from transforms.core.saliency.stopping_rule import StoppingRule

MAX_CELLS = 32
"""Cells a side. A Hadamard matrix of their number, squared, is what larger grids would have to hold."""

Estimator = Literal["regression", "average"]


@dataclass(frozen=True)
class Rise:
    """A RISE design. ``grids`` float32 [N, cells, cells] of 0 and 1; ``shifts`` int [N, 2], row and column.

    ``block`` is how many masks make a block of the design; ``p`` the share of cells that masks keep.
    """

    size: tuple[int, int]
    grids: Float32
    shifts: NDArray[np.int64]
    key: str
    p: float = 0.5
    estimator: Estimator = "regression"
    block: int = 128

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
        """Maps float64 [R, H, W]; see the module's formulas. No [N, H, W] is held."""
        n = check_scores(scores, base, self.n)
        return self._regress(scores) if self.estimator == "regression" else self._average(scores, n)

    def subset(self, rows: NDArray[np.int64]) -> Rise:
        """The design of some of the masks."""
        key = content_id(self.key, rows.tobytes(), letter="k")
        made = Rise(self.size, self.grids[rows], self.shifts[rows], key, self.p, self.estimator, self.block)
        # what depends on the frame and the grid alone is not computed again
        made.__dict__.update({name: getattr(self, name) for name in ("_upsampling", "_patches", "_covariances")})
        return made

    def _regress(self, scores: Float64) -> Float64:
        n = scores.shape[1]
        regression = self._regression if n == self.n else Regression.of(self._features(n))
        rows, columns = self._covariances
        maps = np.empty((len(scores), *self.size))
        for score, out in zip(scores, maps, strict=True):
            coefficients = regression.coefficients(score).reshape(rows.shape[1], columns.shape[1])
            out[:] = (1 - self.p) * (rows @ coefficients @ columns.T)
        return maps

    @cached_property
    def _regression(self) -> Regression:
        return Regression.of(self._features(self.n))

    def _average(self, scores: Float64, n: int) -> Float64:
        """Sums in cell space: masks of one shift share their upsampling, so their grids are added first."""
        kept = self._sum(np.ones(n))
        maps = np.empty((len(scores), *self.size))
        for score, out in zip(scores, maps, strict=True):
            above = score - score[0]  # exactly 0 where all scores are equal, which a rounded mean alone is not
            np.divide(self._sum(above - above.mean()), kept, out=out, where=kept > 0)
            out[kept <= 0] = 0  # what no mask keeps
        return maps

    def _features(self, n: int) -> Float64:
        """The averages of the first ``n`` masks over patches, float64 [n, K]."""
        rows, columns = (patches[self.shifts[:n, axis]] for axis, patches in enumerate(self._patches))
        averages = rows @ self.grids[:n].astype(np.float64) @ columns.transpose(0, 2, 1)
        return averages.reshape(n, -1)

    @cached_property
    def _patches(self) -> tuple[Float64, Float64]:
        """Each axis' upsampling, averaged over patches: float64 [C, patches, cells]."""
        cells = self.grids.shape[1]
        up_y, up_x = self._upsampling
        height, width = (min(PATCHES * cells, side) for side in self.size)
        return area_average(up_y, (height, cells)), area_average(up_x, (width, cells))

    @cached_property
    def _covariances(self) -> tuple[Float64, Float64]:
        """Each axis' factor of the covariance of a pixel with a patch, less p (1 - p): float64 [side, patches]."""
        rows, columns = (
            np.einsum("syc,spc->yp", up.astype(np.float64), patches) / len(up)
            for up, patches in zip(self._upsampling, self._patches, strict=True)
        )
        return rows, columns

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
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
    ]:
        """The first ``n`` masks ordered by shift: their order, where each shift starts in it, and the shifts [S, 2]."""
        shifts = self.shifts[:n]
        order = np.lexsort((shifts[:, 1], shifts[:, 0]))
        at, starts = np.unique(shifts[order], axis=0, return_index=True)
        return order, starts, at


def rise(
    size: tuple[int, int],
    *,
    masks: int = 512,
    cells: int = 8,
    p: float = 0.5,
    sampling: Sampling = "hadamard",
    estimator: Estimator = "regression",
    seed: int = 0,
    bank: int = 0,
) -> Rise:
    """Draws a RISE design.

    Args:
      size: the frame (H, W); not smaller than ``cells`` in either axis.
      masks: N. The paper takes 4,000 to 8,000 independent ones, for classifiers.
      cells: cells a side of the grid (the paper's h and w).
      p: the probability that a cell is kept; 1/2 for "hadamard".
      sampling: how cells and shifts are drawn (``saliency.grids``). estimator: how scores become a map.
      seed: the run's seed. ``bank``: which of several independent sets of masks to draw.
    """
    if masks < 1 or cells < 1 or not 0 < p < 1 or cells > min(size):
        raise ValueError(
            f"RISE needs at least one mask, 1 to {min(size)} cells a side for a {size[0]} x {size[1]} frame and "
            f"0 < p < 1; got masks={masks}, cells={cells}, p={p}"
        )
    if sampling not in get_args(Sampling) or estimator not in get_args(Estimator):
        raise ValueError(f"RISE has no sampling {sampling!r} or no estimator {estimator!r}")
    if cells > MAX_CELLS:
        raise ValueError(
            f"RISE takes at most {MAX_CELLS} cells a side, not {cells}: no network answers to smaller ones"
        )
    if sampling == "hadamard" and p != 0.5:
        raise ValueError(f"hadamard masks keep one half of the cells: p must be 0.5, not {p}; or sample independently")
    key = content_id("rise-2", repr((size, masks, cells, p, sampling, seed, bank)), letter="k")
    cell = (-(-size[0] // cells), -(-size[1] // cells))
    grids, shifts = drawing.draw(sampling, masks, cells, cell, p, np.random.default_rng([seed, bank]))
    return Rise(size, grids, shifts, key, p, estimator, drawing.block(sampling, cells))


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


@dataclass(frozen=True)
class RiseMethod(ConfiguredMethod):
    """RISE; the parameters are those of :func:`transforms.core.saliency.rise.rise`.

    ``banks``: how many independent sets of masks, chosen by the image's content; 0 draws every image its own. With one
    set, all maps of a catalogue share that set's error, which a rate over the catalogue then cannot average away.
    ``converge``: stop when two halves of the masks agree to this correlation for all references; ``masks`` at most.
    """

    name: ClassVar[str] = "rise"
    version: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs(masks=True)
    fill: ClassVar[str] = "auto"
    masks: int = 512
    cells: int = 8
    p: float = 0.5
    sampling: Sampling = "hadamard"
    estimator: Estimator = "regression"
    banks: int = 0
    converge: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.banks < 0 or (self.converge is not None and not 0 < self.converge < 1):
            raise ValueError(f"RISE needs banks >= 0 and 0 < converge < 1, got {self.banks} and {self.converge}")

    @property
    def converges(self) -> bool:
        """Whether it stops when its maps for all references have converged."""
        return self.converge is not None

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """The masks of one bank. Where they stop depends on the pairs, nobody shares their passes."""
        design = self.design(size, 0)
        return MethodCost(design.n, None if self.converges else design.key, self.banks, coefficients=self.cells**2)

    def design(self, size: tuple[int, int], bank: int) -> Rise:
        """The design for frames of ``size`` (H, W) from bank number ``bank``."""
        return rise(
            size,
            masks=self.masks,
            cells=self.cells,
            p=self.p,
            sampling=self.sampling,
            estimator=self.estimator,
            seed=self.seed,
            bank=bank,
        )

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Runs the masked passes, no more of them than ``converge`` asks for."""
        design = self.design_of(image)
        stopping_rule = None
        if self.converge is not None and references is not None:
            stopping_rule = StoppingRule(design, image.function, references, self.converge)
        perturbed = image.perturbed(design, stopping_rule)
        split_half = SplitHalfReliability(design, len(perturbed)) if len(perturbed) >= FEWEST else None
        return Perturbation(design, image.base, perturbed, image.function, split_half)

    def design_of(self, image: ImageView) -> Rise:
        """The design for ``image``."""
        design = image.design(self)
        assert isinstance(design, Rise)
        return design
