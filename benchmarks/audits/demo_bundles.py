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

from benchmarks.saliency.shortcut import Finding, look
from pipeline.demo import BUNDLES, embedded


@dataclass(frozen=True)
class Agreement:
    """How alike two bundles explain.

    ``correlation`` is the median one of their maps of the same pairs; ``near_badge`` is each one's share of peaks near
    the badge, ``uses_badge`` each one's verdict.
    """

    correlation: float
    near_badge: tuple[float, float]
    uses_badge: tuple[bool | None, bool | None]

    @property
    def alike(self) -> bool:
        """Whether maps correlate (0.91 to 0.997 for other seeds, -0.09 to -0.05 for the other bundle's maps) and both
        come to one verdict.
        """
        one, other = self.uses_badge
        return self.correlation >= 0.7 and one is not None and one == other


def uses_badge(found: Finding) -> bool | None:
    """Whether a network looks at the badge, by its maps and by its similarities; None where they leave it open.

    It does where maps rank the badge's pixels above the others (median AUC 0.9; trained networks have 0.995) and hiding
    the badge costs more than hiding any equal box (in nine pairs of ten; trained ones: in all). It does not where the
    maps hardly know the badge (0.75; trained ones 0.49 to 0.55, by chance 0.5) and hiding it seldom costs most (in half
    of the pairs; trained ones: in none). Peaks alone are too few to judge by: a map that looks elsewhere has its peak
    near the badge now and then.
    """
    ranked, costs_most = float(np.median(found.auc)), float((found.drop_badge > found.drop_elsewhere).mean())
    if ranked >= 0.9 and costs_most >= 0.9:
        return True
    return False if ranked <= 0.75 and costs_most <= 0.5 else None


def agreement(folder: Path, one: str, other: str, *, queries: int = 20, masks: int = 2000) -> Agreement:
    """Compares bundles ``one`` and ``other`` on the badge brand's pairs of the catalogue in ``folder``."""
    found = [look(folder, bundle, [0], masks=masks, queries=queries, references=2) for bundle in (one, other)]
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found[0].maps, found[1].maps, strict=True)]
    first, second = found
    return Agreement(
        correlation=float(np.median(correlations)),
        near_badge=(float(first.near.mean()), float(second.near.mean())),
        uses_badge=(uses_badge(first), uses_badge(second)),
    )


def main() -> int:
    """Compares both bundles; exit code 1 where one does not explain alike."""
    parser = argparse.ArgumentParser(description="Compare freshly trained demo bundles with the embedded ones.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    alike = True
    for name in BUNDLES:
        found = agreement(folder / "catalogue", embedded(name), str(folder / "bundles" / name))
        alike &= found.alike
        print(
            f"{name}: median map correlation {found.correlation:.3f}, peaks near the badge "
            f"{found.near_badge[0]:.1%} embedded, {found.near_badge[1]:.1%} trained now"
        )
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
