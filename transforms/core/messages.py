"""Values and lists of them as they stand in messages."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.core.redaction import redact


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
