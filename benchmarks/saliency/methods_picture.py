"""The picture of ``benchmarks.saliency.methods``: every method's map of four real pairs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from pipeline.results.pictures import heat
from pipeline.results.pictures.sheet import encode
from transforms import storage
from transforms.core.imaging import images
from transforms.core.records import Float32, Frame, Image, Pair
from transforms.core.saliency.methods import METHODS

if TYPE_CHECKING:
    from benchmarks.saliency.methods import Bench

PAIRS = 4
BYTES = 400_000
TILE, GAP, MARGIN = 116, 5, 12
_TOP, _BELOW, _LEGEND = 44, 24, 28
_INK, _SOFT, _GROUND, _FRAME = (28, 30, 34), (105, 110, 118), (255, 255, 255), (222, 225, 229)
LEGEND = "weak to strong evidence for the match; each map has its own scale, up to where its top hundredth begins"
TOP = 0.99
"""The quantile of a map that has the darkest colour: single pixels of a gradient would leave all others invisible."""


def draw(bench: Bench, chosen: Sequence[tuple[Pair, ...]], path: Path) -> None:
    """Draws the default setting of each method on ``PAIRS`` unlike pairs of ``chosen``."""
    rows = [_row(bench, chosen[at][0]) for at in unlike(_embedded(bench, chosen), min(PAIRS, len(chosen)))]
    path.write_bytes(encode(sheet(rows), path.suffix.lower(), BYTES))


def unlike(embeddings: Float32, count: int) -> list[int]:
    """``count`` places of ``embeddings`` [Q, D]: the first, then always the one least like those before it."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    places = [0]
    while len(places) < count:
        nearest = (unit @ unit[places].T).max(axis=1)
        nearest[places] = np.inf
        places.append(int(np.argmin(nearest)))
    return places


def sheet(rows: Sequence[tuple[str, Sequence[tuple[str, Image]]]]) -> PIL.Image.Image:
    """The picture, RGB: of each row its caption, and headings with tiles; the headings of the first row are shown."""
    columns, step = len(rows[0][1]), TILE + _BELOW
    size = (2 * MARGIN + columns * (TILE + GAP) - GAP, _TOP + len(rows) * step + _LEGEND)
    picture = PIL.Image.new("RGB", size, _GROUND)
    pen = ImageDraw.Draw(picture)
    for at, (caption, tiles) in enumerate(rows):
        top = _TOP + at * step
        for column, (heading, tile) in enumerate(tiles):
            left = MARGIN + column * (TILE + GAP)
            if at == 0:
                pen.multiline_text((left, top - 5), heading, _INK, _font(12), anchor="ld", spacing=2)
            down, across = (TILE - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2
            picture.paste(PIL.Image.fromarray(tile), (left + across, top + down))
            pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=_FRAME)
        pen.text((MARGIN, top + TILE + 3), caption, _SOFT, _font(12))
    ramp = heat.color(np.broadcast_to(np.linspace(0, 1, 120), (10, 120))).round().astype(np.uint8)
    bottom = _TOP + len(rows) * step
    picture.paste(PIL.Image.fromarray(ramp), (MARGIN, bottom + 4))
    pen.text((MARGIN + 128, bottom + 1), LEGEND, _SOFT, _font(12))
    return picture


def overlay(photograph: Image, saliency: Float32, frame: Frame) -> Image:
    """``photograph`` under the map ``saliency`` [H, W], whose highest hundredth is one colour."""
    top = float(np.quantile(saliency, TOP))
    return heat.overlay(photograph, np.minimum(saliency, top) if top > 0 else saliency, frame)


def heading(name: str) -> str:
    """A method's name in lines that fit a tile."""
    return name if len(name) <= 14 else name.replace("_x_", "_x_\n").replace("integrated_", "integrated_\n")


def _row(bench: Bench, pair: Pair) -> tuple[str, list[tuple[str, Image]]]:
    (query, query_frame), (reference, reference_frame) = (_photograph(bench, at) for at in (pair.query, pair.reference))
    tiles = [("query", query), ("reference", reference)]
    judged, defaults = bench.judged(pair), {one.name: one for one in bench.settings if one.name in METHODS}
    for name in defaults:
        tiles.append((heading(name), overlay(query, judged[name].saliency, query_frame)))
    rows, _ = bench.explained([next(iter(defaults.values()))], [pair], (28, 28))
    if "decomposition" in defaults:
        other, _ = bench.explained([defaults["decomposition"]], [pair], bench.size, "reference")
        saliency = np.asarray(other[0]["map"]).reshape(bench.size)
        tiles.append(("decomposition,\nreference", overlay(reference, saliency, reference_frame)))
    return f"similarity {rows[0]['similarity']:.2f}", tiles


def _photograph(bench: Bench, address: str) -> tuple[Image, Frame]:
    """The photograph scaled to a tile, and its frame."""
    data = storage.read_image(address, bench.load.access)
    photograph, frame = images.decode(data, bench.load.limits), bench.load(address).frame
    height, width = photograph.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(PIL.Image.fromarray(photograph).resize(size, PIL.Image.Resampling.LANCZOS))
    return small, heat.scaled(frame, (small.shape[0], small.shape[1]))


def _embedded(bench: Bench, chosen: Sequence[tuple[Pair, ...]]) -> Float32:
    return bench.models.similarity.embed(np.stack([bench.load(pairs[0].query).pixels for pairs in chosen]))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
