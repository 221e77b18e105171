"""A saliency map over its photograph: the colours, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from transforms.core.imaging import images
from transforms.core.records import Float32, Float64, Frame, Image

# Light to dark, evenly in lightness: on a catalogue's white ground more evidence is always more ink, also in print and
# for a colour-blind reader. Between the anchors (RGB, equally spaced) it is linear. After ColorBrewer's YlOrRd.
_ANCHORS = np.array(
    [
        (255, 255, 204), (255, 237, 160), (254, 217, 118), (254, 178, 76), (253, 141, 60),
        (252, 78, 42), (227, 26, 28), (189, 0, 38), (128, 0, 38),
    ],
    np.float64,
)  # fmt: skip
_OPACITY = 0.8  # of the strongest evidence; what lies below stays visible
_GAMMA = 0.75  # below 1: weak evidence shows; 0 stays invisible
_UNSEEN = np.array((206, 210, 216), np.float64)


def color(strength: NDArray[np.floating[Any]]) -> Float64:
    """RGB, 0 to 255, float64 [..., 3] of strengths 0 (pale yellow) to 1 (dark red)."""
    at = np.linspace(0, 1, len(_ANCHORS))
    return np.stack([np.interp(strength, at, channel) for channel in _ANCHORS.T], axis=-1)


def strength(saliency: NDArray[np.floating[Any]], frame: Frame) -> Float32:
    """The evidence for the match in the original's pixels: float32 [H0, W0], 0 to 1, NaN where the model saw nothing.

    It is the positive part of the map [h, w] as a share of its largest value; all 0 where a map has no positive value.
    What speaks against the match is left out.
    """
    evidence = np.maximum(saliency, 0)
    largest = float(evidence.max())
    return images.restore(evidence / largest if largest > 0 else evidence, frame)


def overlay(photograph: Image, saliency: NDArray[np.floating[Any]], frame: Frame) -> Image:
    """``photograph`` uint8 [H0, W0, 3], grey and lightened, under the colours of its map: uint8 [H0, W0, 3].

    ``saliency`` [h, w] covers the input frame of ``frame``, whose ``original`` is (H0, W0). A colour is the more opaque
    the stronger it is. What lies outside of the box that the model saw is veiled.
    """
    if photograph.shape[:2] != frame.original:
        raise ValueError(f"the photograph has {photograph.shape[:2]} pixels, its frame says {frame.original}")
    grey = np.asarray(PIL.Image.fromarray(photograph).convert("L"), np.float64)
    base = np.repeat((0.6 * grey + 0.4 * 255)[..., None], 3, axis=-1)
    strong = strength(saliency, frame)
    seen = ~np.isnan(strong)[..., None]
    share = np.nan_to_num(strong)[..., None].astype(np.float64)
    opacity = _OPACITY * share**_GAMMA
    heated = base * (1 - opacity) + color(share[..., 0]) * opacity
    veiled = 0.2 * base + 0.8 * _UNSEEN
    return np.where(seen, heated, veiled).round().astype(np.uint8)


def scaled(frame: Frame, original: tuple[int, int]) -> Frame:
    """The same frame over a copy of the original that has been scaled to ``original`` (H0, W0)."""
    down, across = original[0] / frame.original[0], original[1] / frame.original[1]
    top, left, height, width = frame.box
    return Frame(original, frame.size, (top * down, left * across, height * down, width * across))
