"""Mask: saliency as what a learned mask hides to bring the similarity down, at a price for what it hides.

R. Fong, A. Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation", ICCV 2017, section 4, in
the form of the code that SANE (Plummer et al., ECCV 2020, section 3.1) is built on. For each reference the cells m of
a small mask, 1 at first, descend by Adam on::

    l1 mean |1 - m| + tv (mean |d_row m|^tv_beta + mean |d_column m|^tv_beta) + s(fill + up(m) (image - fill) + noise)

where s is the similarity, d_row and d_column are differences of neighbours, and up is bilinear with aligned corners.
m is clamped to [0, 1] after every step. Noise is Gaussian and drawn anew in every step. The map is up(1 - m).

Deviations from the paper, all of them the code's: the mask is upsampled bilinearly, where the paper takes a Gaussian;
noise stands for the paper's jitter; the mask starts at 1, where the paper searches for a start; the penalties are means
over the cells, where the paper's are sums. Our own: (1) the code has one noise for each reference; here all references
share a step's noise, for a reference's map would else depend on which others it is explained with. (2) The code's mask
has a fixed number of cells; here a cell is ``factor`` pixels, so frames of any size and shape have one resolution.

0 means: hiding the pixel is not worth its price. 1: the pixel is hidden altogether. Between the two lies a flank, which
the default prices make about five cells wide, so a map says little about where within them a cause ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import (
    ConfiguredMethod,
    Gradient,
    ImageView,
    Maps,
    MethodCost,
    Needs,
    References,
    Saliency,
)

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Adam's own defaults: D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1."""


@dataclass(frozen=True)
class MaskSettings:
    """How a mask is found. The defaults are those of SANE's code; where the paper's differ, it is said and why.

    steps: gradient steps, each a pass of every reference. The paper takes 300, from a start near the end.
    learning_rate: Adam's. It does not fall, so a mask keeps moving with the noise: maps after 150 and after 300 steps
      had r = 0.90 to 0.93 (EfficientNet-Lite0, 112 px, two pairs).
    l1, tv, tv_beta: the price of hidden cells, the price of differences between neighbours, and its exponent. The
      paper's prices, 1e-4 and 1e-2, are for a class probability; SANE chose these for similarities. On a pair of those
      above, the paper's gave a map with r = 0.89 to the default's.
    noise: its standard deviation, in units of the normalised input.
    factor: pixels a side of a cell: 28 x 28 cells at 224 x 224 as in the paper, and ceil(H / 8) x ceil(W / 8) cells for
      any frame.
    seed: the run's seed, which the noise is drawn from.
    """

    steps: int = 500
    learning_rate: float = 0.1
    l1: float = 0.01
    tv: float = 0.2
    tv_beta: float = 3.0
    noise: float = 0.2
    factor: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.learning_rate, self.l1, self.tv, self.tv_beta, self.noise)
        if (
            self.steps < 1
            or self.factor < 1
            or self.seed < 0
            or not np.isfinite(numbers).all()
            or not (self.learning_rate > 0 and self.l1 >= 0 and self.tv >= 0 and self.tv_beta >= 1 and self.noise >= 0)
        ):
            raise ValueError(
                f"Mask needs steps >= 1, factor >= 1, seed >= 0, learning_rate > 0, l1, tv and noise >= 0 and "
                f"tv_beta >= 1, all finite; got {self}"
            )

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """The cells (h, w) of a mask for a frame (H, W)."""
        return -(-size[0] // self.factor), -(-size[1] // self.factor)


def optimise(
    gradient: Gradient, references: Float32, settings: MaskSettings | None = None, *, chunk: int = 64
) -> Float64:
    """Maps float64 [R, H, W] in [0, 1] of the image that ``gradient`` stands for, one for each reference.

    A map depends on its own reference alone, to the bit, if the gradient's rows do. Takes ``settings.steps`` passes a
    reference.

    Args:
      gradient: the image and its fill; the paper's is the blurred image.
      references: embeddings [R, D].
      settings: the defaults where None.
      chunk: how many references descend together. It bounds memory, and changes nothing else.
    """
    settings = settings or MaskSettings()
    _check(references, chunk)
    maps = np.empty((len(references), *gradient.size))
    for start in range(0, len(references), chunk):
        some = references[start : start + chunk]
        masks = _Masks(gradient, len(some), settings)
        for _ in range(settings.steps):
            masks.descend(some)
        maps[start : start + chunk] = masks.maps()
    return maps


def optimise_both(
    query: Gradient, reference: Gradient, references: Float32, settings: MaskSettings | None = None
) -> tuple[Float64, Float64]:
    """Maps float64 [R, H, W] of the query and of each reference, where both images of a pair are masked.

    In SANE's code one loss holds both images' masks, so each image has half the weight of its penalties; so here. In
    each step the query's masks take a step against the references' masked embeddings, then the references' masks
    against the query's. A pass gives the embedding of the masks as they were before its step; with that, the newest
    that is known, a step costs one pass on either side, as in the code, whose steps are simultaneous. In the first
    step no pass has been made: the query's masks descend against ``references``, which differ from what a pass would
    give by the noise alone, for all masks are 1.

    All R pairs are one batch: the caller bounds R. Takes ``settings.steps`` passes a pair on either side.

    Args:
      query: the query image and its fill.
      reference: R images and their fills, row by row: a call's row b masks reference image b.
      references: the embeddings [R, D] of the reference images as they are.
      settings: the defaults where None.
    """
    settings = settings or MaskSettings()
    _check(references)
    if not len(references):
        return np.empty((0, *query.size)), np.empty((0, *reference.size))
    half = replace(settings, l1=settings.l1 / 2, tv=settings.tv / 2)
    ours, theirs = _Masks(query, len(references), half), _Masks(reference, len(references), half, stream=1)
    for _ in range(settings.steps):
        embeddings = ours.descend(references)
        references = theirs.descend(embeddings)
    return ours.maps(), theirs.maps()


def penalty_gradient(cells: Float64, settings: MaskSettings) -> Float64:
    """The gradient [R, h, w] of the two penalties of the module's loss in ``cells`` float64 [R, h, w].

    At a kink, which is where a cell is 1 or equals its neighbour, it is 0, as in torch. A mask of one row has no
    neighbours across rows, and no such penalty.
    """
    _, height, width = cells.shape
    slope: Float64 = -settings.l1 / (height * width) * np.sign(1 - cells)
    for axis, pairs in ((1, (height - 1) * width), (2, height * (width - 1))):
        if not pairs:
            continue
        difference = np.diff(cells, axis=axis)
        steep = np.abs(difference) ** (settings.tv_beta - 1) * np.sign(difference)
        steep *= settings.tv * settings.tv_beta / pairs
        first, second = (slope[:, :-1], slope[:, 1:]) if axis == 1 else (slope[:, :, :-1], slope[:, :, 1:])
        first -= steep
        second += steep
    return slope


def upsampling(side: int, cells: int) -> Float64:
    """Bilinear weights [side, cells] with the corners aligned: the first and last pixel are the first and last cell.

    A side of one pixel is the first cell, and a single cell is every pixel.
    """
    position = np.arange(side) * ((cells - 1) / (side - 1) if side > 1 else 0.0)
    low = np.minimum(position.astype(int), cells - 1)
    weights = np.zeros((side, cells))
    np.add.at(weights, (np.arange(side), low), 1 - (position - low))
    np.add.at(weights, (np.arange(side), np.minimum(low + 1, cells - 1)), position - low)
    return weights


class _Masks:
    """One mask a row, all of one ``gradient``, and Adam's state. ``stream`` tells the two sides' noise apart.

    Products are stacks of one matrix a row, and everything else goes cell by cell, so no row sees another.
    """

    def __init__(self, gradient: Gradient, rows: int, settings: MaskSettings, stream: int = 0) -> None:
        self._gradient, self._settings = gradient, settings
        (height, width), (h, w) = gradient.size, settings.cells(gradient.size)
        self._rows, self._columns = upsampling(height, h), upsampling(width, w)
        self._cells = np.ones((rows, h, w))
        self._mean, self._square = np.zeros((2, rows, h, w))
        self._noise = _noise(gradient.size, settings, stream)
        self._step = 0

    def descend(self, references: Float32) -> Float32:
        """Takes one step against ``references`` [R, D]; the embeddings [R, D] are those of the masks before it."""
        masks = self._upsample(self._cells).astype(np.float32)
        _, slope, embeddings = self._gradient(masks, references, next(self._noise))
        towards = np.matmul(self._rows.T @ slope.astype(np.float64), self._columns)
        self._adam(towards + penalty_gradient(self._cells, self._settings))
        return embeddings

    def maps(self) -> Float64:
        """1 - mask [R, H, W], exactly 0 where the cells around have never left 1."""
        hidden: Float64 = np.minimum(self._upsample(1 - self._cells), 1)
        return hidden

    def _upsample(self, cells: Float64) -> Float64:
        up: Float64 = np.matmul(self._rows @ cells, self._columns.T)
        return up

    def _adam(self, slope: Float64) -> None:
        self._step += 1
        first, second = BETAS
        self._mean += (1 - first) * (slope - self._mean)
        self._square += (1 - second) * (slope * slope - self._square)
        scale = np.sqrt(self._square / (1 - second**self._step)) + EPSILON
        self._cells -= self._settings.learning_rate / (1 - first**self._step) * self._mean / scale
        np.clip(self._cells, 0, 1, out=self._cells)


def _noise(size: tuple[int, int], settings: MaskSettings, stream: int) -> Iterator[Float32 | None]:
    """Each step's noise float32 [1, H, W, 3], from the seed alone; None where there is none."""
    rng = np.random.default_rng([settings.seed, stream])
    while True:
        if settings.noise == 0:
            yield None
        else:
            yield rng.standard_normal((1, *size, 3), dtype=np.float32) * np.float32(settings.noise)


def _check(references: Float32, chunk: int = 1) -> None:
    """ValueError where ``references`` is not [R, D] or a chunk holds no row."""
    if references.ndim != 2 or chunk < 1:
        raise ValueError(f"expected references [R, D] and chunk >= 1, got {references.shape} and {chunk}")


PAIRS = 64
"""Pairs whose two masks are optimised together; it bounds memory and changes no result."""


@dataclass(frozen=True)
class MaskMethod(MaskSettings, ConfiguredMethod):
    """Mask; the parameters are those of :class:`transforms.core.saliency.mask.MaskSettings`."""

    name: ClassVar[str] = "mask"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs("gradient", image_first=False, optimises=True)
    fill: ClassVar[str] = "blur"

    def cost(self, size: tuple[int, int]) -> MethodCost:
        """A pass of the gradient for each step towards a reference."""
        return MethodCost(steps=self.steps)

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        """Runs nothing yet: every reference has passes of its own."""
        return _Optimised(image.gradient(), replace(self, seed=image.seed(self.seed)))


@dataclass(frozen=True)
class _Optimised:
    gradient: Gradient
    settings: MaskSettings

    def reliability_by_chance(self, references: References, seed: int) -> None:
        """None: there are no masks that could be halved."""

    def maps(self, references: References) -> Maps:
        if references.gradients is None:
            return Maps(optimise(self.gradient, references.embeddings, self.settings), self.settings.steps)
        count = len(references.embeddings)
        done = []
        for start in range(0, count, PAIRS):
            stop = min(start + PAIRS, count)
            other = references.gradients(start, stop)
            done.append(optimise_both(self.gradient, other, references.embeddings[start:stop], self.settings)[0])
        return Maps(np.concatenate(done), 2 * self.settings.steps)
