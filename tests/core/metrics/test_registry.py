"""The registry of metrics: that its entries fit together, and what is read off them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from transforms.core.metrics.metric import (
    AgreementMetric,
    CurveMetric,
    Metric,
    RatioMetric,
    RegionMetric,
    RemovalMetric,
)
from transforms.core.metrics.registry import (
    AGREEMENTS,
    BY_NAME,
    CURVES,
    FAMILIES,
    METRICS,
    REGIONS,
    REMOVAL,
    family_of,
    levels,
    needing,
    note,
    of_kind,
    requests,
    told_requests,
)
from transforms.evaluating.agreement import ROWS


def test_every_metric_has_a_name_of_its_own_and_is_asked_for_by_one_that_is_there() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert {metric.request for metric in METRICS} == set(requests())
    for metric in METRICS:
        asked = BY_NAME[metric.request]
        assert (asked.request, asked.family) == (asked.name, metric.family)
        # who asks for one gets all: they must not need different things
        assert set(metric.all_needs) == set(asked.all_needs)


def test_what_methods_are_compared_by_has_a_direction() -> None:
    assert all(metric.better for metric in METRICS if metric.differences)


@pytest.mark.parametrize(
    ("kind", "family"),
    [(CurveMetric, CURVES), (RegionMetric, REGIONS), (RemovalMetric, REMOVAL), (AgreementMetric, AGREEMENTS)],
)
def test_a_kind_is_of_one_family(kind: type[Metric], family: object) -> None:
    assert {metric.family for metric in of_kind(kind)} == {family}


def test_curves_of_one_request_share_their_masks() -> None:
    for request in requests(CURVES):
        some = of_kind(CurveMetric, (request,))
        assert len({metric.design for metric in some}) == 1
        assert sum(metric.keeps_curve for metric in some) == 1


def test_a_ratio_is_of_metrics_that_are_measured_together() -> None:
    for ratio in of_kind(RatioMetric):
        assert {BY_NAME[name].request for name in (ratio.above, ratio.below)} == {ratio.request}


def test_every_agreement_is_measured() -> None:
    assert set(ROWS) == {metric.name for metric in of_kind(AgreementMetric)}


def test_every_region_metric_tells_a_good_map_from_a_bad_one() -> None:
    region = np.zeros((5, 7), np.bool_)
    region[1:3, 2:6] = True
    good = region + np.linspace(0, 0.1, 35).reshape(5, 7)
    for metric in of_kind(RegionMetric):
        found = [metric.measure(saliency, region, 0.0) for saliency in (good, -good)]
        assert (found[0] > found[1]) == (metric.better == "higher")
        assert metric.note


def test_what_is_asked_for_and_needed() -> None:
    """Of the metrics that are there; a new one breaks nothing here."""
    assert requests(CURVES, REGIONS) == requests(CURVES) + requests(REGIONS)
    assert requests(CURVES)[:2] == ("insertion", "deletion")
    assert {"pointing", "iou", "pixel_auc"} <= set(requests(REGIONS)) == set(needing("regions"))
    assert {"removal", "average_precision"} <= set(needing("attributes"))
    assert needing("cascade") == ("sanity",)
    assert {"shuffled", "stranger"} <= set(needing("another query"))
    assert "stranger" not in needing("remade maps")
    assert [one.name for one in of_kind(CurveMetric, {"deletion"})] == ["deletion", "deletion_raw"]
    kinds = [one.level for one in levels()]
    assert kinds == sorted(kinds, key=("ceiling", "floor").index)
    assert {one.name for one in levels()} == set(requests(AGREEMENTS)) - {"sanity"}
    assert family_of("pixel_auc") is REGIONS
    assert family_of("of_another_version") is None


def test_texts() -> None:
    told = told_requests()
    assert all(name in told for name in requests())
    assert told.startswith("insertion, deletion")
    assert "; pointing, iou, pixel_auc" in told
    assert "; removal, average_precision (need attributes); sanity" in told
    remark = note(REGIONS)
    assert remark.startswith(
        "How a map finds a known region: its peak lies in it (pointing), its highest pixels overlap it (IoU), a pixel "
        "inside ranks above one outside (pixel AUC, 0.5 by chance)"
    )
    assert remark.endswith(". Higher is better.")
    assert all(metric.note in remark for metric in of_kind(RegionMetric))
    assert not any("{" in note(family) for family in FAMILIES)


def test_names_cost_no_scipy_stats() -> None:
    code = "import sys, transforms.core.metrics.registry; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
