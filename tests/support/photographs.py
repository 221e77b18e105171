"""A tiny catalogue with a known truth: a coloured patch on a grey photograph, its colour in a column."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
SIZE = (32, 24)  # height and width: not square
PATCH = 10


@dataclass(frozen=True)
class Photographs:
    """The catalogue's address and where each product's patch begins: id -> (top, left)."""

    catalogue: str
    patches: dict[str, tuple[int, int]]


def take(folder: Path, *, products: int = 60, split: bool = True, seed: int = 0) -> Photographs:
    """Writes ``products`` photographs and ``catalogue.csv`` with the columns colour and maker, which shows nowhere."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    patches, rows = {}, []
    for number in range(products):
        name, colour = f"p{number:03}", list(COLOURS)[number % 3]
        image = rng.integers(90, 150, (*SIZE, 3), dtype=np.uint8)
        top, left = int(rng.integers(0, SIZE[0] - PATCH + 1)), int(rng.integers(0, SIZE[1] - PATCH + 1))
        image[top : top + PATCH, left : left + PATCH] = COLOURS[colour]
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        patches[name] = (top, left)
        part = "train" if number < products * 2 // 3 else "valid" if number < products * 5 // 6 else "test"
        rows.append([name, f"images/{name}.png", colour, f"m{number % 4}", part])
    with (folder / "catalogue.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "colour", "maker", *(["split"] if split else [])])
        writer.writerows(row if split else row[:-1] for row in rows)
    return Photographs(str(folder / "catalogue.csv"), patches)


def picture(path: Path, seed: int, size: tuple[int, int] = (48, 64)) -> str:
    """Writes a smooth photograph of random colours, of ``size`` (height, width), and returns its address."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return str(path)
