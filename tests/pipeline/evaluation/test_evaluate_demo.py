"""Insertion and deletion where the truth is known: a perfect, a random and an inverted map rank in that order."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evaluation.truth import TRUE_REGION, areas
from pipeline.demo.folder import draw


@pytest.mark.parametrize("bundle", TRUE_REGION)
def test_a_perfect_a_random_and_an_inverted_map_rank_in_that_order(tmp_path: Path, bundle: str) -> None:
    draw(tmp_path / "demo", products=120, queries=12, references=1)
    found = areas(tmp_path / "demo", bundle, 8)
    shown, hidden = ({kind: float(each[:, at].mean()) for kind, each in found.items()} for at in (0, 1))
    assert all(len(each) >= 6 for each in found.values())
    assert shown["perfect"] > shown["random"] > shown["inverted"]
    assert hidden["perfect"] < hidden["random"] < hidden["inverted"]
