"""What is estimated of a catalogue, and what each row of the table explanations adds to it.

Every quantity is a ratio of two sums over pairs: a mean, or the share of the pairs about which a thing can be said of
which it holds. A pair about which it cannot be said counts in neither sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.errors import UsageError
from transforms.core.imaging.maps import BORDER
from transforms.core.records import Float64

Contribution: TypeAlias = tuple[Float64, NDArray[np.bool_]]
"""What rows add to a numerator, float64 [n], and whether they count in the denominator, bool [n]."""

LARGEST = 1e100
"""Sums of larger numbers might not be finite; no audit writes one."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """``name`` is what is estimated, of ``value``: the reason, region or attribute; None where there is but one."""

    name: str
    value: str | None = None

    @property
    def kind(self) -> Literal["rate", "mean"]:
        """A rate is a share of the pairs."""
        return "mean" if self.name in MEANS or self.name in _REGION_MEANS else "rate"


FAILED = Quantity("failed")
"""Pairs whose explanation is missing. Its sums come from the table failures, too."""
FAILED_IN_PART = Quantity("failed_in_part")
"""Pairs of which any explanation is missing, where a run makes several of a pair."""
EXPLAINED = Quantity("explained")
CONTRADICTED = Quantity("contradicted_on_reference")
CONTRADICTED_ON_QUERY = Quantity("contradicted_on_query")
PEAK_IN_BORDER = Quantity("peak_in_border")
BORDER_OVER_AREA = Quantity("border_over_area")
BACKGROUND_OVER_AREA = Quantity("background_over_area")
OFF_SERVED = Quantity("off_served_score")
SIMILARITY = Quantity("similarity")

MEANS = (
    "similarity",
    "border_share",
    "border_area",
    "background_share",
    "background_area",
    "entropy",
    "map_reliability",
    "null_agreement",
)
"""Columns whose means are estimated."""
MAIN = (FAILED, EXPLAINED, CONTRADICTED, PEAK_IN_BORDER, SIMILARITY)
"""What is told of every value of ``--by``."""

_REGION_MEANS = ("region_share", "region_area")


def quantities(reasons: Sequence[str], regions: Sequence[str], attributes: Sequence[str]) -> tuple[Quantity, ...]:
    """All that is estimated, in the order in which it is shown; of these reasons, regions and first attributes."""
    return (
        FAILED,
        FAILED_IN_PART,
        EXPLAINED,
        *(Quantity("unexplained", reason) for reason in reasons),
        *(Quantity("first_attribute", name) for name in attributes),
        CONTRADICTED,
        CONTRADICTED_ON_QUERY,
        PEAK_IN_BORDER,
        BORDER_OVER_AREA,
        BACKGROUND_OVER_AREA,
        *(Quantity("region_peak", name) for name in regions),
        OFF_SERVED,
        *map(Quantity, MEANS),
        *(Quantity(name, region) for region in regions for name in _REGION_MEANS),
    )


def columns(asked: Sequence[Quantity]) -> tuple[str, ...]:
    """The columns of the table explanations that ``asked`` are of."""
    return tuple(dict.fromkeys(column for one in asked for column in _COLUMNS.get(one.name, (one.name,))))


def measure(batch: pa.RecordBatch, asked: Sequence[Quantity], tolerance: float) -> tuple[Float64, Float64]:
    """What each row of ``batch`` adds to the numerators and the denominators of ``asked``: float64 [n, T] both.

    ``tolerance`` is how far a similarity may be from the score that was served. UsageError for a number beyond
    ``LARGEST``.
    """
    rows = _Explanations(batch, tolerance)
    numerators, denominators = np.zeros((2, batch.num_rows, len(asked)))
    for at, one in enumerate(asked):
        above, known = _contribution(one, rows)
        numerators[:, at] = np.where(known, above, 0)
        denominators[:, at] = known
    return numerators, denominators


def first_attributes(top: pa.Array) -> tuple[NDArray[np.int64], pa.StructArray]:
    """Of ``top``, the rows that have a first attribute, int64 [k], and these attributes."""
    lengths = pc.fill_null(pc.list_value_length(top), 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(lengths > 0)
    # the values of a null list may be anything, so only places of real lists are taken
    starts = top.offsets.to_numpy(zero_copy_only=False)[:-1][rows]
    return rows, top.values.take(pa.array(starts, pa.int64()))


def region_rows(shares: pa.Array) -> tuple[NDArray[np.int64], pa.StructArray]:
    """The row of every region in ``shares``, int64 [k], and these regions."""
    return pc.list_parent_indices(shares).to_numpy(zero_copy_only=False).astype(np.int64), shares.flatten()


class _Explanations:
    """A batch of explanations as arrays, each made once."""

    def __init__(self, batch: pa.RecordBatch, tolerance: float) -> None:
        self.batch, self.count, self.tolerance = batch, batch.num_rows, tolerance

    def number(self, name: str) -> Float64:
        """A column as float64 [n], NaN where it is null."""
        return _numbers(self.batch.column(name), name)

    def text(self, name: str) -> NDArray[Any]:
        """A column as objects [n], None where it is null."""
        found: NDArray[Any] = self.batch.column(name).to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def first(self) -> tuple[NDArray[np.int64], pa.StructArray]:
        return first_attributes(self.batch.column("top"))

    @cached_property
    def first_names(self) -> NDArray[Any]:
        names = np.full(self.count, None, object)
        rows, attributes = self.first
        names[rows] = pc.struct_field(attributes, "name").to_numpy(zero_copy_only=False)
        return names

    @cached_property
    def regions(self) -> tuple[NDArray[np.int64], NDArray[Any], pa.StructArray]:
        rows, regions = region_rows(self.batch.column("region_shares"))
        return rows, pc.struct_field(regions, "name").to_numpy(zero_copy_only=False), regions

    def region(self, field: str, name: str) -> Contribution:
        """A field of the region ``name``; 0 in rows that have regions, and not this one."""
        rows, names, regions = self.regions
        values = _numbers(pc.struct_field(regions, field), field)
        here = (names == name) & np.isfinite(values)
        above = np.zeros(self.count)
        above[rows[here]] = values[here]
        return above, pc.is_valid(self.batch.column("region_shares")).to_numpy(zero_copy_only=False)


def _contribution(one: Quantity, rows: _Explanations) -> Contribution:
    if one.value is None:
        return _SINGLE[one.name](rows)
    if one.name == "unexplained":
        return rows.text("unexplained_reason") == one.value, _is_known(rows.number("explained"))
    if one.name == "first_attribute":
        return rows.first_names == one.value, rows.first_names != None  # noqa: E711  # of each object
    return rows.region({"region_peak": "peak", "region_share": "share", "region_area": "area"}[one.name], one.value)


def _column(name: str) -> Callable[[_Explanations], Contribution]:
    def contribution(rows: _Explanations) -> Contribution:
        values = rows.number(name)
        return values, _is_known(values)

    return contribution


def _over(share: str, area: str) -> Callable[[_Explanations], Contribution]:
    def contribution(rows: _Explanations) -> Contribution:
        left, right = rows.number(share), rows.number(area)
        return (left > right).astype(np.float64), _is_known(left) & _is_known(right)

    return contribution


def _contradicted(field: str) -> Callable[[_Explanations], Contribution]:
    def contribution(rows: _Explanations) -> Contribution:
        at, attributes = rows.first
        says = np.full(rows.count, np.nan)
        says[at] = _numbers(pc.struct_field(attributes, field), field)
        return 1 - says, _is_known(says)

    return contribution


def _peak_in_border(rows: _Explanations) -> Contribution:
    """Whether the peak lies within ``BORDER`` of a side of the frame's edge, as in ``transforms.core.imaging.maps``."""
    found = np.zeros(rows.count, bool)
    known = np.ones(rows.count, bool)
    for place, side in (("peak_row", "input_height"), ("peak_column", "input_width")):
        at, length = rows.number(place), rows.number(side)
        known &= _is_known(at) & _is_known(length)
        found |= np.minimum(at, length - 1 - at) + 0.5 < length * BORDER
    return found.astype(np.float64), known


def _off_served(rows: _Explanations) -> Contribution:
    apart = np.abs(rows.number("similarity") - rows.number("served_score"))
    return (apart > rows.tolerance).astype(np.float64), _is_known(apart)


def _nothing_failed(rows: _Explanations) -> Contribution:
    return np.zeros(rows.count), np.ones(rows.count, bool)


def _is_known(values: Float64) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = np.isfinite(values)
    return known


def _numbers(array: pa.Array, name: str) -> Float64:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    values: Float64 = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if (np.abs(values[np.isfinite(values)]) > LARGEST).any():
        raise UsageError(f"the table explanations has a {name} beyond {LARGEST:g}, which no audit writes")
    return values


_SINGLE: Mapping[str, Callable[[_Explanations], Contribution]] = {
    FAILED.name: _nothing_failed,
    FAILED_IN_PART.name: _nothing_failed,
    EXPLAINED.name: _column("explained"),
    CONTRADICTED.name: _contradicted("on_reference"),
    CONTRADICTED_ON_QUERY.name: _contradicted("on_query"),
    PEAK_IN_BORDER.name: _peak_in_border,
    BORDER_OVER_AREA.name: _over("border_share", "border_area"),
    BACKGROUND_OVER_AREA.name: _over("background_share", "background_area"),
    OFF_SERVED.name: _off_served,
    **{name: _column(name) for name in MEANS},
}
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    FAILED.name: (),
    FAILED_IN_PART.name: (),
    "unexplained": ("explained", "unexplained_reason"),
    "first_attribute": ("top",),
    CONTRADICTED.name: ("top",),
    CONTRADICTED_ON_QUERY.name: ("top",),
    PEAK_IN_BORDER.name: ("peak_row", "peak_column", "input_height", "input_width"),
    BORDER_OVER_AREA.name: ("border_share", "border_area"),
    BACKGROUND_OVER_AREA.name: ("background_share", "background_area"),
    "region_peak": ("region_shares",),
    "region_share": ("region_shares",),
    "region_area": ("region_shares",),
    OFF_SERVED.name: ("similarity", "served_score"),
}
