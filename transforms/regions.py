"""The regions of a product's photograph: their names, from a legend, and their pixels, from its label image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms import storage
from transforms.core.errors import NotAnImage, UsageError
from transforms.core.images import Limits
from transforms.core.regions import MOST_LABEL, decode_labels, labels_in_frame
from transforms.core.types import Frame
from transforms.lines import quoted
from transforms.rows import listed

MAX_BYTES = 2**20
"""Of a legend."""


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


@dataclass(frozen=True)
class RegionReader:
    """Reads label images under limits; ``legend`` says which labels a caller may ask for."""

    access: storage.Access
    limits: Limits
    legend: Legend

    def region(self, address: str, frame: Frame, labels: frozenset[int]) -> NDArray[np.bool_]:
        """Where in ``frame`` the label image at ``address`` has one of ``labels``: bool [H, W], perhaps nowhere True.

        What the frame shows beside the original belongs to no region. PairError, and nothing else, for bad input: also
        where the label image has another size than the photograph, both after EXIF, for then it is of another picture.
        """
        found = decode_labels(storage.read_image(address, self.access), self.limits)
        if found.shape != frame.original:
            labelled, photographed = (f"{height} x {width}" for height, width in (found.shape, frame.original))
            raise NotAnImage(
                f"the label image has {labelled} pixels (height x width) and its photograph {photographed}; "
                "a label image has one label for every pixel of the photograph"
            )
        return np.isin(labels_in_frame(found, frame), sorted(labels))


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
