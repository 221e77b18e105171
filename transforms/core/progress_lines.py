"""How far a count has come, in words, and when to say so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from transforms.core.messages import Echo


@dataclass(frozen=True, slots=True)
class Advance:
    """``done`` of ``total`` items, ``made`` of them in the last ``seconds``, by which the rest is foreseen."""

    done: int
    total: int
    made: int
    seconds: float

    @property
    def tenths(self) -> int:
        """Whole tenths that are done, 0 to 10."""
        return 10 * self.done // self.total

    @property
    def left(self) -> float:
        """Seconds that the rest will take."""
        return self.seconds * (self.total - self.done) / self.made


def of_total(advance: Advance, what: str) -> str:
    """Such as ``40 of 400 pairs``."""
    return f"{advance.done:,} of {advance.total:,} {what}"


def share_and_time(advance: Advance, doing: str, what: str) -> str:
    """Such as ``explaining: 40 of 400 pairs (10%), 12:00 left``; without the time where nothing was made to tell by."""
    left = f", {clock(advance.left)} left" if advance.made else ""
    return f"{doing}: {of_total(advance, what)} ({advance.done / advance.total:.0%}){left}"


def clock(seconds: float) -> str:
    """Such as ``12:00`` and ``1:02:09``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class ProgressLines:
    """Says ``line`` of how far a loop over ``total`` items is, not more often than every ``pause`` seconds.

    With ``by_tenths`` only when a tenth more is done, and always at the end; without, never at the end.
    """

    def __init__(
        self, total: int, line: Callable[[Advance], str], echo: Echo, pause: float, *, by_tenths: bool
    ) -> None:
        self._total, self._line, self._echo, self._pause, self._by_tenths = total, line, echo, pause, by_tenths
        self._done = self._tenths = 0
        self._started = self._said = time.monotonic()

    def add(self, count: int) -> None:
        """``count`` more items are done."""
        self._done += count
        now = time.monotonic()
        advance = Advance(self._done, self._total, self._done, now - self._started)
        if self._is_due(advance, now):
            self._tenths, self._said = advance.tenths, now
            self._echo(self._line(advance))

    def _is_due(self, advance: Advance, now: float) -> bool:
        paused, ended = now >= self._said + self._pause, self._done >= self._total
        if self._by_tenths:
            return advance.tenths != self._tenths and (paused or ended)
        return paused and not ended
