"""One image of one pair that is to be explained against the other: the unit of explaining."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.core.records import Pair, Side


@dataclass(frozen=True, slots=True)
class ExplanationTarget:
    """One pair, one of whose images is to be explained: ``side``."""

    pair: Pair
    side: Side

    @property
    def explained(self) -> str:
        """The address of the image that is explained."""
        return self.pair.query if self.side == "query" else self.pair.reference

    @property
    def counterpart(self) -> str:
        """The address of the image that it is compared with."""
        return self.pair.reference if self.side == "query" else self.pair.query

    @property
    def regions(self) -> str | None:
        """What the catalogue says of the regions of the image that is explained."""
        return self.pair.query_regions if self.side == "query" else self.pair.reference_regions
