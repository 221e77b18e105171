"""What a command says of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable

Echo = Callable[[str], None]

_SECONDS = 10.0  # between two lines of progress


class Progress:
    """How much is done and how long the rest will take, a line every few seconds."""

    def __init__(self, doing: str, what: str, total: int, echo: Echo) -> None:
        self._doing, self._what, self._total, self._echo = doing, what, total, echo
        self._done = 0
        self._started = self._said = time.monotonic()
        echo(f"{doing}: {total:,} {what}")

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now < self._said + _SECONDS or self._done >= self._total:
            return
        self._said = now
        left = (now - self._started) / self._done * (self._total - self._done)
        self._echo(f"  {self._done:,} of {self._total:,} {self._what}, {left:,.0f} s to go")
