"""The drawn catalogue: photographs of garments with known attributes, known regions and a planted shortcut.

An explanation can only be checked where the truth is known. :func:`draw` makes a catalogue in which every attribute
has its place in the picture (``products.py`` says which values there are, ``shapes.py`` how they look), and in which
one brand's photographs carry a badge in a corner, while no brand shows in any other way. A network whose similarity
is the brand can only have learnt the badge; a network that knows garments has no use for it.

    catalogue.csv        id, image, split, regions, and the columns of ``products.COLUMNS``
    pairs.csv            a manifest: what the ground truth would recommend, and two pairs that must fail
    truth.csv            id, top, left, height, width of the badge in original pixels; empty where there is none
    regions.json         label -> region, and attribute column -> the regions that show it
    images/<id>.jpg      the photographs, 128 high and 96 wide
    regions/<id>.png     label images of the same size: one region per pixel
"""

from __future__ import annotations

from pipeline.demo.drawing import Box
from pipeline.demo.embedded import BUNDLES, embedded
from pipeline.demo.folder import Drawn, draw
from pipeline.demo.truth import attribute_mask, badge_boxes, hide, region_mask

__all__ = ["BUNDLES", "Box", "Drawn", "attribute_mask", "badge_boxes", "draw", "embedded", "hide", "region_mask"]
