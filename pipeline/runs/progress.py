"""A local run's progress, as its launcher shows it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from transforms.beam.progress import Progress

Echo = Callable[[str], None]


class Watch:
    """Prints a local run's progress: what is being done, how far, and when it will be done.

    On a terminal one line is rewritten; elsewhere a line is printed when a tenth more is done. ``what`` is counted,
    ``doing`` says what is done to it, and ``before`` what comes first.
    """

    def __init__(
        self,
        progress: Progress,
        echo: Echo,
        interval: float = 0.5,
        *,
        what: str = "pairs",
        doing: str = "explaining",
        before: str = "reading the manifest",
    ) -> None:
        self._progress, self._echo, self._interval = progress, echo, interval
        self._what, self._doing, self._before = what, doing, before
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
        left = f", {_clock((now - since) * (pairs - done) / (done - before))} left" if done > before else ""
        return f"{self._doing}: {done:,} of {pairs:,} {self._what} ({done / pairs:.0%}){left}", 1 + 10 * done // pairs


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
