"""Which cells RISE's masks keep, and by how much each mask is shifted: independent draws, or a design.

"independent": every cell by a draw of its own, as in the paper (Petsiuk et al., BMVC 2018, section 3.2).

"sobol": the points of one scrambled Sobol sequence (Sobol' 1967; Owen, "Randomly permuted (t,m,s)-nets", 1995), a
dimension for every cell and two for the shift.

"hadamard": a fold-over design (Box, Hunter, "The 2^(k-p) fractional factorial designs", Technometrics 1961). A block
takes the rows of a Hadamard matrix of the next order that has a column for every cell, rows and columns permuted and
columns' signs drawn: within a block, no cell's effect on the similarity is mixed with another's. Each mask is followed
by its complement, and so no cell's effect is mixed with that of any two cells together. Every ``SHIFTED`` rows, with
their complements, share a shift. One shift for a whole block is a little better for the mean over masks (r = 0.972
against 0.951 at 512 masks; 0.977 against 0.976 with the regression of ``saliency.regression``), but 128 masks then see
one lattice, and the map's peak snaps to it.

Complements alone, without the matrix, make the mean over masks worse than independent draws do.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from transforms.core.records import Float32

Sampling = Literal["independent", "sobol", "hadamard"]

SHIFTED = 8
"""Rows of a Hadamard block that share a shift."""

Grids = tuple[Float32, NDArray[np.int64]]


def draw(
    sampling: Sampling, masks: int, cells: int, cell: tuple[int, int], p: float, rng: np.random.Generator
) -> Grids:
    """Grids float32 [N, cells, cells] of 0 and 1, and shifts int64 [N, 2] of 0 to ``cell`` - 1 pixels.

    Any first masks of a design are one. ``p`` is the share of kept cells; it is 1/2 for "hadamard".
    """
    if sampling == "independent":
        grids = (rng.random((masks, cells, cells)) < p).astype(np.float32)
        return grids, rng.integers(0, cell, size=(masks, 2))
    return _sobol(masks, cells, cell, p, rng) if sampling == "sobol" else _fold_over(masks, cells, cell, rng)


def block(sampling: Sampling, cells: int) -> int:
    """How many masks make a block; blocks of a design are independent of each other, or nearly."""
    return 2 * _order(cells) if sampling == "hadamard" else 128


def _sobol(masks: int, cells: int, cell: tuple[int, int], p: float, rng: np.random.Generator) -> Grids:
    from scipy.stats import qmc  # takes a second to import, which no other design should cost

    sequence = qmc.Sobol(cells * cells + 2, scramble=True, rng=rng)
    points = sequence.random_base2(max(masks - 1, 0).bit_length())[:masks]
    grids = (points[:, :-2] < p).astype(np.float32).reshape(masks, cells, cells)
    return grids, (points[:, -2:] * cell).astype(np.int64)


def _fold_over(masks: int, cells: int, cell: tuple[int, int], rng: np.random.Generator) -> Grids:
    order = _order(cells)
    signs = _signs(order)
    grids, shifts = [], []
    for _ in range(-(-masks // (2 * order))):
        rows = signs[rng.permutation(order)][:, rng.permutation(order)[: cells * cells]]
        rows = rows * rng.choice(np.array([-1, 1], np.float32), cells * cells)
        grids.append(np.stack([rows, -rows], axis=1).reshape(-1, cells, cells))
        of_groups = rng.integers(0, cell, size=(-(-order // SHIFTED), 2))
        shifts.append(np.repeat(of_groups, 2 * SHIFTED, axis=0)[: 2 * order])
    kept = (np.concatenate(grids)[:masks] + 1) / 2
    return kept.astype(np.float32, copy=False), np.concatenate(shifts)[:masks]


@cache
def _signs(order: int) -> Float32:
    signs: Float32 = hadamard(order, np.int8).astype(np.float32)
    return signs


def _order(cells: int) -> int:
    """The order of the smallest Hadamard matrix of Sylvester's that has a column for every cell."""
    return 1 << max(cells * cells - 1, 1).bit_length()
