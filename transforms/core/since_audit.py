"""Whether an image is still the one that was audited.

Without this an image that was replaced since would make a good map look bad, and a bad one sane.
"""

from __future__ import annotations

CHANGED = 1e-2
"""A similarity that differs by more than this part from the audited one is of other images: devices differ by less."""


def same_bytes(then: str | None, now: str) -> bool:
    """Whether an image whose file has the sha256 ``now`` is that of the audit; True where the audit does not say."""
    return then is None or then == now


def same_similarity(then: float | None, now: float) -> bool:
    """Whether a pair whose similarity is ``now`` is of the images of the audit, which found ``then``.

    False where either is no number, or none.
    """
    # the other way round a NaN would pass
    return then is not None and abs(now - then) <= CHANGED * max(1.0, abs(then))
