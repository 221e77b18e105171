"""How a summary names and writes what it found."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.evaluation.summary.findings import MeasurementSetting
from pipeline.text.tables import cut, printable
from transforms.core.saliency.controls import UNRELATED
from transforms.core.statistics.bootstrap import Interval

LONGEST_NAME = 32
"""Columns of a method's or control's name that are shown: those of the longest control, as strangers are named."""
OF_UNRELATED = f"{UNRELATED}_"
"""The beginning of the name of a control that is other queries' maps; the name of their method follows."""


def name_of(method: str, control: bool) -> str:
    """A method or control as it is shown, cut where it is long, with nothing in it that acts on a terminal."""
    return cut(printable(method), LONGEST_NAME) + (" (control)" if control else "")


def unrelated_named(controls: Iterable[str]) -> dict[str, str]:
    """How those of ``controls`` that are other queries' maps are shown: by their method, where there are several."""
    found = sorted({name for name in controls if name.startswith(OF_UNRELATED)})
    if len(found) == 1:
        return {found[0]: UNRELATED}
    return {name: f"{UNRELATED} of {name.removeprefix(OF_UNRELATED)}" for name in found}


def interval_text(interval: Interval, digits: int, sign: str = "") -> str:
    """An interval; without bounds the estimate alone, and "-" where nothing was measured."""
    form = f"{sign}.{digits}f"
    if not math.isfinite(interval.estimate):
        return "-"
    estimate = f"{interval.estimate:{form}}"
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return estimate
    return f"{estimate} ({interval.low:{form}} to {interval.high:{form}})"


def percent(share: float) -> str:
    """Such as "53 %"."""
    return f"{100 * share:.0f} %"


def described(where: MeasurementSetting) -> str:
    """Such as "reference side, fill white, stored maps"; the query's side goes without saying."""
    parts = (
        f"{where.side} side" if where.side not in (None, "query") else "",
        f"fill {where.fill}" if where.fill else "",
        f"{where.map} maps" if where.map else "",
    )
    return printable(", ".join(filter(None, parts)))
