"""A summary as JSON takes it, for programs to read."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pipeline.evaluation.summary.findings import EvaluationSummary


def record(summary: EvaluationSummary) -> dict[str, Any]:
    """All numbers of ``summary``, as JSON takes them: None where there is no number."""
    return {
        "sanity_limit": summary.sanity_limit,
        "measures": [_plain(asdict(one)) for one in summary.measures],
        "differences": [_plain(asdict(one)) for one in summary.differences],
        "verdicts": [_plain(asdict(one)) for one in summary.verdicts],
        "reasons": dict(sorted(summary.reasons.items())),
        "examples": dict(summary.examples),
    }


def _plain(value: Any) -> Any:
    """``value`` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
