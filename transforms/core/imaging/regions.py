"""Known regions of a photograph: how they come from a label image into the model's input frame.

A label image says of every pixel which region it belongs to; a region is the set of pixels of some labels. A map is
judged in the input frame, where it was made (``transforms.core.metrics.regions``), so the labels are brought there.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from transforms.core.errors import NotAnImage
from transforms.core.imaging.headers import PNG, essential
from transforms.core.imaging.images import _TRANSPOSE, ImageLimits, _orientation, decode
from transforms.core.records import Frame

OUTSIDE = -1
"""The label of a pixel of the input frame that shows nothing of the original."""
MOST_LABEL = 2**16 - 1
"""The largest label that a PNG of one channel can hold; the smallest is 0."""

# What a pixel of label 1 is after Pillow has stretched grey of 2 or 4 bits to 8.
_STRETCH = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class FrameRegions:
    """The regions that the model's input frame shows, which are disjoint.

    ``labels`` int64 [H, W] are places in ``names``, ``OUTSIDE`` (-1) where a pixel is of no region: beside the
    original, or in none of the boxes. A region may have no pixel.
    """

    labels: NDArray[np.int64]  # [H, W]
    names: tuple[str, ...]


def labels_in_frame(labels: NDArray[np.integer], frame: Frame) -> NDArray[np.int64]:
    """The label at each pixel of the model's input frame, int64 [H, W]; ``OUTSIDE`` where it shows no original.

    ``labels`` [H0, W0], 0 or more, are those of the original after EXIF. A pixel of the frame has the label of the
    pixel of the original that its centre falls into; on the line between two of them that is the lower or the right
    one. A mean, as of a photograph that is made smaller, would make up labels.
    """
    if labels.shape != frame.original:
        raise ValueError(f"labels of the original's size {frame.original} are needed; got {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels are whole numbers from 0 on; got {labels.dtype} from {labels.min()} on")
    top, left, height, width = frame.box
    rows = _originals(frame.size[0], top, height, frame.original[0])
    columns = _originals(frame.size[1], left, width, frame.original[1])
    shown = np.ix_(rows != OUTSIDE, columns != OUTSIDE)
    found = np.full(frame.size, OUTSIDE, np.int64)
    found[shown] = labels[np.ix_(rows[rows != OUTSIDE], columns[columns != OUTSIDE])]
    return found


def decode_labels(data: bytes, limits: ImageLimits) -> NDArray[np.int32]:
    """The label image in ``data``, int32 [H0, W0], each from 0 to ``MOST_LABEL``; ImageError subclasses, no others.

    A PNG of one channel: grey of 1 to 16 bits, whose values are the labels, or a palette, whose indices are; the
    colours are not looked at. It is turned as EXIF says, and held to ``limits``, like a photograph. NotAnImage for any
    other format, and for colour or transparency in channels: which label would they be?
    """
    # Decoded as a photograph first: whatever is refused there is refused here, for the same reason and as early. The
    # second time no more memory is taken than the first, and nothing can fail that did not then.
    decode(data, limits)
    if not data.startswith(PNG):
        raise NotAnImage("a label image is a PNG, since other formats change its values; save the labels as a PNG")
    with PIL.Image.open(io.BytesIO(essential(data)), formats=("PNG",)) as image:
        if image.mode not in ("1", "L", "P", "I;16"):
            raise NotAnImage(
                f"a label image has one channel, grey or a palette, and this one has the mode {image.mode}; "
                "save the labels themselves, not their colours"
            )
        stretch = _STRETCH.get(str(image.tile[0].args), 1)
        image.load()
        turn = _TRANSPOSE.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        return np.asarray(upright).astype(np.int32) // stretch


def _originals(pixels: int, start: float, length: float, originals: int) -> NDArray[np.int64]:
    """Along one axis: the original's pixel at the centre of each of the frame's ``pixels``, or ``OUTSIDE``."""
    centres = start + (np.arange(pixels) + 0.5) * length / pixels
    inside = (centres >= 0) & (centres < originals)
    return np.where(inside, np.floor(centres), OUTSIDE).astype(np.int64)
