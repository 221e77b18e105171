"""The regions of a product's photograph: their names and their pixels, from a label image and its legend or from boxes.

Boxes are JSON text: ``{"logo": [[10, 20, 30, 40]]}`` maps each name to its boxes [top, left, height, width], in pixels
of the photograph after EXIF. They may overlap and reach beyond the picture; a pixel belongs to the smallest of its
boxes, for that is the more specific one: a logo on a shirt is the logo.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from transforms import storage
from transforms.core.errors import BadBoxes, NotAnImage, UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.imaging.region_shares import NO_REGION
from transforms.core.imaging.regions import MOST_LABEL, OUTSIDE, decode_labels, labels_in_frame
from transforms.core.messages import listed, quoted
from transforms.core.records import Float64, Frame, Product
from transforms.inputs.lines import is_unicode

MAX_BYTES = 2**20
"""Of a legend."""
MAX_BOXES_TEXT = 2**13
"""Characters of the boxes of one photograph."""
MAX_NAMES = 64
"""Names of one photograph's boxes, and labels of one that the legend does not name."""
MAX_BOXES = 256
"""Of one photograph, all names together."""
BOXES_EXAMPLE = '{"logo": [[10, 20, 30, 40]]}'

_BOXES = "boxes:"  # begins a source of boxes; a resolved address is a path from the root, or begins with its scheme
_UNNAMED = "(label "


@dataclass(frozen=True)
class Legend:
    """What the labels of a catalogue's label images mean.

    ``regions`` maps a region's name to its label, ``columns`` an attribute column of the catalogue to the names of the
    regions that show it.
    """

    regions: Mapping[str, int]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def labels(self, name: str) -> frozenset[int]:
        """The labels of the region ``name``, or of the regions that show the column ``name``.

        A name may be both, as of a garment's sleeve and a column that says how long it is: then it is the region.
        UsageError where it is neither.
        """
        if name in self.regions:
            return frozenset([self.regions[name]])
        if name in self.columns:
            return frozenset(self.regions[region] for region in self.columns[name])
        columns = f", and of the columns {listed(list(self.columns))}" if self.columns else ""
        raise UsageError(
            f"{quoted(name)} is no region that the legend knows; it tells of the regions "
            f"{listed(list(self.regions))}{columns}"
        )

    def shows(self, region: str, attribute: str) -> bool | None:
        """Whether ``region`` shows the column of ``attribute``, a name ``column=value``.

        None where the legend does not say: it does not tell of the column, or does not know the region, such as what
        lies elsewhere.
        """
        column = attribute.partition("=")[0]
        if column not in self.columns or region not in self.regions:
            return None
        return region in self.columns[column]


@dataclass(frozen=True, eq=False)
class FrameRegions:
    """The regions that the model's input frame shows, which are disjoint.

    ``labels`` int64 [H, W] are places in ``names``, ``OUTSIDE`` (-1) where a pixel is of no region: beside the
    original, or in none of the boxes. A region may have no pixel.
    """

    labels: NDArray[np.int64]  # [H, W]
    names: tuple[str, ...]


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


@dataclass(frozen=True)
class RegionReader:
    """Reads regions under limits; ``legend`` names the labels of label images."""

    access: storage.Access
    limits: ImageLimits
    legend: Legend

    def region(self, address: str, frame: Frame, labels: frozenset[int]) -> NDArray[np.bool_]:
        """Where in ``frame`` the label image at ``address`` has one of ``labels``: bool [H, W], perhaps nowhere True.

        What the frame shows beside the original belongs to no region. PairError, and nothing else, for bad input: also
        where the label image has another size than the photograph, both after EXIF, for then it is of another picture.
        """
        return np.isin(self._labels(address, frame), sorted(labels))

    def frame(self, source: str, frame: Frame) -> FrameRegions:
        """The regions of ``source`` in ``frame``; PairError, and nothing else, for bad input.

        ``source`` is from :func:`source_of`. A label image's regions have the legend's names, in its order; of several
        names for one label the first. A label that the legend does not name is "(label 7)".
        """
        if source.startswith(_BOXES):
            return boxes_in_frame(read_boxes(source.removeprefix(_BOXES)), frame)
        found = self._labels(source, frame)
        names: dict[int, str] = {}
        for name, label in self.legend.regions.items():
            names.setdefault(label, name)
        unnamed = [int(label) for label in np.unique(found) if label != OUTSIDE and int(label) not in names]
        if len(unnamed) > MAX_NAMES:
            raise NotAnImage(
                f"the label image has {len(unnamed)} labels that the legend does not name, at most {MAX_NAMES} are "
                "taken; is it the photograph itself, or has it a label for each object?"
            )
        places = np.full(MOST_LABEL + 2, OUTSIDE, np.int64)  # the last one stands for OUTSIDE, which is -1
        places[[*names, *unnamed]] = np.arange(len(names) + len(unnamed))
        return FrameRegions(places[found], (*names.values(), *(f"{_UNNAMED}{label})" for label in unnamed)))

    def _labels(self, address: str, frame: Frame) -> NDArray[np.int64]:
        """The labels in ``frame``, int64 [H, W]."""
        found = decode_labels(storage.read_image(address, self.access), self.limits)
        if found.shape != frame.original:
            labelled, photographed = (f"{height} x {width}" for height, width in (found.shape, frame.original))
            raise NotAnImage(
                f"the label image has {labelled} pixels (height x width) and its photograph {photographed}; "
                "a label image has one label for every pixel of the photograph"
            )
        return labels_in_frame(found, frame)


def source_of(product: Product) -> str | None:
    """Where the regions of ``product`` come from, for :meth:`RegionReader.frame`: an address, or boxes as text.

    Where the catalogue gives both, the label image: it has a shape where boxes have corners.
    """
    if product.regions is not None or product.boxes is None:
        return product.regions
    return f"{_BOXES}{product.boxes}"


def read_boxes(text: str) -> dict[str, tuple[Box, ...]]:
    """The boxes in JSON ``text``, by name, in the order of the text; BadBoxes, and nothing else, where it is none.

    At most ``MAX_BOXES_TEXT`` characters, ``MAX_NAMES`` names and ``MAX_BOXES`` boxes. A name may have no boxes, and
    ``{}`` says that nothing was found. Coordinates are finite numbers, heights and widths above 0.
    """
    try:
        if len(text) > MAX_BOXES_TEXT:
            raise ValueError(f"the text has more than {MAX_BOXES_TEXT:,} characters")
        # integers as floats, too: one of thousands of digits is infinite, and refused as that
        return _boxes(json.loads(text, object_pairs_hook=_once, parse_int=float, parse_constant=_refuse_constant))
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


def read_legend(address: str) -> Legend:
    """The legend at ``address``; UsageError where it is none.

    A JSON object like ``{"regions": {"body": 1, "sleeve": 2}, "columns": {"colour": ["body", "sleeve"]}}``: labels are
    whole numbers from 0 to ``MOST_LABEL``, and ``columns`` may be missing.
    """
    data = storage.read_file(address, max_bytes=MAX_BYTES)
    try:
        return _legend(json.loads(data, object_pairs_hook=_once))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of thousands of digits
        raise UsageError(
            f"{storage.shown(address)} is no legend of regions: {storage.redact(str(error))}. Expected is JSON like "
            '{"regions": {"body": 1, "sleeve": 2}, "columns": {"colour": ["body", "sleeve"]}}, as `whymatch demo` '
            "writes it into regions.json."
        ) from None


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
        _check_name(name)
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


def _check_name(name: str) -> None:
    """ValueError where a region cannot be called ``name`` in a table."""
    if not name.strip() or "\0" in name or not is_unicode(name):
        raise ValueError(f"{quoted(name)} is no name of a region")
    if name == NO_REGION or name.startswith(_UNNAMED):
        raise ValueError(f"{quoted(name)} names what is no region of yours; call it something else")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _legend(content: Any) -> Legend:
    """The legend in a JSON document; ValueError where it is none."""
    if not isinstance(content, dict) or not isinstance(content.get("regions"), dict) or not content["regions"]:
        raise ValueError("it has no object 'regions' with a label for each name")
    if strange := sorted(set(content) - {"regions", "columns"}):
        raise ValueError(f"{quoted(strange[0])} is neither 'regions' nor 'columns'")
    regions, columns = content["regions"], content.get("columns", {})
    for name, label in regions.items():
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MOST_LABEL:
            raise ValueError(f"the label of {quoted(name)} is no whole number from 0 to {MOST_LABEL:,}")
        _check_name(name)
    if not isinstance(columns, dict):
        raise ValueError("'columns' is no object")
    for column, names in columns.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the column {quoted(column)} has no list with the names of its regions")
        if unknown := [name for name in names if name not in regions]:
            raise ValueError(f"the column {quoted(column)} is shown by {quoted(unknown[0])}, which is no region")
    return Legend(regions, {column: tuple(names) for column, names in columns.items()})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two labels for one name, JSON would silently take the second."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{quoted(twice[0])} stands in it twice")
    return dict(pairs)
