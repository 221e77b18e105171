"""Strata that are put together so that the spread of what was drawn of them can be estimated; their weights stay apart.

One query of a stratum has no spread. Such strata are collapsed for the variance, and only for it (M. Hansen, W.
Hurwitz, W. Madow, "Sample Survey Methods and Theory", 1953, volume II; W. Cochran, "Sampling Techniques", 3rd edition
1977, section 5A.12); a query goes on standing for those of its own stratum, as strata may have been sampled at other
rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NAME = 60
"""Characters of the name of merged strata, where more than one name is to fit."""


@dataclass(frozen=True)
class CollapsedStrata:
    """Strata in which enough was drawn to estimate a spread.

    ``names`` has the group of each stratum of the population: itself, or that of ``merged``, the strata that were put
    together, in the order of their names; empty where none were. ``names`` and ``merged`` are for the spread alone:
    :meth:`weights` has what a query of each stratum counts for.
    """

    names: Mapping[str, str]
    merged: tuple[str, ...]

    def population(self, queries: Mapping[str, int]) -> dict[str, int]:
        """The queries of each group, where ``queries`` are those of each stratum."""
        found: dict[str, int] = {}
        for name, count in queries.items():
            found[self.names[name]] = found.get(self.names[name], 0) + count
        return found

    def weights(self, sampled: Mapping[str, int], population: Mapping[str, int]) -> dict[str, float]:
        """How many queries of the ``population`` one that was drawn stands for, by the strata that have any.

        These are Q_h / q_h, whatever was put together. Of a stratum of which nothing was drawn nothing is known: the
        others of its group stand for it, each query by as much more as it stands for already.
        """
        drawn = {name: count for name, count in sampled.items() if count}
        whole, seen = self.population(population), self.population({name: population[name] for name in drawn})
        more = {group: whole[group] / count for group, count in seen.items()}
        return {name: population[name] / count * more[self.names[name]] for name, count in drawn.items()}


def collapse_strata(sampled: Mapping[str, int], population: Mapping[str, int]) -> CollapsedStrata:
    """Puts the strata with under two sampled queries together; the smallest others join until there are two.

    The smallest is that with the fewest queries in the ``population``, of equal ones the first by name. Strata of which
    nothing was drawn count too: the group then stands for them. Strata without any query are left as they are.

    Args:
      sampled: queries drawn of each stratum; a stratum that is absent has 0.
      population: queries of each stratum.

    Raises:
      ValueError: where more was drawn of a stratum than it has.
    """
    for name in sampled:
        if not 0 <= sampled[name] <= population.get(name, 0):
            raise ValueError(f"stratum {name!r} has {population.get(name, 0)} queries, and {sampled[name]} were drawn")
    drawn = {name: sampled.get(name, 0) for name, queries in population.items() if queries}
    order = sorted(drawn, key=lambda name: (drawn[name] >= 2, population[name], name))
    group = [name for name in order if drawn[name] < 2]
    if group:
        for name in order[len(group) :]:
            if sum(drawn[one] for one in group) >= 2:
                break
            group.append(name)
    names = {name: name for name in population}
    if len(group) < 2:
        return CollapsedStrata(names, ())
    group.sort()
    common = _common_name(group, set(population) - set(group))
    return CollapsedStrata(names | dict.fromkeys(group, common), tuple(group))


def _common_name(names: Sequence[str], taken: set[str]) -> str:
    """Such as ``a + b`` or ``a + b and 5 more``, and not one of ``taken``."""
    shown = len(names)
    while shown > 1 and len(" + ".join(names[:shown])) > _NAME:
        shown -= 1
    name = " + ".join(names[:shown]) + (f" and {len(names) - shown} more" if shown < len(names) else "")
    while name in taken:
        name += " (merged)"
    return name
