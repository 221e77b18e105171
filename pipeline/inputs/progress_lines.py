"""How far a command of one process is, in lines."""

from __future__ import annotations

import time
from collections.abc import Callable

Echo = Callable[[str], None]


class ProgressLines:
    """How much is done, and how long the rest will take: a line for each tenth, at most one a second, and the last."""

    def __init__(self, doing: str, what: str, total: int, echo: Echo) -> None:
        self._doing, self._what, self._total, self._echo = doing, what, total, echo
        self._done, self._tenth = 0, 0
        self._started = self._said = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        tenth, now = 10 * self._done // self._total, time.monotonic()
        if tenth == self._tenth or (now < self._said + 1 and self._done < self._total):
            return
        self._tenth, self._said = tenth, now
        left = round((now - self._started) * (self._total - self._done) / self._done)
        counts = f"{self._done:,} of {self._total:,} {self._what} ({self._done / self._total:.0%})"
        self._echo(f"{self._doing}: {counts}, {left // 60}:{left % 60:02d} left")
