"""The order in which a summary's findings stand, whatever that of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.evaluation.summary.findings import Difference, Key, Measure, MeasurementSetting
from transforms.core.metrics.registry import METRICS, levels

_SHOWN = (*(one.name for one in METRICS if one not in levels()), *(one.name for one in levels()))


def key_order(one: Key | Measure) -> tuple[tuple[bool, Any], ...]:
    """What keys are sorted by; the depth goes before the block, so from the head down."""
    return sortable((one.metric, one.method, one.control, one.side, one.fill, one.map, one.depth, one.block))


def sortable(parts: Iterable[Any]) -> tuple[tuple[bool, Any], ...]:
    """What tuples with None in them are sorted by: None is the first."""
    return tuple((part is not None, part) for part in parts)


def metric_order(metric: str) -> tuple[int, str]:
    """What metrics are sorted by: the known ones as they are shown, then others by name."""
    return (_SHOWN.index(metric) if metric in _SHOWN else len(_SHOWN), metric)


def depth_order(one: Measure) -> tuple[float, str]:
    """What the networks of a cascade are sorted by: from the head down, what names no depth first."""
    return (-1.0 if one.depth is None else one.depth, one.block or "")


def setting_of(one: Measure | Difference | Key) -> MeasurementSetting:
    """Where ``one`` was measured."""
    return MeasurementSetting(one.side, one.fill, one.map)
