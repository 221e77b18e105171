"""The legend of a catalogue's label images: which label a region has, and which regions show an attribute column."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transforms import storage
from transforms.core.attributes.names import column_of
from transforms.core.errors import UsageError
from transforms.core.imaging.region_shares import NO_REGION
from transforms.core.imaging.regions import MOST_LABEL
from transforms.core.messages import listed, quoted
from transforms.inputs.lines import is_unicode

MAX_BYTES = 2**20
"""Of a legend."""

UNNAMED = "(label "
"""Begins the name of a region whose label the legend does not name."""


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
        column = column_of(attribute)
        if column not in self.columns or region not in self.regions:
            return None
        return region in self.columns[column]


def read_legend(address: str) -> Legend:
    """The legend at ``address``; UsageError where it is none.

    A JSON object like ``{"regions": {"body": 1, "sleeve": 2}, "columns": {"colour": ["body", "sleeve"]}}``: labels are
    whole numbers from 0 to ``MOST_LABEL``, and ``columns`` may be missing.
    """
    data = storage.read_file(address, max_bytes=MAX_BYTES)
    try:
        return _legend(json.loads(data, object_pairs_hook=distinct_names))
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
        check_region_name(name)
    if not isinstance(columns, dict):
        raise ValueError("'columns' is no object")
    for column, names in columns.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the column {quoted(column)} has no list with the names of its regions")
        if unknown := [name for name in names if name not in regions]:
            raise ValueError(f"the column {quoted(column)} is shown by {quoted(unknown[0])}, which is no region")
    return Legend(regions, {column: tuple(names) for column, names in columns.items()})


def check_region_name(name: str) -> None:
    """ValueError where a region cannot be called ``name`` in a table."""
    if not name.strip() or "\0" in name or not is_unicode(name):
        raise ValueError(f"{quoted(name)} is no name of a region")
    if name == NO_REGION or name.startswith(UNNAMED):
        raise ValueError(f"{quoted(name)} names what is no region of yours; call it something else")


def distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two labels for one name, JSON would silently take the second."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{quoted(twice[0])} stands in it twice")
    return dict(pairs)
