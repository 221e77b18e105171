"""Progress of a local run: workers append to one file, the launcher reads it.

Appends of a few bytes are atomic on a local disk, so any number of processes may share the file. Other runners have
their own dashboards and get no file.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Where to report; nowhere, when ``path`` is None."""

    path: str | None = None

    def add(self, kind: str, count: int = 1) -> None:
        """Reports ``count`` more items of ``kind``."""
        if self.path is None:
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{kind} {count}\n".encode())
        finally:
            os.close(descriptor)

    def totals(self) -> Counter[str]:
        """The sum of what has been reported, by kind."""
        totals: Counter[str] = Counter()
        if self.path is None or not Path(self.path).exists():
            return totals
        for line in Path(self.path).read_text().splitlines():
            kind, _, count = line.partition(" ")
            if count.isdigit():
                totals[kind] += int(count)
        return totals
