"""The garments' outlines: which polygons a garment is laid out of, what region each belongs to and how it is painted.

Coordinates are (x, y) on a pattern sheet 96 wide and 128 high, x to the right and y down, in units of one pixel of
an unmoved, unscaled photograph. ``drawing.py`` moves, turns and scales the sheet. Parts are painted in their order,
later ones over earlier ones. Attributes are drawn larger than a tailor would, so that each of them still shows, and
shows in one place, when the picture is reduced to 96 by 72.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.demo.products import Garment

SHEET = (128, 96)  # height, width
REGIONS = ("ground", "body", "sleeve", "neckline", "detail", "badge")
"""Region names by label: a pixel of a label image holds the index."""
REGIONS_OF = {
    "category": ("body", "sleeve", "neckline", "detail"),
    "colour": ("body", "sleeve"),
    "pattern": ("body", "sleeve"),
    "sleeve": ("sleeve",),
    "neckline": ("neckline",),
    "brand": ("badge",),
}
"""Attribute column -> the regions that show it. "detail" is what makes a category: zip and pockets, waistband, handle.
A brand shows in the badge or nowhere, and no region shows that a garment has no sleeves."""

Point = tuple[float, float]
Outline = tuple[Point, ...]
Paint = Literal["fabric", "trim", "inside", "hole"]
CENTRE = 48.0


@dataclass(frozen=True, slots=True)
class Part:
    """One polygon. "fabric" carries the pattern, "trim" contrasts with the colour, "inside" is the garment's shaded
    inner side, and a "hole" shows the ground again."""

    outline: Outline
    region: str
    paint: Paint = "fabric"


def parts(garment: Garment) -> tuple[Part, ...]:
    """The polygons of ``garment``, in painting order."""
    if garment.category == "trousers":
        return _trousers()
    if garment.category == "skirt":
        return _skirt()
    if garment.category == "bag":
        return _bag()
    shoulder = {"top": 28.0, "dress": 17.0, "jacket": 20.0}[garment.category]
    body = {"top": _top, "dress": _dress, "jacket": _jacket}[garment.category]
    return (
        *_sleeves(garment.sleeve, shoulder, hem={"top": 96.0, "dress": 78.0, "jacket": 100.0}[garment.category]),
        *body(shoulder, garment.sleeve == "none"),
        *_neckline(garment.neckline, shoulder),
    )


def _torso(shoulder: float, bare: bool, waist: tuple[float, float]) -> list[Point]:
    """The right half of a torso, from the neck down to ``waist`` = (half width, y); ``bare`` cuts the armhole in."""
    arm = 12.5 if bare else 19.0
    under_arm = arm + 1 if bare else 19.5
    return [(7.0, shoulder - 3), (arm, shoulder + 1), (under_arm, shoulder + 12), (17.5, shoulder + 23), waist]


def _top(shoulder: float, bare: bool) -> tuple[Part, ...]:
    return (Part(_mirrored([*_torso(shoulder, bare, (17.5, 84)), (18.5, 100)]), "body"),)


def _dress(shoulder: float, bare: bool) -> tuple[Part, ...]:
    skirt: list[Point] = [(22, 96), (28, 117), (14, 120)]
    right = [*_torso(shoulder, bare, (12.5, shoulder + 40)), *skirt]
    belt = [(13.5, shoulder + 37.5), (13.5, shoulder + 42.5)]
    return (Part(_mirrored(right), "body"), Part(_mirrored(belt), "detail", "trim"))


def _jacket(shoulder: float, bare: bool) -> tuple[Part, ...]:
    front = _mirrored([*_torso(shoulder, bare, (21, 84)), (22, 108)])
    zipper = _mirrored([(1.6, shoulder), (1.6, 108)])
    pockets = (((29, 82), (42, 78), (42, 82), (29, 86)), ((67, 82), (54, 78), (54, 82), (67, 86)))
    hem = _mirrored([(22, 103), (22, 109)])
    return (
        Part(front, "body"),
        Part(hem, "detail", "trim"),
        Part(zipper, "detail", "trim"),
        *(Part(pocket, "detail", "trim") for pocket in pockets),
    )


def _trousers() -> tuple[Part, ...]:
    legs = _mirrored([(17.0, 14), (19, 34), (21, 76), (19.5, 117), (6.5, 117), (4, 76), (0.5, 46)])
    band = _mirrored([(17.5, 12), (18.2, 19)])
    return (Part(legs, "body"), Part(band, "detail", "trim"))


def _skirt() -> tuple[Part, ...]:
    cloth = _mirrored([(15, 32), (22, 60), (31, 96), (16, 100), (0, 101)])
    band = _mirrored([(15, 28), (16, 36)])
    return (Part(cloth, "body"), Part(band, "detail", "trim"))


def _bag() -> tuple[Part, ...]:
    handle = _ellipse(CENTRE, 58, 19, 31)
    opening = _ellipse(CENTRE, 58, 13.5, 25)
    sack = _mirrored([(26, 56), (30, 100), (27, 105)])
    flap = _mirrored([(26.5, 54), (28, 63)])
    return (
        Part(handle, "detail", "trim"),
        Part(opening, "ground", "hole"),
        Part(sack, "body"),
        Part(flap, "detail", "trim"),
    )


def _sleeves(sleeve: str | None, shoulder: float, hem: float) -> tuple[Part, ...]:
    right: list[Point]
    if sleeve == "short":
        right = [(12, shoulder), (19, shoulder + 1), (34, shoulder + 22), (24, shoulder + 29), (16, shoulder + 20)]
    elif sleeve == "long":
        right = [
            (12, shoulder),
            (20, shoulder + 1),
            (29, shoulder + 24),
            (39, hem - 2),
            (29.5, hem + 1),
            (16, shoulder + 22),
        ]
    else:
        return ()
    return tuple(Part(tuple((CENTRE + side * x, y) for x, y in right), "sleeve") for side in (1, -1))


def _neckline(neckline: str | None, shoulder: float) -> tuple[Part, ...]:
    y = shoulder - 3.5
    if neckline == "round":
        return (
            Part(_half_ellipse(y, 12, 14.5), "neckline", "trim"),
            Part(_half_ellipse(y, 8.5, 10.5), "neckline", "inside"),
        )
    if neckline == "v":
        return (
            Part(_mirrored([(11, y), (11, y + 3), (0, y + 31)]), "neckline", "trim"),
            Part(_mirrored([(7.5, y), (0, y + 23)]), "neckline", "inside"),
        )
    flap = [(6, y - 5), (13, y + 2), (13.5, y + 15), (0.5, y + 9)]
    return (
        Part(_mirrored([(7, y - 4), (0, y + 9)]), "neckline", "inside"),
        *(Part(tuple((CENTRE + side * x, v) for x, v in flap), "neckline", "trim") for side in (1, -1)),
    )


def _mirrored(right: list[Point]) -> Outline:
    """The outline of which ``right`` is the right half: (distance from the middle, y), from top to bottom."""
    return (*((CENTRE + x, y) for x, y in right), *((CENTRE - x, y) for x, y in reversed(right)))


def _ellipse(x: float, y: float, across: float, down: float, *, turn: float = 2 * math.pi) -> Outline:
    """An ellipse around (x, y), or its lower half for ``turn`` = pi."""
    angles = [turn * step / 32 for step in range(33)]
    return tuple((x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles)


def _half_ellipse(top: float, across: float, down: float) -> Outline:
    return _ellipse(CENTRE, top, across, down, turn=math.pi)
