"""Rows of the table metrics, for tests that need some, and what an evaluation's summary says of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.summary.findings import Difference, EvaluationSummary, Measure
from pipeline.evaluation.summary.summarise import summarise
from transforms.tables import Row


def row(metric: str, method: str, query: int, value: float | None, *, pair: int = 0, **more: Any) -> Row:
    """A row of the table metrics: of pair number ``pair`` of a query."""
    return {
        "evaluation_id": "e1",
        "metric": metric,
        "method": method,
        "control": False,
        "pair_id": f"p{query}-{pair}",
        "query_id": f"q{query}",
        "reference_id": f"r{pair}",
        "condition": None,
        "side": "query",
        "explainer_id": "e0",
        "model_id": "m0",
        "value": value,
        "count": 101,
        "fill": None,
        "map": None,
        "block": None,
        "depth": None,
        "judged": None,
        "attribute": None,
        "curve": None,
        "reason": None,
        "message": None,
        "stratum": "all",
        "weight": 1.0,
        **more,
    }


def sanity(method: str, depth: float, values: Sequence[float | None], **more: Any) -> list[Row]:
    """The agreements of one network, a query each."""
    details = {"block": f"block-{depth}", "depth": depth, "judged": True, **more}
    return [row("sanity", method, query, value, **details) for query, value in enumerate(values)]


def summed(rows: Sequence[Row], **more: Any) -> EvaluationSummary:
    return summarise(rows, resamples=500, **more)


def measure(summary: EvaluationSummary, metric: str, method: str = "rise", **more: Any) -> Measure:
    (found,) = (
        one
        for one in summary.measures
        if (one.metric, one.method) == (metric, method)
        and all(getattr(one, name) == value for name, value in more.items())
    )
    return found


def difference(summary: EvaluationSummary, metric: str, first: str, second: str, **more: Any) -> Difference:
    (found,) = (
        one
        for one in summary.differences
        if (one.metric, one.first, one.second) == (metric, first, second)
        and all(getattr(one, name) == value for name, value in more.items())
    )
    return found


def everything() -> list[Row]:
    """Rows of every metric, some without a value, for two methods and two controls."""
    rng = random.Random(5)
    rows: list[Row] = []
    for query in range(7):
        for pair in range(2):
            for method, control in (
                ("rise", False),
                ("integrated_gradients", False),
                ("random", True),
                ("edges", True),
            ):
                own: dict[str, Any] = {"pair": pair, "control": control, "map": "stored", "weight": 1.0 + query % 2}
                for metric in ("insertion", "deletion", "insertion_raw", "deletion_raw"):
                    rows += [row(metric, method, query, rng.random(), fill=fill, **own) for fill in ("white", "mean")]
                rows += [row(metric, method, query, rng.random(), **own) for metric in ("pointing", "iou", "pixel_auc")]
                for depth in (0.06, 0.5, 1.0):
                    value = None if rng.random() < 0.2 else rng.uniform(-1, 1)
                    more: dict[str, Any] = {
                        "block": f"b{depth}",
                        "depth": depth,
                        "judged": depth > 0.1,
                        "reason": "non_finite_map",
                    }
                    rows.append(row("sanity", method, query, value, **more, **own))
                agreements = ("seeds", "noise", "shuffled", "stranger")
                rows += [row(metric, method, query, rng.uniform(-1, 1), **own) for metric in agreements]
                parts = ("removal", "removal_oracle", "oracle_first", "oracle_among_five", "surprise")
                rows += [row(metric, method, query, rng.random(), **own) for metric in parts]
    for name in ("red", "blue"):
        rows.append(row("average_precision", "model", 0, rng.random(), query_id=None, pair_id=None, attribute=name))
    return rows
