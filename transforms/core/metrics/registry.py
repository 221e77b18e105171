"""All metrics of the table ``metrics``, each declared once.

What ``--metrics`` takes and needs, what is measured, which way it is good, what texts and pictures call it: all of it
is read from here. A new metric of curves, regions or removal is its pure function and its entry in ``METRICS``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from transforms.core.metrics.curves import deletion, insertion
from transforms.core.metrics.metric import (
    AgreementMetric,
    CurveMetric,
    Metric,
    MetricFamily,
    Need,
    RatioMetric,
    RegionMeasure,
    RegionMetric,
    RemovalMetric,
)
from transforms.core.metrics.regions import iou, pixel_auc, pointing
from transforms.core.records import Float64

M = TypeVar("M", bound=Metric)

CURVES = MetricFamily(
    "Insertion and deletion",
    "Area under the curve of similarities, which is normalised to [0, 1] unless raw. Insertion is better high, "
    "deletion low.",
)
REGIONS = MetricFamily("Regions", "How a map finds a known region: {metrics}. Higher is better.", needs=("regions",))
REMOVAL = MetricFamily(
    "Attributes",
    "Removal is the similarity lost with the explanation's first attribute; the oracle's is the largest loss of any "
    "attribute. Higher is better. The control random names the query's attributes in any order, confidence those that "
    "the attribute network is surest of, as if there were no map.",
    needs=("attributes",),
)
RECOGNITION = MetricFamily("Average precision of the attributes", needs=("attributes",), over="attributes")
AGREEMENTS = MetricFamily(
    "Sanity",
    "Rank correlation of a map with the pair's own. From the head down the network's blocks are made random: agreement "
    "must fall. A network marked * is not judged: a linear head that is random alone nearly keeps cosines.",
)


def _of_order(measure: Callable[[Float64, NDArray[np.bool_]], float]) -> RegionMeasure:
    """A measure of the order of all pixels, for which a peak's tolerance says nothing."""

    def tolerant(saliency: Float64, region: NDArray[np.bool_], tolerance: float) -> float:
        return measure(saliency, region)

    return tolerant


METRICS: tuple[Metric, ...] = (
    CurveMetric(
        "insertion", CURVES, better="higher", differences="printed", design=insertion, area=lambda curve: curve.area,
        keeps_curve=True,
    ),
    CurveMetric(
        "deletion", CURVES, better="lower", differences="printed", design=deletion, area=lambda curve: curve.area,
        keeps_curve=True, shown=False,
    ),
    CurveMetric(
        "insertion_raw", CURVES, better="higher", label="insertion, raw", asked_as="insertion", differences="reported",
        design=insertion, area=lambda curve: curve.raw_area,
    ),
    CurveMetric(
        "deletion_raw", CURVES, better="lower", label="deletion, raw", asked_as="deletion", differences="reported",
        design=deletion, area=lambda curve: curve.raw_area, shown=False,
    ),
    RegionMetric(
        "pointing", REGIONS, better="higher", note="its peak lies in it (pointing)",
        differences="printed", measure=pointing,
    ),
    RegionMetric(
        "iou", REGIONS, better="higher", label="IoU", note="its highest pixels overlap it (IoU)",
        differences="printed", measure=_of_order(iou),
    ),
    RegionMetric(
        "pixel_auc", REGIONS, better="higher", label="pixel AUC",
        note="a pixel inside ranks above one outside (pixel AUC, 0.5 by chance)",
        differences="printed", measure=_of_order(pixel_auc),
    ),
    RatioMetric(
        "removal_share", REMOVAL, better="higher", label="removal, share of the oracle's", asked_as="removal",
        differences="printed", above="removal", below="removal_oracle",
    ),
    RemovalMetric(
        "oracle_first", REMOVAL, better="higher", label="oracle's first", asked_as="removal",
        differences="printed", of_ranking=lambda judged: judged.top1, of_random=lambda drops: 1 / len(drops),
    ),
    RemovalMetric(
        "oracle_among_five", REMOVAL, better="higher", label="oracle's among five", asked_as="removal",
        differences="printed", of_ranking=lambda judged: judged.top5, of_random=lambda drops: min(1.0, 5 / len(drops)),
        among_five=True,
    ),
    RemovalMetric(
        "removal", REMOVAL, better="higher", of_ranking=lambda judged: float(judged.first[0]),
        of_random=lambda drops: float(drops.mean()),
    ),
    RemovalMetric(
        "removal_oracle", REMOVAL, label="oracle's removal", asked_as="removal",
        of_ranking=lambda judged: float(judged.oracle[0]), of_random=lambda drops: float(drops.max()),
    ),
    Metric("average_precision", RECOGNITION, better="higher", label="mean average precision"),
    AgreementMetric("sanity", AGREEMENTS, better="lower", needs=("cascade", "remade maps")),
    AgreementMetric(
        "shuffled", AGREEMENTS, label="another query's reference", needs=("another query", "remade maps"),
        level="floor",
    ),
    AgreementMetric(
        "stranger", AGREEMENTS, label="another query's map", needs=("another query", "stored maps"),
        level="floor",
    ),
    AgreementMetric(
        "seeds", AGREEMENTS, better="higher", label="other seed of the masks: the ceiling",
        needs=("remade maps",), level="ceiling",
    ),
    AgreementMetric(
        "noise", AGREEMENTS, better="higher", label="a little noise on the query", needs=("remade maps",),
        level="ceiling",
    ),
)  # fmt: skip
"""All metrics, in the order in which they are asked for and, but for levels, shown."""

BY_NAME: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in METRICS})

FAMILIES = tuple(dict.fromkeys(metric.family for metric in METRICS))


def requests(*families: MetricFamily) -> tuple[str, ...]:
    """What ``--metrics`` takes: the names of all metrics that are asked for by themselves, or those of ``families``."""
    return tuple(one.name for one in METRICS if not one.asked_as and one.family in (families or FAMILIES))


def needing(need: Need) -> tuple[str, ...]:
    """Those of :func:`requests` that need that."""
    return tuple(one.name for one in METRICS if not one.asked_as and need in one.all_needs)


def told_requests() -> str:
    """All of :func:`requests` in words, with what their families need."""
    asked = [one for one in METRICS if not one.asked_as]
    told = (
        ", ".join(one.name for one in some) + (f" (need {', '.join(needs)})" if needs else "")
        for needs, some in groupby(asked, key=lambda one: one.family.needs)
    )
    return "; ".join(told)


def of_kind(kind: type[M], asked: Collection[str] | None = None) -> tuple[M, ...]:
    """The metrics of one kind, all of them or those that are measured where ``asked`` are asked for."""
    found = (one for one in METRICS if isinstance(one, kind))
    return tuple(one for one in found if asked is None or one.request in asked)


def family_of(name: str) -> MetricFamily | None:
    """The family of the metric of that name, None of a name that no metric has."""
    return BY_NAME[name].family if name in BY_NAME else None


def levels() -> tuple[AgreementMetric, ...]:
    """The agreements that ``sanity`` is read against, from high to low."""
    found = [one for one in of_kind(AgreementMetric) if one.level]
    return tuple(sorted(found, key=lambda one: one.level == "floor"))


def note(family: MetricFamily) -> str:
    """What texts say of a family."""
    return family.note.format(metrics=", ".join(one.note for one in METRICS if one.family is family and one.note))
