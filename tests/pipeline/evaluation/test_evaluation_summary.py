"""The summary of an evaluation: means that can be counted by hand, differences, verdicts, and the record of all."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.summary.findings import EvaluationSummary
from pipeline.evaluation.summary.record import record
from pipeline.evaluation.summary.summarise import summarise
from tests.support.tables.metrics import difference, everything, measure, row, sanity, summed
from transforms.tables import Row


def test_a_mean_over_pairs_by_hand() -> None:
    rows = [
        row("insertion", "rise", 0, 0.5),
        row("insertion", "rise", 0, 0.8, pair=1),
        row("insertion", "rise", 1, 0.2),
    ]
    one = measure(summed(rows), "insertion")
    assert one.interval.estimate == pytest.approx(0.5)
    assert (one.pairs, one.queries, one.failed, one.better, one.judged) == (3, 2, 0, "higher", None)
    # of two queries a resample holds one of them twice or both: 0.65, 0.2 or 0.5
    assert (one.interval.low, one.interval.high) == pytest.approx((0.2, 0.65))


def test_weights_are_those_of_the_sample() -> None:
    rows = [row("insertion", "rise", 0, 0.5, weight=3.0), row("insertion", "rise", 1, 0.9)]
    assert measure(summed(rows), "insertion").interval.estimate == pytest.approx((3 * 0.5 + 0.9) / 4)
    assert measure(summed([{**one, "weight": None} for one in rows]), "insertion").interval.estimate == pytest.approx(
        0.7
    )


def test_a_pair_is_measured_once() -> None:
    rows = [row("deletion", "random", 0, 0.2, control=True), row("deletion", "random", 1, 0.3, control=True)]
    assert measure(summed(rows), "deletion", "random").interval.estimate == pytest.approx(0.25)
    with pytest.raises(ValueError, match="two rows of deletion of random"):
        summed([*rows, row("deletion", "random", 0, 0.4, control=True)])


def test_references_are_what_is_resampled_where_they_are_explained() -> None:
    """Of three queries and two references: pairs of one reference share its passes."""
    values = {(0, 0): 0.1, (1, 0): 0.3, (2, 0): 0.5, (0, 1): 0.9, (1, 1): 0.7}
    rows = [
        row("insertion", "rise", query, value, pair=pair, side=side)
        for side in ("query", "reference")
        for (query, pair), value in values.items()
    ]
    summary = summed(rows)
    on_query, on_reference = (measure(summary, "insertion", side=side) for side in ("query", "reference"))
    assert on_query.interval.estimate == on_reference.interval.estimate == pytest.approx(0.5)
    assert (on_query.queries, on_reference.queries) == (3, 2)
    assert (on_reference.interval.low, on_reference.interval.high) == pytest.approx((0.3, 0.8))
    assert on_query.interval.low == pytest.approx(0.5)  # every query's mean is a half
    more = [
        row("insertion", "lime", query, value / 2, pair=pair, side="reference")
        for (query, pair), value in values.items()
    ]
    gap = difference(summed([*rows, *more]), "insertion", "lime", "rise", side="reference")
    assert gap.queries == 2
    assert (gap.interval.low, gap.interval.high) == pytest.approx((-0.4, -0.15))


def test_what_is_measured_apart_is_kept_apart() -> None:
    rows = [
        row("insertion", "rise", 0, 0.1, fill="white", map="stored"),
        row("insertion", "rise", 0, 0.2, fill="blur", map="stored"),
        row("insertion", "rise", 0, 0.3, fill="white", map="full"),
        row("insertion", "rise", 0, 0.4, fill="white", map="stored", side="reference"),
        row("insertion", "rise", 0, 0.5, fill="white", map="stored", control=True),
    ]
    found = {(one.fill, one.map, one.side, one.control): one.interval.estimate for one in summed(rows).measures}
    assert found == {
        ("white", "stored", "query", False): 0.1,
        ("blur", "stored", "query", False): 0.2,
        ("white", "full", "query", False): 0.3,
        ("white", "stored", "reference", False): 0.4,
        ("white", "stored", "query", True): 0.5,
    }


def test_rows_without_a_value_are_counted_with_their_reason() -> None:
    rows = [
        row("iou", "rise", 0, 0.25),
        row("iou", "rise", 1, None, reason="not_found", message="b is gone"),
        row("iou", "rise", 2, None, reason="not_found", message="a is gone"),
        row("iou", "rise", 3, math.nan),
        row("iou", "lime", 0, None, reason="model_failed"),
    ]
    summary = summed(rows)
    one, none = measure(summary, "iou"), measure(summary, "iou", "lime")
    assert (one.interval.estimate, one.pairs, one.queries, one.failed) == (0.25, 1, 1, 3)
    assert math.isnan(one.interval.low)
    assert math.isnan(one.interval.high)
    assert math.isnan(none.interval.estimate)
    assert (none.pairs, none.queries, none.failed) == (0, 0, 1)
    assert summary.reasons == {"not_found": 2, "not finite": 1, "model_failed": 1}
    assert summary.examples["not_found"] == "a is gone"
    assert not summary.differences


def test_what_cannot_be_judged_is_counted_by_its_message() -> None:
    few, none = "too few products", "no drop"
    rows = [row("removal", "rise", 0, 0.3), row("removal", "rise", 1, None, reason="image_changed", message="changed")]
    rows += [
        row("removal", "rise", 2 + at, None, reason="not_scored", message=why) for at, why in enumerate((few, none))
    ]
    rows += [row("removal", "rise", 4, None, reason="not_scored", message=few)]
    rows += [row("removal", "lime", query, None, reason="not_scored", message=none) for query in range(2)]
    rows += [row("removal_oracle", "rise", 0, 0.6)]
    summary = summed(rows)
    rise = measure(summary, "removal")
    assert (rise.failed, rise.not_scored) == (4, ((few, 2), (none, 1)))
    assert measure(summary, "removal", "lime").not_scored == ((none, 2),)
    assert measure(summary, "removal_share").not_scored == ()
    assert summary.reasons == {"not_scored": 5, "image_changed": 1}
    assert summary.examples["not_scored"] == none
    # equally many: in the order of the letters
    equal = [row("removal", "rise", query, None, reason="not_scored", message=why) for query, why in enumerate("ba")]
    assert measure(summed(equal), "removal").not_scored == (("a", 1), ("b", 1))


def test_nothing_to_summarise() -> None:
    summary = summed([])
    assert (summary.measures, summary.differences, summary.verdicts) == ((), (), ())
    assert not summary.reasons


def test_removal_is_a_ratio_of_sums_over_the_same_pairs() -> None:
    drops, oracles = (0.1, 0.3, 0.9), (0.2, 0.6, None)
    rows = [row("removal", "rise", query, drop) for query, drop in enumerate(drops)]
    rows += [row("removal_oracle", "rise", query, drop) for query, drop in enumerate(oracles)]
    one = measure(summed(rows), "removal_share")
    assert one.interval.estimate == pytest.approx((0.1 + 0.3) / (0.2 + 0.6))
    assert (one.pairs, one.queries, one.better) == (2, 2, "higher")
    # every query's own ratio is a half, so is every resample's
    assert (one.interval.low, one.interval.high) == pytest.approx((0.5, 0.5))
    assert measure(summed(rows), "removal").interval.estimate == pytest.approx(1.3 / 3)


def test_removal_with_weights_and_drops_below_zero() -> None:
    rows = [row("removal", "rise", query, drop, weight=2.0 - query) for query, drop in enumerate((-0.1, 0.4))]
    rows += [row("removal_oracle", "rise", query, drop, weight=2.0 - query) for query, drop in enumerate((0.05, 0.5))]
    one = measure(summed(rows), "removal_share")
    assert one.interval.estimate == pytest.approx((2 * -0.1 + 0.4) / (2 * 0.05 + 0.5))
    # a resample of the first query alone, and one of the second
    assert (one.interval.low, one.interval.high) == pytest.approx((-2, 0.8))


def removed(method: str, drops: Sequence[float | None], oracles: Sequence[float], **more: Any) -> list[Row]:
    """Attribute removal, a query each; the oracle is first where nothing is lost against it."""
    rows = []
    for query, (drop, oracle) in enumerate(zip(drops, oracles, strict=True)):
        first = None if drop is None else float(drop == oracle)
        values = {"removal": drop, "removal_oracle": None if drop is None else oracle, "oracle_first": first}
        rows += [row(metric, method, query, value, **more) for metric, value in values.items()]
        rows.append(row("oracle_among_five", method, query, None if drop is None else 1.0, **more))
    return rows


def test_removal_is_compared_with_its_controls_and_among_methods() -> None:
    oracles = (0.4, 0.2, 0.8, 0.5)
    rows = removed("rise", (0.4, 0.1, 0.8, None), oracles) + removed("lime", (0.3, 0.2, 0.2, 0.5), oracles)
    rows += removed("random", (0.2, 0.1, 0.4, 0.25), oracles, control=True)
    rows += removed("confidence", (0.1, -0.1, 0.8, 0.5), oracles, control=True)
    summary = summed(rows)
    found = {(one.metric, one.first, one.second): one for one in summary.differences}
    methods, controls = ("lime", "rise"), ("confidence", "random")
    pairs = {*((one, control) for one in methods for control in controls), ("lime", "rise")}
    assert found.keys() == {
        (metric, *pair) for metric in ("removal_share", "oracle_first", "oracle_among_five") for pair in pairs
    }
    share = found["removal_share", "rise", "random"]
    assert (share.pairs, share.queries, share.control) == (3, 3, True)
    # of the pairs that both have: 1.3 / 1.4 less 0.7 / 1.4
    assert share.interval.estimate == pytest.approx(0.6 / 1.4)
    # every resample of a query alone: 1 - 1/2, 1/2 - 1/2
    assert (share.interval.low, share.interval.high) == pytest.approx((0, 0.5))
    assert share.separated is None
    assert found["removal_share", "lime", "random"].interval.estimate == pytest.approx((1.2 - 0.95) / 1.9)
    assert found["oracle_first", "lime", "rise"].interval.estimate == pytest.approx(1 / 3 - 2 / 3)
    assert found["oracle_among_five", "lime", "rise"].interval.estimate == 0
    assert difference(summary, "removal_share", "rise", "confidence").interval.estimate == pytest.approx(0.5 / 1.4)


def test_the_bootstrap_of_shares_is_paired() -> None:
    """A method that always removes half of the oracle more than a control, whatever the oracle removes."""
    oracles = [0.1 * (1 + query) for query in range(8)]
    rows = removed("rise", [0.9 * one for one in oracles], oracles)
    rows += removed("random", [0.4 * one for one in oracles], oracles, control=True)
    interval = difference(summed(rows), "removal_share", "rise", "random").interval
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_average_precision_is_a_mean_over_attributes_without_an_interval() -> None:
    rows = [
        row("average_precision", "model", 0, value, attribute=name, pair_id=None, query_id=None, weight=None)
        for name, value in (("striped", 0.5), ("red", 0.75), ("long", 0.25), ("blue", 0.9))
    ]
    summary = summed(rows)
    one = measure(summary, "average_precision", "model")
    assert one.interval.estimate == pytest.approx(0.6)
    assert math.isnan(one.interval.low)
    assert (one.attributes, one.pairs, one.queries) == (4, 0, 0)


def better_and_worse(metric: str) -> EvaluationSummary:
    """Of 8 queries; on every pair "high" is 0.2 above "low", up to a little noise, and "same" is equal to "high"."""
    rows = []
    for query in range(8):
        value = 0.3 + 0.05 * query
        for method, more in (("low", 0.0), ("high", 0.2 + 0.01 * (query % 2)), ("same", 0.2 + 0.01 * (query % 2))):
            rows.append(row(metric, method, query, value + more, fill="white", map="stored"))
        rows.append(row(metric, "random", query, value - 0.1, fill="white", map="stored", control=True))
        zigzag = value + 0.2 * (-1) ** query
        rows.append(row(metric, "zigzag", query, zigzag, fill="white", map="stored", control=True))
    return summed(rows)


@pytest.mark.parametrize("metric", ["insertion", "insertion_raw", "pointing", "iou", "pixel_auc"])
def test_more_is_better(metric: str) -> None:
    summary = better_and_worse(metric)
    gained = difference(summary, metric, "high", "low")
    assert gained.interval.estimate == pytest.approx(0.205)
    assert (gained.separated, gained.pairs, gained.queries, gained.control) == ("better", 8, 8, False)
    over_control = difference(summary, metric, "low", "random")
    assert over_control.interval.estimate == pytest.approx(0.1)
    assert (over_control.separated, over_control.control) == ("better", True)
    assert difference(summary, metric, "low", "same").separated == "worse"


@pytest.mark.parametrize("metric", ["deletion", "deletion_raw"])
def test_of_deletion_less_is_better(metric: str) -> None:
    summary = better_and_worse(metric)
    assert difference(summary, metric, "high", "low").separated == "worse"
    assert difference(summary, metric, "low", "random").separated == "worse"
    assert difference(summary, metric, "low", "same").separated == "better"


def test_equals_and_noise_are_not_separated() -> None:
    summary = better_and_worse("insertion")
    equal = difference(summary, "insertion", "high", "same")
    assert (equal.interval.estimate, equal.separated) == (0, None)
    noisy = difference(summary, "insertion", "low", "zigzag")
    assert noisy.interval.low < 0 < noisy.interval.high
    assert noisy.separated is None


def test_pairing_separates_what_spreads_more_than_it_differs() -> None:
    rows = [row("iou", "rise", query, 0.1 * query + 0.02 + 0.001 * (query % 2)) for query in range(8)]
    rows += [row("iou", "lime", query, 0.1 * query) for query in range(8)]
    summary = summed(rows)
    assert measure(summary, "iou", "lime").interval.high > measure(summary, "iou", "rise").interval.low
    assert difference(summary, "iou", "lime", "rise").separated == "worse"


def test_rounding_separates_nothing() -> None:
    rows = [row("iou", method, query, value) for query in range(8) for method, value in (("a", 0.1 + 0.2), ("b", 0.3))]
    one = difference(summed(rows), "iou", "a", "b")
    assert one.interval.low > 0
    assert one.separated is None


def test_differences_are_complete_and_of_nothing_else() -> None:
    summary = better_and_worse("insertion")
    found = {(one.first, one.second) for one in summary.differences}
    methods, controls = ("high", "low", "same"), ("random", "zigzag")
    assert found == {(one, control) for one in methods for control in controls} | {
        ("high", "low"), ("high", "same"), ("low", "same"),
    }  # fmt: skip
    assert not better_and_worse("sanity").differences


def test_differences_are_over_the_pairs_that_both_have() -> None:
    rows = [row("insertion", "rise", query, 0.5, fill="white", map="stored") for query in range(4)]
    rows += [row("insertion", "lime", query, 0.1 * query, fill="white", map="stored") for query in range(2, 6)]
    rows.append(row("insertion", "lime", 0, 0.0, fill="blur", map="stored"))
    one = difference(summed(rows), "insertion", "lime", "rise")
    assert one.interval.estimate == pytest.approx((0.2 + 0.3) / 2 - 0.5)
    assert (one.pairs, one.queries, one.fill) == (2, 2, "white")


def test_a_method_is_compared_with_its_own_strangers_only() -> None:
    rows = [row("iou", method, 0, value) for method, value in (("rise", 0.5), ("lime", 0.7), ("rise_2", 0.9))]
    names = ("stranger_rise", "stranger_lime", "stranger_rise_2", "centre")
    rows += [row("iou", name, 0, 0.1, control=True) for name in names]
    found = {(one.first, one.second) for one in summed(rows).differences if one.control}
    methods = ("rise", "lime", "rise_2")
    assert found == {(one, name) for one in methods for name in (f"stranger_{one}", "centre")}


def test_what_shares_its_pairs_is_resampled_as_it_is_alone() -> None:
    rows = [row(metric, "rise", query, 0.1 * query) for query in range(6) for metric in ("iou", "pointing")]
    rows += [row("pixel_auc", "rise", query, 0.1 * query) for query in range(5)]
    together, alone = summed(rows), summed([one for one in rows if one["metric"] == "iou"])
    for metric in ("iou", "pointing"):
        one, other = measure(together, metric).interval, measure(alone, "iou").interval
        assert (one.estimate, one.low, one.high) == pytest.approx((other.estimate, other.low, other.high))
    assert measure(together, "pixel_auc").interval.estimate == pytest.approx(0.2)


def test_a_difference_of_one_query_is_not_separated() -> None:
    rows = [row("iou", "rise", 0, 0.9), row("iou", "random", 0, 0.1, control=True)]
    one = difference(summed(rows), "iou", "rise", "random")
    assert one.interval.estimate == pytest.approx(0.8)
    assert one.separated is None


def test_the_verdict_falls_at_the_first_judged_network_that_is_half_random() -> None:
    rows = [
        *sanity("rise", 0.06, [1.0, 1.0], judged=False),
        *sanity("rise", 0.3, [0.9, 0.8]),
        *sanity("rise", 0.53, [0.1, 0.3]),
        *sanity("rise", 0.8, [0.7, 0.9]),
    ]
    (verdict,) = summed(rows).verdicts
    assert (verdict.depth, verdict.block, verdict.passes, verdict.queries) == (0.53, "block-0.53", True, 2)
    assert verdict.agreement is not None
    assert verdict.agreement.estimate == pytest.approx(0.2)
    assert verdict.text == (
        "rise: agreement with the original 0.20 (0.10 to 0.30) once 53 % of the blocks are random, under 0.5: passes"
    )
    (stricter,) = summed(rows, sanity_limit=0.2).verdicts
    assert (stricter.passes, stricter.straddles) == (False, True)  # 0.2 is not under 0.2


def test_edges_fail() -> None:
    rows = [one for depth in (0.3, 0.53, 1.0) for one in sanity("edges", depth, [1.0, 1.0, 1.0], control=True)]
    (verdict,) = summed(rows).verdicts
    assert (verdict.passes, verdict.control, verdict.straddles) == (False, True, False)
    assert verdict.text == (
        "edges (control): agreement with the original 1.00 (1.00 to 1.00) once 53 % of the blocks are random, not "
        "under 0.5: FAILS: its maps do not depend on what the network has learned"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.95, 0.95], "do not depend on"),
        ([0.9, 1.0], "do not depend on"),
        ([0.94, 0.95], "depend little on"),
        ([0.5, 0.5], "depend little on"),
    ],
)
def test_a_failure_says_how_little_the_network_matters(values: Sequence[float], words: str) -> None:
    (verdict,) = summed(sanity("rise", 0.6, values)).verdicts
    assert verdict.passes is False
    assert verdict.text.endswith(f", not under 0.5: FAILS: its maps {words} what the network has learned")


def test_a_pass_says_nothing_of_the_network_however_high_the_limit() -> None:
    (verdict,) = summed(sanity("rise", 0.6, [0.97, 0.97]), sanity_limit=0.99).verdicts
    assert verdict.text.endswith("under 0.99: passes")


def test_a_network_that_is_not_judged_decides_nothing() -> None:
    head = sanity("rise", 0.5, [0.1, 0.1], judged=False)
    (verdict,) = summed(head).verdicts
    assert (verdict.passes, verdict.depth, verdict.agreement) == (None, None, None)
    assert "nothing to judge" in verdict.text
    (verdict,) = summed([*head, *sanity("rise", 0.75, [0.9, 0.9])]).verdicts
    assert (verdict.passes, verdict.depth) == (False, 0.75)
    (verdict,) = summed([*sanity("rise", 0.5, [None, None]), *sanity("rise", 1.0, [0.1, 0.2])]).verdicts
    assert (verdict.passes, verdict.depth) == (True, 1.0)


def test_a_straddling_interval_is_said() -> None:
    (verdict,) = summed(sanity("rise", 0.6, [0.0, 0.9, 0.1, 0.8])).verdicts
    assert (verdict.passes, verdict.straddles) == (True, True)
    assert verdict.text.endswith("passes (not certain: the interval straddles 0.5)")


def test_every_method_and_place_has_its_verdict() -> None:
    rows = [
        *sanity("rise", 0.6, [0.1, 0.2], map="stored"),
        *sanity("rise", 0.6, [0.8, 0.9], map="full"),
        *sanity("edges", 0.6, [1.0, 1.0], map="stored", control=True),
        row("insertion", "lime", 0, 0.5),
        row("insertion", "random", 0, 0.5, control=True),
    ]
    summary = summed(rows)
    found = [(one.method, one.map, one.passes) for one in summary.verdicts]
    assert found == [
        ("lime", None, None),
        ("rise", "full", False),
        ("rise", "stored", True),
        ("edges", "stored", False),
    ]
    assert summary.verdicts[1].text.startswith("rise (full maps): ")
    assert not summed(rows[-2:]).verdicts


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_the_rows_leaves_no_trace(seed: int) -> None:
    rows = everything()
    mixed = random.Random(seed).sample(rows, len(rows))
    one, other = summarise(rows, resamples=50), summarise(iter(mixed), resamples=50)
    assert json.dumps(record(one)) == json.dumps(record(other))


def test_the_record_is_json() -> None:
    summary = summed([*everything(), row("iou", "lime", 0, None, reason="not_found", message="gone")])
    kept = json.loads(json.dumps(record(summary), allow_nan=False))
    (none,) = (one for one in kept["measures"] if one["method"] == "lime")
    assert none["interval"] == {"estimate": None, "low": None, "high": None}
    assert len(kept["measures"]) == len(summary.measures)
    assert len(kept["differences"]) == len(summary.differences)
    assert kept["reasons"]["not_found"] == 1
    assert kept["examples"]["not_found"] == "gone"
    first = kept["verdicts"][0]
    assert first["text"] == summary.verdicts[0].text
    assert first["passes"] == summary.verdicts[0].passes
