"""Boxes around the regions of a photograph, as a catalogue's cell gives them.

They are JSON text: ``{"logo": [[10, 20, 30, 40]]}`` maps each name to its boxes [top, left, height, width], in pixels
of the photograph after EXIF. They may overlap and reach beyond the picture; a pixel belongs to the smallest of its
boxes, for that is the more specific one: a logo on a shirt is the logo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from transforms import storage
from transforms.core.errors import BadBoxes
from transforms.core.imaging.regions import OUTSIDE, FrameRegions
from transforms.core.messages import quoted
from transforms.core.records import Float64, Frame
from transforms.inputs.region_legend import check_region_name, distinct_names

MAX_BOXES_TEXT = 2**13
"""Characters of the boxes of one photograph."""
MAX_NAMES = 64
"""Names of one photograph's boxes, and labels of one that the legend does not name."""
MAX_BOXES = 256
"""Of one photograph, all names together."""
BOXES_EXAMPLE = '{"logo": [[10, 20, 30, 40]]}'


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original after EXIF; it may reach beyond the picture."""

    top: float
    left: float
    height: float
    width: float

    def edges(self, original: tuple[int, int]) -> tuple[float, float, float, float]:
        """Top, left, bottom and right of the part inside of a picture of the size ``original`` (H0, W0)."""
        bottom, right = min(self.top + self.height, original[0]), min(self.left + self.width, original[1])
        return max(self.top, 0.0), max(self.left, 0.0), bottom, right


def read_boxes(text: str) -> dict[str, tuple[Box, ...]]:
    """The boxes in JSON ``text``, by name, in the order of the text; BadBoxes, and nothing else, where it is none.

    At most ``MAX_BOXES_TEXT`` characters, ``MAX_NAMES`` names and ``MAX_BOXES`` boxes. A name may have no boxes, and
    ``{}`` says that nothing was found. Coordinates are finite numbers, heights and widths above 0.
    """
    try:
        if len(text) > MAX_BOXES_TEXT:
            raise ValueError(f"the text has more than {MAX_BOXES_TEXT:,} characters")
        # integers as floats, too: one of thousands of digits is infinite, and refused as that
        made = json.loads(text, object_pairs_hook=distinct_names, parse_int=float, parse_constant=_refuse_constant)
        return _boxes(made)
    except (ValueError, RecursionError) as error:
        raise BadBoxes(
            f"the boxes of the photograph cannot be read: {storage.redact(str(error))}. Expected is JSON like "
            f"{BOXES_EXAMPLE}: for each name boxes [top, left, height, width] in pixels of the photograph after EXIF."
        ) from None


def boxes_in_frame(boxes: Mapping[str, Sequence[Box]], frame: Frame) -> FrameRegions:
    """The regions inside of ``boxes`` in ``frame``; BadBoxes where a box lies outside of the original.

    A pixel of the frame lies in a box where its centre does, the upper and left edge included, as for
    :func:`transforms.core.imaging.regions.labels_in_frame`. Of several boxes it belongs to the one with the smallest
    area inside of the original, of equal ones to the first.
    """
    parts = []
    for place, (name, some) in enumerate(boxes.items()):
        for box in some:
            top, left, bottom, right = edges = box.edges(frame.original)
            if top >= bottom or left >= right:
                height, width = frame.original
                raise BadBoxes(
                    f"a box of {quoted(name)} lies outside of its photograph of {height} x {width} pixels (height x "
                    "width, after EXIF); boxes are [top, left, height, width] in its pixels"
                )
            parts.append(((bottom - top) * (right - left), place, edges))
    # sorting keeps the order of equal ones, and what is drawn last wins
    parts.sort(key=lambda part: part[0])
    rows = _centres(frame.size[0], frame.box[0], frame.box[2])
    columns = _centres(frame.size[1], frame.box[1], frame.box[3])
    labels = np.full(frame.size, OUTSIDE, np.int64)
    for _, place, (top, left, bottom, right) in reversed(parts):
        labels[np.ix_((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))] = place
    return FrameRegions(labels, tuple(boxes))


def _centres(pixels: int, start: float, length: float) -> Float64:
    """Along one axis: where in the original the centres of the frame's ``pixels`` lie."""
    centres: Float64 = start + (np.arange(pixels) + 0.5) * length / pixels
    return centres


def _boxes(content: Any) -> dict[str, tuple[Box, ...]]:
    """The boxes in a JSON document; ValueError where it is none."""
    if not isinstance(content, dict):
        raise ValueError("it is no object with boxes for each name")
    if len(content) > MAX_NAMES:
        raise ValueError(f"it has {len(content)} names, at most {MAX_NAMES} are taken")
    for name, some in content.items():
        check_region_name(name)
        if not isinstance(some, list):
            raise ValueError(f"{quoted(name)} has no list of boxes")
    if (count := sum(map(len, content.values()))) > MAX_BOXES:
        raise ValueError(f"it has {count} boxes, at most {MAX_BOXES} are taken")
    return {name: tuple(_box(name, one) for one in some) for name, some in content.items()}


def _box(name: str, content: Any) -> Box:
    if not (
        isinstance(content, list)
        and len(content) == 4
        and all(isinstance(number, float) and math.isfinite(number) for number in content)
        and min(content[2:]) > 0
    ):
        raise ValueError(f"a box of {quoted(name)} is no list of four numbers with a height and a width above 0")
    return Box(*content)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
