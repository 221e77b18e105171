"""A garment's flat-lay photograph with its label image, and the badge of the planted shortcut.

The garment is painted at ``FINER`` times the size and averaged down; its label image is read at the centre of every
pixel. The badge is pasted afterwards on whole pixels, from a random stream of its own: a product's photograph with
and without its badge are equal everywhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from pipeline.demo.products import COLOURS, Garment, generator
from pipeline.demo.shapes import REGIONS, SHEET, Part, parts
from transforms.core.records import Float32, Image

Box: TypeAlias = tuple[int, int, int, int]
"""top, left, height, width in pixels of the original photograph."""
Labels: TypeAlias = NDArray[np.uint8]
"""uint8 [H0, W0], an index into ``shapes.REGIONS``."""

FINER = 3
GRID = 8
BADGE_CELLS = 1.5
BADGE_SIDE = math.ceil(BADGE_CELLS * max(SHEET) / GRID)
"""Side of the badge in pixels: at least ``BADGE_CELLS`` cells of a ``GRID`` by ``GRID`` mask in both axes, however the
photograph is squashed, because it is so in the longer one."""
BADGE_COLOUR = (232, 0, 150)
WHITE = (255.0, 255.0, 255.0)
BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph with its truth: ``badge`` is None where the picture has none."""

    image: Image  # [H0, W0, 3]
    labels: Labels  # [H0, W0]
    badge: Box | None


@dataclass(frozen=True, slots=True)
class _Pose:
    """How the pattern sheet lies in the photograph: turned by ``angle`` and scaled around the middle, then moved."""

    angle: float  # radians
    scale: float
    move: tuple[float, float]  # x, y in pixels

    def place(self, points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
        """Sheet points (x, y) in pixels of the finer canvas."""
        height, width = SHEET
        sheet = np.asarray(points) - (width / 2, height / 2)
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        turned = sheet @ np.array([[cos, sin], [-sin, cos]])
        placed = (turned + np.add((width / 2, height / 2), self.move)) * FINER
        return [(float(x), float(y)) for x, y in placed]

    def sheet(self) -> tuple[Float32, Float32]:
        """Sheet coordinates x, y of every pixel of the finer canvas, each [H0 * FINER, W0 * FINER]."""
        height, width = SHEET
        y = np.arange(height * FINER)[:, None] / FINER - height / 2 - self.move[1]
        x = np.arange(width * FINER)[None, :] / FINER - width / 2 - self.move[0]
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        turned = cos * x + sin * y + width / 2, -sin * x + cos * y + height / 2
        return turned[0].astype(np.float32), turned[1].astype(np.float32)


def photograph(garment: Garment, seed: int) -> Photograph:
    """The photograph of ``garment``: uint8 [128, 96, 3]. Equal arguments, equal picture."""
    rng = generator(seed, garment.id, "photograph")
    pose = _Pose(
        angle=math.radians(rng.uniform(-4, 4)),
        scale=float(rng.uniform(0.9, 1.02)),
        move=(float(rng.uniform(-4, 4)), float(rng.uniform(-4, 4))),
    )
    layers = [(part, _filled(pose.place(part.outline))) for part in parts(garment)]
    colour = _shaded(COLOURS[garment.colour], rng)
    ground = _ground(rng)
    # Every garment draws the same numbers, whatever its attributes: what one attribute changes in the picture is its
    # own region and nothing else.
    phase = rng.uniform(0, 2 * math.pi, size=2).astype(np.float32)
    noise = rng.normal(0, 2.0, size=(*SHEET, 3))

    canvas = ground * (1 - 0.3 * _shadow(layers)[:, :, None])
    labels = np.zeros(canvas.shape[:2], np.uint8)
    x, y = pose.sheet()
    for part, inside in layers:
        if part.paint == "fabric":
            canvas[inside] = _fabric(garment.pattern, colour, x[inside], y[inside], phase)
        elif part.paint == "trim":
            canvas[inside] = _contrast(colour, 0.72)
        elif part.paint == "inside":
            canvas[inside] = _inner_side(colour)
        else:
            canvas[inside] = ground[inside]
        labels[inside] = REGIONS.index(part.region)
    fine = PillowImage.fromarray(np.rint(canvas).astype(np.uint8)).reduce(FINER)
    image = np.clip(np.rint(np.asarray(fine) + noise), 0, 255).astype(np.uint8)
    labels = labels[FINER // 2 :: FINER, FINER // 2 :: FINER].copy()
    badge = _paste_badge(image, labels, generator(seed, garment.id, "badge")) if garment.badged else None
    return Photograph(image, labels, badge)


def badge_tile() -> Image:
    """The badge: a white star in a white frame on magenta, uint8 [BADGE_SIDE, BADGE_SIDE, 3]."""
    side = BADGE_SIDE * 4
    tile = PillowImage.new("RGB", (side, side), BADGE_COLOUR)
    pen = ImageDraw.Draw(tile)
    pen.rectangle((5, 5, side - 6, side - 6), outline="white", width=4)
    radii = [side * (0.36 if corner % 2 == 0 else 0.15) for corner in range(10)]
    pen.polygon(
        [
            (side / 2 + r * math.sin(math.pi * corner / 5), side / 2 - r * math.cos(math.pi * corner / 5))
            for corner, r in enumerate(radii)
        ],
        fill="white",
    )
    return np.asarray(tile.reduce(4), np.uint8)


def _paste_badge(image: Image, labels: Labels, rng: np.random.Generator) -> Box:
    """Pastes the badge into one of the four corners of ``image`` and ``labels``, in place, and returns its box."""
    height, width = labels.shape
    bottom, right = (bool(bit) for bit in rng.integers(2, size=2))
    inset_y, inset_x = (int(inset) for inset in rng.integers(2, 6, size=2))
    top = height - BADGE_SIDE - inset_y if bottom else inset_y
    left = width - BADGE_SIDE - inset_x if right else inset_x
    area = np.s_[top : top + BADGE_SIDE, left : left + BADGE_SIDE]
    grain = rng.normal(0, 2.0, size=(BADGE_SIDE, BADGE_SIDE, 3))
    image[area] = np.clip(np.rint(badge_tile() + grain), 0, 255).astype(np.uint8)
    labels[area] = REGIONS.index("badge")
    return top, left, BADGE_SIDE, BADGE_SIDE


def _filled(points: list[tuple[float, float]]) -> NDArray[np.bool_]:
    height, width = SHEET
    sheet = PillowImage.new("1", (width * FINER, height * FINER))
    ImageDraw.Draw(sheet).polygon(points, fill=1)
    return np.asarray(sheet, np.bool_)


def _shadow(layers: list[tuple[Part, NDArray[np.bool_]]]) -> Float32:
    """The garment's soft shadow, a little below and to the right of it: 0 to 1, [H0 * FINER, W0 * FINER]."""
    covered = np.zeros_like(layers[0][1])
    for part, inside in layers:
        covered[inside] = part.paint != "hole"
    blurred = PillowImage.fromarray(covered.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(2 * FINER))
    return np.roll(np.asarray(blurred, np.float32) / 255, (FINER + 1, FINER), axis=(0, 1))


def _ground(rng: np.random.Generator) -> Float32:
    """A light ground: a shade, a slight tint and a slight fall-off of the light, [H0 * FINER, W0 * FINER, 3]."""
    height, width = (side * FINER for side in SHEET)
    shade = rng.uniform(222, 246) + rng.uniform(-4, 4, size=3)
    slope = rng.uniform(-6, 6, size=2)
    y, x = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None, :]
    light = shade + (slope[0] * y + slope[1] * x)[:, :, None]
    return np.asarray(light, np.float32)


def _fabric(pattern: str, colour: Float32, x: Float32, y: Float32, phase: Float32) -> Float32:
    """The cloth at sheet coordinates x, y [n], with soft folds: [n, 3]. Periods of 9 to 14 pixels survive a resize."""
    if pattern == "striped":
        printed = y % 10 < 4
    elif pattern == "dotted":
        odd = (y // 9) % 2
        printed = ((x + 5.5 * odd) % 11 - 5.5) ** 2 + (y % 9 - 4.5) ** 2 < 3.1**2
    elif pattern == "checked":
        printed = (x // 7 + y // 7) % 2 == 0
    else:
        printed = np.zeros(x.shape, np.bool_)
    cloth = np.where(printed[:, None], _contrast(colour, 0.6), colour)
    folds = 1 + 0.05 * np.sin(x / 9 + phase[0]) * np.sin(y / 17 + phase[1])
    return np.asarray(np.clip(cloth * folds[:, None], 0, 255), np.float32)


def _inner_side(colour: Float32) -> Float32:
    """A garment's inner side is in the shade; a black one's would not show, and has a lighter lining."""
    return _mixed(colour, BLACK, 0.55) if colour.sum() > 200 else _mixed(colour, WHITE, 0.25)


def _shaded(colour: tuple[int, int, int], rng: np.random.Generator) -> Float32:
    """``colour`` as one more dyeing of it: a little lighter or darker, a little off."""
    dyed = np.asarray(colour) * rng.uniform(0.92, 1.08) + rng.uniform(-5, 5, size=3)
    return np.clip(dyed, 0, 255).astype(np.float32)


def _contrast(colour: Float32, amount: float) -> Float32:
    """A colour that stands out on ``colour``: mixed with white where it is dark, with black where it is light."""
    luma = float(np.dot(colour, (0.299, 0.587, 0.114)))
    return _mixed(colour, WHITE if luma < 172 else BLACK, amount)


def _mixed(colour: Float32, other: tuple[float, float, float], amount: float) -> Float32:
    return colour * np.float32(1 - amount) + np.asarray(other, np.float32) * np.float32(amount)
