"""What a local run's launcher shows of its progress: counted over all writers, said when a tenth more is done."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.runs.progress import Watch
from transforms.beam.progress import Progress


def test_what_many_writers_report_adds_up(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")

    def report(_: int) -> None:
        own = Progress(path)
        for _ in range(200):
            own.add("pairs", 7)
            own.add("done")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    assert Progress(path).totals() == {"pairs": 8 * 200 * 7, "done": 8 * 200}


def test_nothing_is_reported_to_nowhere(tmp_path: Path) -> None:
    Progress().add("pairs")
    assert Progress().totals() == {}
    assert Progress(str(tmp_path / "not yet")).totals() == {}


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(str(tmp_path / "progress"))


def at(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """The clock shows ``seconds``, one after the other."""
    clock = iter(seconds)
    monkeypatch.setattr("pipeline.runs.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))


def shown(watch: Watch, said: list[str]) -> str:
    watch._show()
    return said[-1]


def test_a_line_says_how_far_and_how_long(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    watch = Watch(progress, said.append)
    at(monkeypatch, 100, 160, 190)
    assert shown(watch, said) == "reading the manifest"
    progress.add("images", 1500)
    assert watch._line()[0] == "embedding images: 1,500"
    progress.add("pairs", 400)
    progress.add("done", 10)
    assert shown(watch, said) == "explaining: 10 of 400 pairs (2%)"
    progress.add("done", 30)
    # 30 pairs in a minute: the 360 that are left take 12 minutes
    assert shown(watch, said) == "explaining: 40 of 400 pairs (10%), 12:00 left"
    progress.add("done", 45)
    # 75 in a minute and a half since the first
    assert shown(watch, said) == "explaining: 85 of 400 pairs (21%), 6:18 left"


def test_a_watch_says_what_it_counts(progress: Progress) -> None:
    said: list[str] = []
    watch = Watch(progress, said.append, what="explanations", doing="measuring", before="reading the tables")
    assert shown(watch, said) == "reading the tables"
    progress.add("pairs", 8)
    progress.add("done", 2)
    assert shown(watch, said) == "measuring: 2 of 8 explanations (25%)"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (7265, "2:01:05")],
)
def test_times_in_words(progress: Progress, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str) -> None:
    watch = Watch(progress, lambda _: None)
    at(monkeypatch, 50, 50 + seconds)
    progress.add("pairs", 3)
    progress.add("done")
    watch._show()
    progress.add("done")  # one in ``seconds``, and one is left
    assert watch._line()[0].endswith(f"(67%), {words} left")


def run_of(progress: Progress, watch: Watch, done: Sequence[int]) -> None:
    """Shows the progress after every so many pairs of 100."""
    progress.add("pairs", 100)
    for count in done:
        progress.add("done", count)
        watch._show()


def test_a_line_is_printed_when_a_tenth_more_is_done(progress: Progress) -> None:
    said: list[str] = []
    run_of(progress, Watch(progress, said.append), [1, 1, 1, 7, 5, 4, 1, 79])
    assert [line.split(" of")[0].split()[-1] for line in said] == ["1", "10", "20", "99"]


def test_the_last_line_is_printed_at_the_end_and_once(progress: Progress) -> None:
    said: list[str] = []
    with Watch(progress, said.append, interval=3600) as watch:
        run_of(progress, watch, [50])
        progress.add("done", 50)
    assert [line.partition(",")[0] for line in said] == [
        "explaining: 50 of 100 pairs (50%)",
        "explaining: 100 of 100 pairs (100%)",
    ]
    with Watch(progress, said.append, interval=3600) as watch:
        watch._show()
    assert len(said) == 3


def test_the_last_line_is_printed_though_pairs_were_found_behind_it(progress: Progress) -> None:
    said: list[str] = []
    with Watch(progress, said.append, interval=3600) as watch:
        run_of(progress, watch, [100])
        progress.add("pairs", 100)
    assert said[-1].startswith("explaining: 100 of 200 pairs (50%)")


def test_it_is_shown_while_the_run_goes_on(progress: Progress) -> None:
    said = threading.Event()
    with Watch(progress, lambda _: said.set(), interval=0.001):
        assert said.wait(60)


def test_a_terminal_has_one_line_that_is_cleared_at_the_end(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    said: list[str] = []
    with Watch(progress, said.append, interval=3600) as watch:
        run_of(progress, watch, [10, 1])
    lines = terminal.getvalue().split("\r\033[K")
    assert lines[0] == lines[-1] == ""
    assert [line.partition(",")[0] for line in lines[1:-1]] == [
        "explaining: 10 of 100 pairs (10%)",
        "explaining: 11 of 100 pairs (11%)",
        "explaining: 11 of 100 pairs (11%)",
    ]
    assert not said
