"""Do freshly trained demo bundles explain like those that lie in the repository?

    python -m benchmarks.audits.demo_bundles FOLDER        FOLDER as examples/demo/train.sh writes it

Prints, for either bundle, how far the maps of the same pairs agree and what share of peaks lies on the badge.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.saliency.shortcut import look
from pipeline.demo import BUNDLES, embedded


@dataclass(frozen=True)
class Agreement:
    """How alike two bundles explain: the median correlation of maps, and each one's share of peaks near the badge."""

    correlation: float
    near_badge: tuple[float, float]

    @property
    def same_verdict(self) -> bool:
        """Whether both find the shortcut (80 % of the peaks or more), or neither does (under 10 %)."""
        one, other = self.near_badge
        return min(one, other) >= 0.8 or max(one, other) < 0.1


def agreement(folder: Path, one: str, other: str, *, queries: int = 20, masks: int = 2000) -> Agreement:
    """Compares bundles ``one`` and ``other`` on the badge brand's pairs of the catalogue in ``folder``."""
    found = [look(folder, bundle, [0], masks=masks, queries=queries, references=2) for bundle in (one, other)]
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found[0].maps, found[1].maps, strict=True)]
    return Agreement(float(np.median(correlations)), (float(found[0].near.mean()), float(found[1].near.mean())))


def main() -> int:
    """Compares both bundles; exit code 1 where one does not explain alike."""
    parser = argparse.ArgumentParser(description="Compare freshly trained demo bundles with the embedded ones.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    alike = True
    for name in BUNDLES:
        found = agreement(folder / "catalogue", embedded(name), str(folder / "bundles" / name))
        alike &= found.correlation >= 0.8 and found.same_verdict
        print(
            f"{name}: median map correlation {found.correlation:.3f}, peaks near the badge "
            f"{found.near_badge[0]:.1%} embedded, {found.near_badge[1]:.1%} trained now"
        )
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
