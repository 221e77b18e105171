"""How far a command of one process is, in lines."""

from __future__ import annotations

from transforms.core.messages import Echo
from transforms.core.progress_lines import ProgressLines, share_and_time


def progress_lines(doing: str, what: str, total: int, echo: Echo) -> ProgressLines:
    """A line for each tenth, at most one a second, and the last."""
    return ProgressLines(total, lambda advance: share_and_time(advance, doing, what), echo, 1.0, by_tenths=True)
