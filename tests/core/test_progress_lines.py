"""How far a count has come: its words, and when they are said."""

from __future__ import annotations

import pytest

from transforms.core.progress_lines import Advance, ProgressLines, clock, of_total, share_and_time


def test_words() -> None:
    advance = Advance(done=40, total=400, made=30, seconds=60.0)
    assert of_total(advance, "pairs") == "40 of 400 pairs"
    # 30 in a minute: the 360 that are left take 12
    assert share_and_time(advance, "explaining", "pairs") == "explaining: 40 of 400 pairs (10%), 12:00 left"
    nothing_yet = Advance(done=1500, total=4000, made=0, seconds=0.0)
    assert share_and_time(nothing_yet, "explaining", "pairs") == "explaining: 1,500 of 4,000 pairs (38%)"
    assert [clock(seconds) for seconds in (0.4, 59.6, 3600, 3729)] == ["0:00", "1:00", "1:00:00", "1:02:09"]


def said(
    monkeypatch: pytest.MonkeyPatch, times: list[float], total: int, pause: float, *, by_tenths: bool
) -> list[str]:
    """What is said of one item after another, done at ``times`` after the start."""
    clock_ = iter([0.0, *times])
    monkeypatch.setattr("transforms.core.progress_lines.time.monotonic", lambda: next(clock_))
    found: list[str] = []
    lines = ProgressLines(total, lambda one: f"{one.done} {one.left:.0f}", found.append, pause, by_tenths=by_tenths)
    for _ in times:
        lines.add(1)
    return found


def test_by_tenths_not_more_than_one_a_second_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, [0.5, 2.0, 2.1, 2.2], 4, 1.0, by_tenths=True) == ["2 2", "4 0"]
    times = [float(second) for second in range(1, 41)]
    assert said(monkeypatch, times, 40, 1.0, by_tenths=True) == [f"{done} {40 - done}" for done in range(4, 41, 4)]


def test_every_few_seconds_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, [9.0, 10.0, 19.0, 20.0, 40.0], 5, 10.0, by_tenths=False) == ["2 15", "4 5"]
