"""What the pictures share: figures, files, colours that all readers tell apart, and names as matplotlib takes them.

Equal rows give equal bytes, with one version of matplotlib. It is imported only where something is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.evaluation.summary.wording import LONGEST_NAME
from pipeline.text.tables import cut, printable
from transforms.core.errors import MissingDependency

# Okabe and Ito's colours, which colour-blind readers tell apart; for their yellow, lost on white paper, Tol's wine
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
_WIDTH, _DPI = 10.0, 100  # 1000 pixels


def new_figure(height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # without pyplot: no display and no state that stays
    except ImportError:
        raise MissingDependency("pictures need matplotlib. Run: pip install 'whymatch[report]'") from None
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # without matplotlib's version in it: of equal pictures the bytes are equal
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def label_of(method: str, control: bool) -> str:
    """A name that matplotlib takes as text: no formula, and no "_", which would keep it out of the legend."""
    shown = cut(printable(method), LONGEST_NAME).lstrip("_").replace("$", r"\$")
    return f"{shown} (control)" if control else shown


def place_of(side: str, fill: str, maps: set[str | None]) -> str:
    named = " and ".join(sorted(map_ for map_ in maps if map_))
    parts = (
        f"{side} side" if side not in ("", "query") else "",
        f"fill {fill}" if fill else "",
        f"{named} maps" if named else "",
    )
    return printable(", ".join(filter(None, parts))).replace("$", r"\$")
