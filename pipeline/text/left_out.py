"""What a command could not use, counted by reason, so that it can go on and still say so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class LeftOut:
    """How many things were left out by reason, and the first message of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, message: str) -> None:
        self.counts[reason] += 1
        self.first.setdefault(reason, message)
