"""``whymatch demo OUT``: draws the catalogue and writes it, its ground truth and its manifest into a folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from pipeline.demo.drawing import Photograph, photograph
from pipeline.demo.products import BADGE_BRAND, COLUMNS, Garment, garment, product_id, split
from pipeline.demo.recommended import DAMAGED, MISSING, broken, recommended
from pipeline.demo.shapes import REGIONS, REGIONS_OF
from transforms.core.errors import UsageError

CATALOGUE, PAIRS, TRUTH, LEGEND = "catalogue.csv", "pairs.csv", "truth.csv", "regions.json"
FEWEST = 20


@dataclass(frozen=True, slots=True)
class Drawn:
    """What :func:`draw` wrote. ``products`` counts the intact ones, ``pairs`` the manifest's rows, broken ones too."""

    catalogue: Path
    manifest: Path
    products: int
    badged: int
    badge_brand: str
    queries: int
    pairs: int

    def __str__(self) -> str:
        return (
            f"{self.catalogue}: {self.products} garments, {self.badged} with the badge of brand {self.badge_brand}\n"
            f"{self.manifest}: {self.pairs} pairs of {self.queries} queries, one image damaged and one missing"
        )


def draw(out: Path, *, products: int = 600, seed: int = 0, queries: int = 30, references: int = 4) -> Drawn:
    """Draws ``products`` garments into the folder ``out`` and returns what lies there.

    ``pairs.csv`` recommends ``references`` products of the test split for each of its first ``queries`` products.
    Two further products of split "broken" end the catalogue: the file of one is cut short, that of the other missing.
    ``out`` may be new, empty, or an earlier drawing, which is drawn over; UsageError where it holds anything else.
    """
    _check(out, products, seed, queries, references)
    for folder in (out / "images", out / "regions"):
        folder.mkdir(parents=True, exist_ok=True)
    _write(out / LEGEND, json.dumps(_legend(), indent=2) + "\n")

    garments = [garment(seed, product_id(number)) for number in range(1, products + 1)]
    wrecks = [garment(seed, identifier) for identifier in (DAMAGED, MISSING)]
    boxes = []
    for drawn in (*garments, *wrecks):
        picture = photograph(drawn, seed)
        _save(out, drawn.id, picture)
        boxes.append((drawn.id, *(picture.badge or ("",) * 4)))
    _write(out / TRUTH, _table(("id", "top", "left", "height", "width"), boxes))

    tested = [g for g in garments if split(g.id) == "test"]
    pairs = recommended(tested, queries, references)
    pairs += broken(pairs)
    rows = [(pair.query_id, pair.reference_id, pair.rank, pair.likeness) for pair in pairs]
    _write(out / PAIRS, _table(("query_id", "reference_id", "rank", "likeness"), rows))
    _write(out / CATALOGUE, _table(("id", "image", "split", "regions", *COLUMNS), _catalogue(garments, wrecks)))
    return Drawn(
        catalogue=out / CATALOGUE,
        manifest=out / PAIRS,
        products=products,
        badged=sum(g.badged for g in garments),
        badge_brand=BADGE_BRAND,
        queries=len({pair.query_id for pair in pairs}),
        pairs=len(pairs),
    )


def _check(out: Path, products: int, seed: int, queries: int, references: int) -> None:
    if products < FEWEST:
        raise UsageError(f"cannot draw {products} products: the splits and the pairs need at least {FEWEST}")
    for name, value in (("queries", queries), ("references", references)):
        if value < 1:
            raise UsageError(f"{name} is {value}; at least 1 is needed")
    if seed < 0:
        raise UsageError(f"seed is {seed}; a whole number from 0 on is needed")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder to draw into")
    if out.is_dir() and any(out.iterdir()) and not (out / LEGEND).is_file():
        raise UsageError(f"{out} holds files that are no drawn catalogue; name a new or an empty folder")


def _legend() -> dict[str, object]:
    return {"regions": {name: label for label, name in enumerate(REGIONS)}, "columns": REGIONS_OF}


def _save(out: Path, identifier: str, picture: Photograph) -> None:
    """Writes the photograph and its label image; DAMAGED is cut short, MISSING gets no photograph."""
    PillowImage.fromarray(picture.labels).save(out / "regions" / f"{identifier}.png", optimize=True)
    data = _jpeg(picture.image)
    if identifier == DAMAGED:
        data = data[: len(data) // 2]
    if identifier != MISSING:
        (out / "images" / f"{identifier}.jpg").write_bytes(data)


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(image).save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()


def _catalogue(garments: Sequence[Garment], wrecks: Sequence[Garment]) -> Iterable[tuple[object, ...]]:
    for drawn in (*garments, *wrecks):
        part = "broken" if drawn in wrecks else split(drawn.id)
        yield drawn.id, f"images/{drawn.id}.jpg", part, f"regions/{drawn.id}.png", *drawn.cells().values()


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
