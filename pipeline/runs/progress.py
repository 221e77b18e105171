"""A local run's progress, as its launcher shows it."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runs.runners import RunnerProfile
from transforms.beam.progress import Progress
from transforms.core.messages import Echo
from transforms.core.progress_lines import Advance, share_and_time

_INTERVAL = 0.5
"""Seconds between two looks."""


@contextmanager
def watched(
    profile: RunnerProfile,
    echo: Echo,
    *,
    what: str = "pairs",
    doing: str = "explaining",
    before: str = "reading the manifest",
) -> Iterator[Progress]:
    """Where workers report to while the block runs, printed as :class:`Watch` does with the same words.

    Nowhere, where they are on other machines: their runner has a dashboard of its own.
    """
    if not profile.here:
        yield Progress()
        return
    with tempfile.TemporaryDirectory(prefix="whymatch-progress-") as folder:
        progress = Progress(str(Path(folder) / "progress"))
        with Watch(progress, echo, what=what, doing=doing, before=before):
            yield progress


class Watch:
    """Prints a local run's progress: what is being done, how far, and when it will be done.

    On a terminal one line is rewritten; elsewhere a line is printed when a tenth more is done. ``what`` is counted,
    ``doing`` says what is done to it, and ``before`` what comes first. It looks every ``interval`` seconds.
    """

    def __init__(
        self,
        progress: Progress,
        echo: Echo,
        *,
        what: str = "pairs",
        doing: str = "explaining",
        before: str = "reading the manifest",
        interval: float = _INTERVAL,
    ) -> None:
        self._progress, self._echo = progress, echo
        self._what, self._doing, self._before = what, doing, before
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._first: tuple[float, int] | None = None
        self._shown = -1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show(final=True)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _loop(self) -> None:
        while not self._stop.wait(self._interval):
            self._show()

    def _show(self, final: bool = False) -> None:
        line, tenth = self._line()
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif tenth > self._shown or (final and tenth != self._shown):
            self._shown = tenth
            self._echo(line)

    def _line(self) -> tuple[str, int]:
        totals = self._progress.totals()
        done, pairs, embedded = totals["done"], totals["pairs"], totals["images"]
        if not done:
            return f"embedding images: {embedded:,}" if embedded else self._before, 0
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, before = self._first
        advance = Advance(done, pairs, done - before, now - since)
        return share_and_time(advance, self._doing, self._what), 1 + advance.tenths
