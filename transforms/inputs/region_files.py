"""The regions of a product's photograph, their names and pixels: from a label image and its legend, or from boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms import storage
from transforms.core.errors import NotAnImage
from transforms.core.imaging.images import ImageLimits
from transforms.core.imaging.regions import MOST_LABEL, OUTSIDE, FrameRegions, decode_labels, labels_in_frame
from transforms.core.records import Frame, Product
from transforms.inputs.region_boxes import MAX_NAMES, boxes_in_frame, read_boxes
from transforms.inputs.region_legend import UNNAMED, Legend

_BOXES = "boxes:"  # begins a source of boxes; a resolved address is a path from the root, or begins with its scheme


@dataclass(frozen=True)
class RegionReader:
    """Reads regions under limits; ``legend`` names the labels of label images."""

    access: storage.Access
    limits: ImageLimits
    legend: Legend

    def region(self, address: str, frame: Frame, labels: frozenset[int]) -> NDArray[np.bool_]:
        """Where in ``frame`` the label image at ``address`` has one of ``labels``: bool [H, W], perhaps nowhere True.

        What the frame shows beside the original belongs to no region. PairError, and nothing else, for bad input: also
        where the label image has another size than the photograph, both after EXIF, for then it is of another picture.
        """
        return np.isin(self._labels(address, frame), sorted(labels))

    def frame(self, source: str, frame: Frame) -> FrameRegions:
        """The regions of ``source`` in ``frame``; PairError, and nothing else, for bad input.

        ``source`` is from :func:`source_of`. A label image's regions have the legend's names, in its order; of several
        names for one label the first. A label that the legend does not name is "(label 7)".
        """
        if source.startswith(_BOXES):
            return boxes_in_frame(read_boxes(source.removeprefix(_BOXES)), frame)
        found = self._labels(source, frame)
        names: dict[int, str] = {}
        for name, label in self.legend.regions.items():
            names.setdefault(label, name)
        unnamed = [int(label) for label in np.unique(found) if label != OUTSIDE and int(label) not in names]
        if len(unnamed) > MAX_NAMES:
            raise NotAnImage(
                f"the label image has {len(unnamed)} labels that the legend does not name, at most {MAX_NAMES} are "
                "taken; is it the photograph itself, or has it a label for each object?"
            )
        places = np.full(MOST_LABEL + 2, OUTSIDE, np.int64)  # the last one stands for OUTSIDE, which is -1
        places[[*names, *unnamed]] = np.arange(len(names) + len(unnamed))
        return FrameRegions(places[found], (*names.values(), *(f"{UNNAMED}{label})" for label in unnamed)))

    def _labels(self, address: str, frame: Frame) -> NDArray[np.int64]:
        """The labels in ``frame``, int64 [H, W]."""
        found = decode_labels(storage.read_image(address, self.access), self.limits)
        if found.shape != frame.original:
            labelled, photographed = (f"{height} x {width}" for height, width in (found.shape, frame.original))
            raise NotAnImage(
                f"the label image has {labelled} pixels (height x width) and its photograph {photographed}; "
                "a label image has one label for every pixel of the photograph"
            )
        return labels_in_frame(found, frame)


def source_of(product: Product) -> str | None:
    """Where the regions of ``product`` come from, for :meth:`RegionReader.frame`: an address, or boxes as text.

    Where the catalogue gives both, the label image: it has a shape where boxes have corners.
    """
    if product.regions is not None or product.boxes is None:
        return product.regions
    return f"{_BOXES}{product.boxes}"
