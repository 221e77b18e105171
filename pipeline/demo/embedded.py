"""The demo's model bundles, which come with the package; ``make demo-bundle`` trains them again."""

from __future__ import annotations

from pathlib import Path

from transforms.core.errors import UsageError

BUNDLES = ("category", "brand")
"""``category``: garments of one category are similar. ``brand``: those of one brand, which makes a network look for the
badge that one brand's photographs carry."""


def embedded(name: str) -> str:
    """The folder of the embedded bundle ``name``."""
    if name not in BUNDLES:
        raise UsageError(f"the embedded bundles are {', '.join(BUNDLES)}; there is no {name!r}")
    return str(Path(__file__).parent / "bundles" / name)
