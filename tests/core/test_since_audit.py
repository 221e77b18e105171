"""When an image is still the one that was audited."""

from __future__ import annotations

import math

import pytest

from transforms.core.since_audit import CHANGED, same_bytes, same_similarity


@pytest.mark.parametrize(("then", "same"), [(None, True), ("a", True), ("b", False), ("", False)])
def test_bytes_are_the_audited_ones_where_nothing_says_otherwise(then: str | None, same: bool) -> None:
    assert same_bytes(then, "a") is same


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (0.5, 0.5 + 0.99 * CHANGED, True),
        (0.5, 0.5 - 1.01 * CHANGED, False),
        # of large values, as of dot products, the part counts
        (-200.0, -201.9, True),
        (-200.0, -202.1, False),
        (None, 0.5, False),
        (math.nan, 0.5, False),
        (0.5, math.nan, False),
        (math.inf, math.inf, False),
    ],
)
def test_similarities_are_the_audited_ones_within_a_part(then: float | None, now: float, same: bool) -> None:
    assert same_similarity(then, now) is same
