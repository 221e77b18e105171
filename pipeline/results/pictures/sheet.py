"""A sheet of pairs as one small picture: three tiles and a caption each, two pairs a row, a legend below."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from pipeline.results.pictures import heat
from transforms.core.records import Image

TILE = 156  # pixels a side
GAP = 6
MARGIN = 16
GUTTER = 28
HEADINGS = ("query", "evidence for the match", "reference")
LEGEND = "weak to strong evidence for the match; each map has its own scale; grey: not seen by the model"

_TOP, _LINE, _LINES, _BELOW, _LEGEND = 34, 17, 4, 22, 30
_WIDTH = 3 * TILE + 2 * GAP  # of a cell
_INK, _SOFT, _WARN, _GROUND, _FRAME = (28, 30, 34), (105, 110, 118), (176, 32, 24), (255, 255, 255), (222, 225, 229)
_MISSING = (232, 234, 237)


@dataclass(frozen=True)
class CaptionLine:
    """A line of a caption."""

    text: str
    strong: bool = False
    warning: bool = False


@dataclass(frozen=True)
class Cell:
    """A pair: its query, the query under its map, its reference (an image, or why there is none), and its caption."""

    tiles: tuple[Image | str, Image | str, Image | str]
    caption: Sequence[CaptionLine]


def tile_origin(cell: int, tile: int) -> tuple[int, int]:
    """The top left corner (y, x) of a tile 0 to 2 of a cell, in the picture."""
    row, column = divmod(cell, 2)
    height = TILE + 8 + _LINES * _LINE + _BELOW
    return _TOP + row * height, MARGIN + column * (_WIDTH + GUTTER) + tile * (TILE + GAP)


def fitted(photograph: Image) -> Image:
    """``photograph`` [H0, W0, 3] scaled, its proportions kept, so that its longer side is a tile's: uint8 [h, w, 3]."""
    height, width = photograph.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(PIL.Image.fromarray(photograph).resize(size, PIL.Image.Resampling.LANCZOS))


def draw(cells: Sequence[Cell]) -> PIL.Image.Image:
    """The sheet, RGB."""
    columns = min(2, len(cells))
    bottom = tile_origin(len(cells) + (len(cells) % 2), 0)[0]
    width = 2 * MARGIN + columns * _WIDTH + (columns - 1) * GUTTER
    sheet = PIL.Image.new("RGB", (width, bottom + _LEGEND), _GROUND)
    pen = ImageDraw.Draw(sheet)
    for at, cell in enumerate(cells):
        if at < 2:
            for tile, heading in enumerate(HEADINGS):
                y, x = tile_origin(at, tile)
                pen.text((x, y - 19), heading, _SOFT, _font(12))
        for tile, content in enumerate(cell.tiles):
            _draw_tile(sheet, pen, tile_origin(at, tile), content)
        y, x = tile_origin(at, 0)
        for number, line in enumerate(cell.caption[:_LINES]):
            place = (x, y + TILE + 8 + number * _LINE)
            font = _font(13)
            color = _WARN if line.warning else _INK if line.strong else _SOFT
            pen.text(place, _shortened(line.text, font), color, font)
    _draw_legend(sheet, pen, bottom)
    return sheet


def encode(sheet: PIL.Image.Image, suffix: str, max_bytes: int) -> bytes:
    """``sheet`` as a PNG of 256 colours or as a JPEG (``suffix`` .jpg, .jpeg) of at most ``max_bytes``.

    The best quality that fits; where none does, the sheet is made smaller until one does.
    """
    while True:
        for fine in (True, False):
            stream = io.BytesIO()
            if suffix == ".png":
                _with_palette(sheet, dithered=fine).save(stream, "PNG", optimize=True)
            else:
                sheet.save(stream, "JPEG", quality=92 if fine else 80, optimize=True)
            if stream.tell() <= max_bytes or max(sheet.size) < TILE:
                return stream.getvalue()
        sheet = sheet.resize((sheet.width * 4 // 5, sheet.height * 4 // 5), PIL.Image.Resampling.LANCZOS)


def _with_palette(sheet: PIL.Image.Image, dithered: bool) -> PIL.Image.Image:
    palette = sheet.quantize(256, PIL.Image.Quantize.FASTOCTREE)
    # the scale of the heat is smooth only when it is dithered, which costs bytes
    dither = PIL.Image.Dither.FLOYDSTEINBERG if dithered else PIL.Image.Dither.NONE
    return sheet.quantize(palette=palette, dither=dither)


def _ramp(width: int, height: int) -> Image:
    return heat.color(np.broadcast_to(np.linspace(0, 1, width), (height, width))).round().astype(np.uint8)


def _draw_tile(sheet: PIL.Image.Image, pen: ImageDraw.ImageDraw, origin: tuple[int, int], content: Image | str) -> None:
    y, x = origin
    box = (x, y, x + TILE - 1, y + TILE - 1)
    if isinstance(content, str):
        pen.rectangle(box, _MISSING)
        font = _font(11)
        lines = textwrap.wrap(content, 25, break_long_words=True)[:9]
        pen.multiline_text((x + 8, y + 8), "\n".join(lines), _SOFT, font, spacing=4)
        return
    small = fitted(content)
    left, top = (TILE - small.shape[1]) // 2, (TILE - small.shape[0]) // 2
    sheet.paste(PIL.Image.fromarray(small), (x + left, y + top))
    pen.rectangle(box, outline=_FRAME)


def _draw_legend(sheet: PIL.Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
    sheet.paste(PIL.Image.fromarray(_ramp(120, 10)), (MARGIN, top + 2))
    pen.text((MARGIN + 128, top), LEGEND, _SOFT, _font(12))


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """``text`` cut to the width of a cell."""
    if font.getlength(text) <= _WIDTH:
        return text
    while text and font.getlength(text + "...") > _WIDTH:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
