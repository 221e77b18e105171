"""What an evaluation fails for: nothing to judge, too many failures of one method, a metric without a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.closing import faults, finish
from pipeline.evaluation.options import EvaluateOptions
from tests.support.tables.metrics import row, sanity, summed
from tests.support.tables.rows import STARTED
from transforms import storage, tables
from transforms.tables import Row
from transforms.tables.parquet import to_parquet


def asked(*metrics: str, **more: Any) -> EvaluateOptions:
    return EvaluateOptions("tables", "bundle", "e1", metrics=metrics, catalogue="products.csv", **more)


def found(options: EvaluateOptions, rows: list[Row]) -> list[str]:
    return list(faults(options, summed(rows, sanity_limit=options.max_agreement)))


def some(metric: str, method: str, values: int, failed: int, reason: str = "not_found", **more: Any) -> list[Row]:
    """Rows of which some have no value."""
    rows = [row(metric, method, query, 0.5, **more) for query in range(values)]
    rows += [row(metric, method, values + at, None, reason=reason, message="why", **more) for at in range(failed)]
    return rows


def test_what_has_a_value_holds() -> None:
    assert found(asked("iou", region="shoe"), some("iou", "rise", 19, 1)) == []


def test_a_method_whose_sanity_cannot_be_judged_fails() -> None:
    rows = sanity("rise", 0.6, [0.1, 0.2])
    assert found(asked("sanity"), rows) == []
    unjudged = sanity("lime", 0.6, [0.1, 0.2], judged=False)
    (text,) = found(asked("sanity"), rows + unjudged)
    assert text.startswith("lime: nothing to judge")
    assert found(asked("sanity"), rows + sanity("edges", 0.6, [1.0, 1.0], control=True)) == []
    (text,) = found(asked("sanity"), sanity("rise", 0.6, [0.9, 0.8]))
    assert "FAILS" in text


def test_the_rate_is_of_each_metric_and_method() -> None:
    """Of all rows together 1 in 21 failed; of lime's IoU all."""
    rows = some("iou", "rise", 10, 0) + some("pointing", "rise", 10, 0) + some("pointing", "lime", 10, 0)
    rows += some("iou", "lime", 0, 1)
    options = asked("iou", "pointing", region="shoe")
    assert found(options, rows) == [
        "iou of lime: 100.0% of the measures could not be taken, more than --max-failure-rate 5.0%"
    ]
    assert found(asked("iou", "pointing", region="shoe", max_failure_rate=1.0), rows) == []


def test_metrics_that_fail_alike_are_told_together() -> None:
    rows = [one for metric in ("insertion", "insertion_raw", "deletion") for one in some(metric, "rise", 3, 1)]
    (text,) = found(asked("insertion", "deletion"), rows)
    assert text.startswith("insertion, deletion, insertion_raw of rise: 25.0% of the measures could not be taken")


def test_fills_and_sides_are_added_up() -> None:
    rows = some("insertion", "rise", 19, 0, fill="mean") + some("insertion", "rise", 0, 1, fill="blur")
    assert found(asked("insertion"), rows) == []
    assert found(asked("insertion", max_failure_rate=0.04), rows)


def test_controls_fail_nothing_and_hold_nothing() -> None:
    rows = some("iou", "rise", 5, 0) + some("iou", "random", 0, 9, control=True)
    assert found(asked("iou", region="shoe"), rows) == []
    (text, *_) = found(asked("iou", region="shoe"), some("iou", "random", 5, 0, control=True))
    assert text == "iou has no value at all: there was nothing to measure it on"


def test_what_cannot_be_judged_is_neither_a_failure_nor_a_success() -> None:
    rows = some("removal", "rise", 19, 0) + some("removal", "rise", 0, 40, "not_scored")
    assert found(asked("removal"), rows) == []
    # 1 failure beside 4 values, whatever cannot be judged
    rows = some("removal", "rise", 4, 1) + some("removal", "rise", 0, 95, "not_scored", pair=1)
    assert "20.0%" in found(asked("removal"), rows)[0]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "average_precision has no value at all: there was nothing to measure it on"),
        (some("average_precision", "m", 0, 2), "average_precision has no value at all: not_found, such as: why"),
    ],
)
def test_a_metric_without_a_value_says_why(rows: list[Row], why: str) -> None:
    assert found(asked("average_precision", max_failure_rate=1.0), rows) == [why]


def test_removal_of_which_no_pair_is_scored_says_why() -> None:
    rows = [
        row("removal", "rise", query, None, reason="not_scored", message=why) for query, why in enumerate("baa\x1b")
    ]
    assert found(asked("removal"), rows) == ["removal has no value at all: a (2); \\x1b (1); b (1)"]


@pytest.mark.parametrize(("left_out", "shown"), [(None, False), (0, False), (1234, True)])
def test_products_that_were_left_out_are_told(tmp_path: Path, left_out: int | None, shown: bool) -> None:
    counts = ("sampling_seed", "explanations_read", "explanations_measured", "explanations_not_sampled", "images")
    more = ("measurements", "measurements_failed", "forward_passes")
    evaluation: Row = dict.fromkeys((*counts, *more), 1) | {
        "evaluation_id": "e1", "started": STARTED, "finished": STARTED, "whymatch_version": "0", "versions": "{}",
        "configuration": "{}", "model_id": "m0", "sample_rate": 1.0, "products_left_out": left_out,
    }  # fmt: skip
    for table, rows in (("evaluations", [evaluation]), ("metrics", some("iou", "rise", 3, 0))):
        address = storage.join(tables.folder(str(tmp_path), table, "one"), tables.part(0, "e1"))
        storage.publish(address, to_parquet(tables.to_arrow(table, rows)))
    said: list[str] = []
    options = EvaluateOptions(str(tmp_path), "bundle", "e1", metrics=("iou",), catalogue="p.csv", region="shoe")
    assert finish(options, "one", 1.0, said.append)
    assert ("products left out  1,234" in said) == shown
    assert any("products left out" in line for line in said) == shown
