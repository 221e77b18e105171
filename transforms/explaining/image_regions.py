"""The regions of an explained image that a catalogue knows, and whether they hold the evidence for an attribute."""

from __future__ import annotations

from dataclasses import dataclass, field

from transforms.core.errors import PairError
from transforms.core.explanation import Explanation, Regions
from transforms.core.records import Frame
from transforms.inputs.region_files import RegionReader

EVERYWHERE = 0.99
"""The share of a frame's area from which an attribute counts as seen everywhere."""


@dataclass(eq=False)
class ImageRegions:
    """Regions of the image in ``frame``, each source read once; none where there is no ``reader``."""

    reader: RegionReader | None
    frame: Frame
    _read: dict[str, Regions | str] = field(default_factory=dict, repr=False)

    def read(self, source: str | None) -> Regions | str | None:
        """The image's regions as ``source`` gives them, a reason code where it cannot be read, None without one."""
        if source is None or self.reader is None:
            return None
        if source not in self._read:
            try:
                found = self.reader.frame(source, self.frame)
                self._read[source] = found.labels, found.names
            except PairError as error:
                self._read[source] = error.reason
        return self._read[source]

    def evidence_elsewhere(self, explanation: Explanation, attribute: str) -> bool:
        """Whether the regions that, as the legend says, show ``attribute`` hold no more of the evidence than of the
        area: no more than a map that knows nothing would leave there."""
        if self.reader is None:
            return False
        shown = {region.name: self.reader.legend.shows(region.name, attribute) for region in explanation.regions}
        if all(shows is None for shows in shown.values()):
            return False
        visible = [region for region in explanation.regions if shown[region.name]]
        area = sum(region.area for region in visible)
        # where it is seen everywhere, evidence cannot lie elsewhere; sums of shares are not exact
        return area < EVERYWHERE and sum(region.share for region in visible) <= area + 1e-9
