"""What a command says of its progress."""

from __future__ import annotations

from transforms.core.messages import Echo
from transforms.core.progress_lines import ProgressLines, of_total

_SECONDS = 10.0  # between two lines of progress


def progress_lines(doing: str, what: str, total: int, echo: Echo) -> ProgressLines:
    """How much there is to do, and a line every few seconds of how much is done and how long the rest will take."""
    echo(f"{doing}: {total:,} {what}")
    return ProgressLines(
        total,
        lambda advance: f"  {of_total(advance, what)}, {advance.left:,.0f} s to go",
        echo,
        _SECONDS,
        by_tenths=False,
    )
