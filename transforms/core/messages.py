"""Messages: where they go, and how values and lists of them stand in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transforms.core.redaction import redact

Echo = Callable[[str], None]
"""What a line is given to that says how far something is, or what was found: ``print``, mostly."""


def listed(columns: Sequence[str], limit: int = 30) -> str:
    """``columns`` for a message."""
    more = f" and {len(columns) - limit} more" if len(columns) > limit else ""
    return ", ".join(map(quoted, columns[:limit])) + more


def quoted(text: str) -> str:
    """``text`` as a message quotes it: redacted, cut, and with all that does not print escaped."""
    if len(text) > 1000:
        return f"a text of {len(text)} characters"
    public = redact(text)
    return repr(public if len(public) <= 60 else public[:59] + "…")
