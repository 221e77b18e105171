"""The ground truth of a drawn catalogue, read back: where the badge is, and which pixels show which attribute."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.drawing import Box
from pipeline.demo.folder import LEGEND, TRUTH
from transforms.core.errors import UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.imaging.regions import decode_labels
from transforms.core.records import Image
from transforms.inputs.region_legend import Legend, read_legend


def badge_boxes(folder: Path) -> dict[str, Box]:
    """Product id -> (top, left, height, width) of its badge in original pixels; products without one are left out."""
    with _existing(folder / TRUTH).open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["top"]]
    return {row["id"]: (int(row["top"]), int(row["left"]), int(row["height"]), int(row["width"])) for row in rows}


def region_mask(folder: Path, identifier: str, region: str) -> NDArray[np.bool_]:
    """The pixels of one region of one product's photograph: bool [H0, W0], all False where it has none.

    Regions are disjoint and cover the picture; a badge hides what lies under it.
    """
    legend = _legend(folder)
    if region not in legend.regions:
        raise UsageError(f"no region {region!r}; {folder / LEGEND} names {', '.join(legend.regions)}")
    return _mask(folder, identifier, [legend.regions[region]])


def attribute_mask(folder: Path, identifier: str, column: str) -> NDArray[np.bool_]:
    """The pixels that show the attribute ``column`` of one product: the union of its regions, bool [H0, W0]."""
    legend = _legend(folder)
    if column not in legend.columns:
        raise UsageError(f"no attribute {column!r}; {folder / LEGEND} names {', '.join(legend.columns)}")
    return _mask(folder, identifier, [legend.regions[region] for region in legend.columns[column]])


def hide(image: Image, box: Box, colour: tuple[int, int, int]) -> Image:
    """A copy of ``image`` (uint8 [H, W, 3]) with ``box`` painted over in ``colour``: the check without saliency."""
    top, left, height, width = box
    rows, columns = image.shape[:2]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise UsageError(f"box (top, left, height, width) {box} does not lie within an image of {rows}x{columns}")
    hidden = image.copy()
    hidden[top : top + height, left : left + width] = colour
    return hidden


def _legend(folder: Path) -> Legend:
    return read_legend(str(_existing(folder / LEGEND)))


def _mask(folder: Path, identifier: str, labels: Collection[int]) -> NDArray[np.bool_]:
    data = _existing(folder / "regions" / f"{identifier}.png").read_bytes()
    return np.isin(decode_labels(data, ImageLimits()), list(labels))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path} is not there; name a folder that `whymatch demo` drew, and a product of it")
    return path
