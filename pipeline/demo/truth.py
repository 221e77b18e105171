"""The ground truth of a drawn catalogue, read back: where the badge is, and which pixels show which attribute."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pipeline.demo.drawing import Box
from pipeline.demo.folder import LEGEND, TRUTH
from transforms.core.errors import UsageError
from transforms.core.types import Image


def badge_boxes(folder: Path) -> dict[str, Box]:
    """Product id -> (top, left, height, width) of its badge in original pixels; products without one are left out."""
    with _existing(folder / TRUTH).open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["top"]]
    return {row["id"]: (int(row["top"]), int(row["left"]), int(row["height"]), int(row["width"])) for row in rows}


def region_mask(folder: Path, identifier: str, region: str) -> NDArray[np.bool_]:
    """The pixels of one region of one product's photograph: bool [H0, W0], all False where it has none.

    Regions are disjoint and cover the picture; a badge hides what lies under it.
    """
    labels: dict[str, int] = _legend(folder)["regions"]
    if region not in labels:
        raise UsageError(f"no region {region!r}; {folder / LEGEND} names {', '.join(labels)}")
    with PillowImage.open(_existing(folder / "regions" / f"{identifier}.png"), formats=("PNG",)) as image:
        return np.equal(np.asarray(image, np.uint8), labels[region])


def attribute_mask(folder: Path, identifier: str, column: str) -> NDArray[np.bool_]:
    """The pixels that show the attribute ``column`` of one product: the union of its regions, bool [H0, W0]."""
    columns: dict[str, list[str]] = _legend(folder)["columns"]
    if column not in columns:
        raise UsageError(f"no attribute {column!r}; {folder / LEGEND} names {', '.join(columns)}")
    masks = [region_mask(folder, identifier, region) for region in columns[column]]
    return np.asarray(np.any(masks, axis=0), np.bool_)


def hide(image: Image, box: Box, colour: tuple[int, int, int]) -> Image:
    """A copy of ``image`` (uint8 [H, W, 3]) with ``box`` painted over in ``colour``: the check without saliency."""
    top, left, height, width = box
    rows, columns = image.shape[:2]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise UsageError(f"box (top, left, height, width) {box} does not lie within an image of {rows}x{columns}")
    hidden = image.copy()
    hidden[top : top + height, left : left + width] = colour
    return hidden


def _legend(folder: Path) -> dict[str, Any]:
    legend: dict[str, Any] = json.loads(_existing(folder / LEGEND).read_text(encoding="utf-8"))
    return legend


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path} is not there; name a folder that `whymatch demo` drew, and a product of it")
    return path
