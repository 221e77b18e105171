"""What a metric declares: all that those who measure, sum up, print and draw it need to know of it.

The kinds differ in what a value is made of, and carry the pure function that makes it. What is neither of these, such
as the agreement of two maps, is measured by the room ``transforms.evaluating``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.core.metrics.curves import Curve, PixelSteps
from transforms.core.metrics.removal import Judgement
from transforms.core.records import Float64

Better: TypeAlias = Literal["higher", "lower"]

Need: TypeAlias = Literal["regions", "attributes", "cascade", "another query", "remade maps", "stored maps"]
"""What an evaluation must have at hand: label images of the catalogue; attributes of the catalogue and a network that
says them; randomised copies of the bundle; a second query in the run; explainers that make the run's maps again; the
run's maps as its tables hold them."""


@dataclass(frozen=True)
class MetricFamily:
    """Metrics that are measured alike and shown together.

    Attributes:
      heading: what texts call them.
      note: what texts say below it; ``{metrics}`` in it stands for the notes of the family's metrics.
      needs: what must be at hand for each of them.
      over: what a mean is taken over: pairs are a sample of queries, the attributes of a vocabulary are no sample.
    """

    heading: str
    note: str = ""
    needs: tuple[Need, ...] = ()
    over: Literal["pairs", "attributes"] = "pairs"


@dataclass(frozen=True)
class Metric:
    """One metric of the table ``metrics``.

    Attributes:
      name: as in the column ``metric``.
      family: with which it is measured and shown.
      better: which way it is good; None of what stands beside the others, such as an oracle.
      label: what texts call it, where that is not its name.
      note: what it measures, as a part of the family's note.
      asked_as: the name by which ``--metrics`` asks for it, where that is another metric's.
      needs: what must be at hand besides what the family needs.
      differences: where paired differences of methods are told: in print, in the report alone, or nowhere.
    """

    name: str
    family: MetricFamily
    _: KW_ONLY
    better: Better | None = None
    label: str = ""
    note: str = ""
    asked_as: str = ""
    needs: tuple[Need, ...] = ()
    differences: Literal["printed", "reported"] | None = None

    @property
    def request(self) -> str:
        """The name by which ``--metrics`` asks for it."""
        return self.asked_as or self.name

    @property
    def all_needs(self) -> tuple[Need, ...]:
        """What must be at hand."""
        return self.family.needs + self.needs


@dataclass(frozen=True)
class CurveMetric(Metric):
    """An area under the similarities of an image's masked versions.

    ``design`` makes the masks of a map [H, W], and is one function for all metrics of one request: one set of passes
    serves them. ``area`` is read off the curve. The curve itself goes into the rows, and into a picture, where
    ``keeps_curve`` says so; the picture says of the pixels whether they are ``shown`` or hidden.
    """

    _: KW_ONLY
    design: Callable[[Float64], PixelSteps]
    area: Callable[[Curve], float]
    keeps_curve: bool = False
    shown: bool = True


RegionMeasure: TypeAlias = Callable[[Float64, NDArray[np.bool_], float], float]
"""Of a map [H, W], a region bool [H, W] with pixels inside and outside, and the pixels that a peak may miss by."""


@dataclass(frozen=True)
class RegionMetric(Metric):
    """How a map finds a known region."""

    _: KW_ONLY
    measure: RegionMeasure


@dataclass(frozen=True)
class RemovalMetric(Metric):
    """What a ranking of the query's attributes is worth, of one judged pair.

    Attributes:
      of_ranking: read off the judgement of the ranking.
      of_random: its expectation for a random order, from the drops [n] of the attributes that are drawn from.
      among_five: it has no value for a ranking that names fewer than five attributes of a longer vocabulary.
    """

    _: KW_ONLY
    of_ranking: Callable[[Judgement], float]
    of_random: Callable[[Float64], float]
    among_five: bool = False


@dataclass(frozen=True)
class RatioMetric(Metric):
    """The sum of the metric ``above`` over that of ``below`` of the same pairs; no rows, a summary makes it."""

    _: KW_ONLY
    above: str
    below: str


@dataclass(frozen=True)
class AgreementMetric(Metric):
    """How a map agrees with what becomes of it when something else has changed.

    ``level`` is what agreement with a random network is read against: a ceiling, where the map should stay, or a floor,
    where it should not; None of that agreement itself.
    """

    _: KW_ONLY
    level: Literal["ceiling", "floor"] | None = None
