"""The bytes that a configuration needs, known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.core.similarity import SimilarityFunction, rows_kept

DEFAULT_BATCH = {"cpu": 16, "cuda": 256}
"""Forward passes at once: few on a CPU, where larger batches leave the cache and are slower."""


CHUNK = 256
"""References that are estimated together; it bounds memory and changes no result."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Peak bytes of one worker process beyond its libraries, by what needs them."""

    bank: int
    embeddings: int
    estimate: int
    decode: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.bank + self.embeddings + self.estimate + self.decode


def bank_bytes(masks: int, size: tuple[int, int]) -> int:
    """Bytes of one float32 mask bank [N, H, W]."""
    return 4 * masks * size[0] * size[1]


@dataclass(frozen=True, slots=True)
class Workload:
    """What explaining one query takes.

    Attributes:
      masks, banks, size: N, how many banks, and the frame (H, W). ``hold``: whether the banks stay in memory.
      batch: forward passes at once. dimension: D. chunk: references that are estimated together.
      max_pixels: the largest image that is decoded.
      grid: G, the cells of a mask's grid that the estimate sums over.
      conditions: whether embeddings are kept as they are, and compared under one condition after the other.
    """

    masks: int
    banks: int
    size: tuple[int, int]
    batch: int
    dimension: int
    chunk: int
    max_pixels: int
    hold: bool
    grid: int = 64
    conditions: bool = False


def plan(load: Workload) -> MemoryPlan:
    """The memory of explaining one query."""
    masks, size, dimension, chunk, grid = load.masks, load.size, load.dimension, load.chunk, load.grid
    held = masks * load.banks if load.hold else min(load.batch, masks)
    copies = 4 if load.conditions else 0  # float32, of the one condition that is being estimated
    return MemoryPlan(
        bank=bank_bytes(held, size),
        # float32 as they come, a float64 copy, and differences; scores; references in both precisions
        embeddings=(20 + copies) * (masks + 1) * dimension + chunk * (8 * masks + (12 + copies) * dimension),
        # the maps and a few planes; grids in both precisions; either sums over them, ordered by shift and weighted, or
        # the regression's features, four a cell, on their way, and its system
        estimate=8 * size[0] * size[1] * (chunk + 6) + 90 * masks * grid + 16 * min(masks, 4 * grid) ** 2,
        # Pillow's decoded image, its copies for alpha and RGB, and the array: 1 GB for 64 million pixels, measured
        decode=16 * load.max_pixels,
    )


def gradient_bytes(size: tuple[int, int], pairs: int) -> int:
    """Bytes of ``pairs`` pairs whose masks follow a gradient, the network's own activations apart.

    Masks and slopes in float32 and float64, Adam's moments, images uint8 and their blurred fills, of either image.
    """
    return pairs * size[0] * size[1] * 2 * (2 * 4 + 5 * 8 + 3 + 3 * 4)


def reference_bytes(masks: int, dimension: int, chunk: int, function: SimilarityFunction, conditions: int = 0) -> int:
    """Bytes of the ``masks`` masked versions of a reference, and of what ``chunk`` references keep of them.

    That is what :func:`transforms.core.similarity.reduce_perturbed` says, and what of it is compared under one of the
    ``conditions``: one by one, then together.
    """
    if not masks:
        return 0
    kept = rows_kept(masks, conditions, function)
    compared = masks if function == "euclidean" else 1
    copies = 8 if conditions else 4
    return 20 * masks * dimension + chunk * (4 * kept + copies * compared) * dimension


def megabytes(count: int) -> str:
    """``count`` bytes in words, such as "383 MiB"."""
    return f"{count / 2**20:,.0f} MiB"
