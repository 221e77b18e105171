"""What a run says of its catalogue: estimates, and what there is to say about the sample that they rest on."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.results.summary.groups import COLUMNS, Groups, groups
from pipeline.results.summary.quantities import FAILED, FAILED_IN_PART, MAIN, Quantity, quantities
from pipeline.results.summary.sample import QuerySample, read_sample
from pipeline.results.summary.sums import (
    Estimate,
    Population,
    Selection,
    Sums,
    add_up,
    estimates,
    merged_strata,
    weights_of,
)
from pipeline.results.summary.survey import QUERY, Survey, Unit, survey
from transforms.core.errors import UsageError
from transforms.core.messages import listed, quoted
from transforms.tables.runs import Run

FIRST_ATTRIBUTES = 5
"""How many first attributes are told, the most frequent."""
VALUES = 20
"""How many values of ``--by`` are told, those with the most pairs."""

_REASONS, _REGIONS = 20, 20  # that are told; an audit has fewer
_TOLERANCE = 0.01


@dataclass(frozen=True)
class ValueGroup:
    """One value of ``--by``. ``pairs`` are those of the sample, ``share`` is the estimated one of the catalogue's."""

    value: str
    pairs: int
    share: float
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class RunSummary:
    """What :func:`summarise_run` found.

    ``estimates`` are of all pairs, ``groups`` of the values of ``by``, one of them empty. ``hidden`` counts the values
    that are not among the groups; a ``silent`` column is one that failures do not have. ``unsaid`` are quantities
    without any row that says something. ``methods`` and ``sides`` are all of the run's, ``selection`` is what was
    looked at. ``merged`` are strata that were put together for their spread. ``unreadable`` rows of the manifest had no
    query. ``failures`` are the failed pairs of the sample, and all, of each stratum: pairs of which any explanation is
    missing.
    """

    run_id: str
    started: datetime
    selection: Selection
    methods: tuple[str, ...]
    sides: tuple[str, ...]
    sample: QuerySample
    population: Population
    tolerance: float
    estimates: tuple[Estimate, ...]
    unsaid: tuple[Quantity, ...]
    merged: tuple[str, ...]
    unreadable: int
    explanations: int
    failures: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    by: str | None = None
    groups: tuple[ValueGroup, ...] = ()
    hidden: int = 0
    silent: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether nothing is estimated: all queries of the catalogue were looked at, and no other is spoken of."""
        return self.population == "catalogue" and self.sample.is_whole


@dataclass(frozen=True)
class _Question:
    """A run, its rows in outline, and what is asked of it."""

    run: Run
    found: Survey
    sample: QuerySample
    selection: Selection
    population: Population
    tolerance: float

    @property
    def units(self) -> tuple[Unit, ...]:
        return tuple(self.found.units)

    def sums(self, asked: Sequence[Quantity], by: Groups | None = None) -> Sums:
        return add_up(self.run, self.found.units, tuple(asked), self.selection, tolerance=self.tolerance, groups=by)

    def estimates(self, sums: Sums, group: int = 0) -> tuple[Estimate, ...]:
        return tuple(estimates(sums, group, self.units, self.sample, self.population))


def summarise_run(
    run: Run,
    *,
    by: str | None = None,
    method: str | None = None,
    side: str | None = None,
    population: Population = "catalogue",
) -> RunSummary:
    """Estimates of what ``run`` was a sample of, from explanations of one ``method`` and ``side``.

    Without a method, that which the audit named first is taken, and the query's side where it was explained; ``by``
    one of the two takes all of it.

    Raises:
      UsageError: a method, side or column that is not there, tables that cannot be read or do not fit together.
    """
    row = run.row
    found = survey(run, extra=by is not None and by not in COLUMNS)
    configuration = _configuration(row)
    selection = Selection(
        None if by == "method" and method is None else _method(found, configuration, method),
        None if by == "side" and side is None else _side(found, side),
    )
    one = _Question(run, found, read_sample(run, found.found()), selection, population, _tolerance(configuration))
    common: dict[str, Any] = {
        "run_id": run.id,
        "started": row["started"],
        "selection": selection,
        "methods": found.methods,
        "sides": found.sides,
        "sample": one.sample,
        "population": population,
        "tolerance": one.tolerance,
        "merged": merged_strata(one.sample, population).merged,
        "unreadable": found.unreadable,
        "explanations": sum(found.explanations.values()),
    }
    return _overall(one, common) if by is None else _by(one, by, common)


def _overall(one: _Question, common: dict[str, Any]) -> RunSummary:
    selection, weights = one.selection, one.sample.weights
    reasons, regions, attributes = (
        one.found.names(kind, selection.method, selection.side or QUERY, weights)
        for kind in ("unexplained", "region", "first_attribute")
    )
    asked = quantities(reasons[:_REASONS], regions[:_REGIONS], attributes[:FIRST_ATTRIBUTES])
    if len(one.found.methods) < 2 and len(one.found.sides) < 2:
        asked = tuple(quantity for quantity in asked if quantity != FAILED_IN_PART)
    sums = one.sums(asked)
    found = one.estimates(sums)
    said = {each.quantity for each in found}
    unsaid = tuple(quantity for quantity in asked if quantity not in said)
    return RunSummary(**common, estimates=found, unsaid=unsaid, failures=_failures(one, sums))


def _failures(one: _Question, sums: Sums) -> dict[str, tuple[int, int]]:
    at = sums.asked.index(FAILED_IN_PART if FAILED_IN_PART in sums.asked else FAILED)
    found: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    units = one.units
    for (unit, _), place in sums.places.items():
        stratum = units[unit][0]
        failed, pairs = found[stratum]
        found[stratum] = failed + round(sums.numerators[place, at]), pairs + round(sums.denominators[place, at])
    return dict(sorted(found.items()))


def _by(one: _Question, column: str, common: dict[str, Any]) -> RunSummary:
    by = groups(one.run, column, one.found)
    sums = one.sums(MAIN, by)
    silent = not by.by.knows_failures
    pairs = _pairs(one, sums)
    total = math.fsum(pairs.values())
    order = sorted(
        (value for value in by.numbers if by.numbers[value] in pairs),
        key=lambda value: (-pairs[by.numbers[value]], value),
    )
    found = []
    for value in order[:VALUES]:
        number = by.numbers[value]
        estimated = one.estimates(sums, number)
        sampled = next(each.pairs for each in estimated if each.quantity == FAILED)
        told = tuple(each for each in estimated if each.quantity != FAILED or not silent)
        found.append(ValueGroup(value, sampled, pairs[number] / total, told))
    said = {each.quantity for group in found for each in group.estimates}
    return RunSummary(
        **common,
        estimates=(),
        unsaid=tuple(quantity for quantity in MAIN if quantity not in said and quantity != FAILED),
        by=column,
        groups=tuple(found),
        hidden=len(order) - len(found),
        silent=silent,
    )


def _pairs(one: _Question, sums: Sums) -> dict[int, float]:
    """The estimated number of pairs of the catalogue in each group."""
    parts: defaultdict[int, list[float]] = defaultdict(list)
    units, at, weights = one.units, sums.asked.index(FAILED), weights_of(one.sample, one.population)
    for (unit, group), place in sums.places.items():
        parts[group].append(weights[units[unit][0]] * float(sums.denominators[place, at]))
    return {group: math.fsum(some) for group, some in parts.items()}


def _method(found: Survey, configuration: dict[str, Any], asked: str | None) -> str | None:
    """The method to look at; None where no row names one."""
    if asked is not None and asked not in found.methods:
        raise UsageError(f"--method {quoted(asked)}: the run has {listed(found.methods) or 'no explanations'}")
    named = configuration.get("methods")
    audited = [name for name in named if name in found.methods] if isinstance(named, list) else []
    return asked or next(iter([*audited, *found.methods]), None)


def _side(found: Survey, asked: str | None) -> str | None:
    if asked is not None and found.sides and asked not in found.sides:
        raise UsageError(f"--side {asked}: the run explains {listed(found.sides)}")
    return asked or next(iter(found.sides), None)  # in the order of the alphabet the query's comes first


def _tolerance(configuration: dict[str, Any]) -> float:
    """How far a similarity may be from the served score, as the audit was told."""
    told = configuration.get("score_tolerance")
    return float(told) if isinstance(told, (int, float)) and math.isfinite(told) and told >= 0 else _TOLERANCE


def _configuration(row: dict[str, Any]) -> dict[str, Any]:
    """The options of the run, as far as its row has them."""
    try:
        found = json.loads(row["configuration"])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
