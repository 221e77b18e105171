"""Curves of insertion and deletion written out again, image by image, and the rows that must equal them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.support.audits import Row
from tests.support.evaluations import CONDITIONS, Audited
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import SIZE, compute
from transforms.serving import bundle as bundles

PIXELS = SIZE[0] * SIZE[1]
Array = NDArray[np.float64]


def enlarged(cells: Sequence[Sequence[float]]) -> Array:
    """[h, w] at the frame's size: linear between the centres of cells, constant beyond the outermost."""
    height, width = len(cells), len(cells[0])
    out = np.empty(SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            y = min(max((row + 0.5) * height / SIZE[0] - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / SIZE[1] - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = cells[top][left] * (1 - (x - left)) + cells[top][right] * (x - left)
            under = cells[below][left] * (1 - (x - left)) + cells[below][right] * (x - left)
            out[row, column] = above * (1 - (y - top)) + under * (y - top)
    # as the enlarged map is kept: cells of nearly one value tie
    return out.astype(np.float32).astype(np.float64)


def stored(row: Row) -> Array:
    """A row's map at the frame's size."""
    return enlarged(np.array(row["map"]).reshape(row["map_height"], row["map_width"]).tolist())


def fill_of(name: str, pixels: NDArray[np.uint8]) -> Array:
    """The fill in pixel units, [H, W, 3] or [3]."""
    if name == "blur":
        deviation = SIZE[0] / 22
        return np.stack([gaussian_filter(pixels[..., c].astype(float), deviation, mode="nearest") for c in range(3)], 2)
    if name == "auto":
        edge = [pixels[y, x] for y in range(SIZE[0]) for x in range(SIZE[1]) if y in (0, SIZE[0] - 1) or x in (0, 15)]
        return np.asarray(np.median(np.array(edge, float), axis=0))
    if name == "mean":
        return np.asarray(np.array(PREPROCESSING.mean) / PREPROCESSING.scale)
    return np.array([int(name[at : at + 2], 16) for at in (1, 3, 5)], float)


def versions(pixels: NDArray[np.uint8], saliency: Array, metric: str, fill: str) -> Array:
    """The 101 images [101, H, W, 3] of insertion or deletion, pixel by pixel."""
    values = saliency.ravel().tolist()
    order = sorted(range(PIXELS), key=lambda at: (-values[at], at))
    hidden = np.broadcast_to(fill_of(fill, pixels), (*SIZE, 3)).reshape(PIXELS, 3)
    original = pixels.reshape(PIXELS, 3).astype(float)
    made = []
    for step in range(101):
        count = int(step * PIXELS / 100 + 0.5)
        image = (hidden if metric == "insertion" else original).copy()
        image[order[:count]] = (original if metric == "insertion" else hidden)[order[:count]]
        made.append(image.reshape(*SIZE, 3))
    return np.array(made)


def by_formula(made: Array) -> Array:
    """Embeddings of images [B, H, W, 3], in numpy."""
    normal = (made * PREPROCESSING.scale - PREPROCESSING.mean) / PREPROCESSING.std
    return compute(normal.transpose(0, 3, 1, 2))


@cache
def session(bundle: Path) -> Any:
    return ort.InferenceSession(bundle / bundles.read(str(bundle)).similarity.file)


def by_runtime(bundle: Path, made: Array) -> Array:
    """Embeddings of images of whole numbers [B, H, W, 3] by the bundle's graph, nothing hidden."""
    feeds = {"image": made.astype(np.uint8), "mask": np.ones((1, *SIZE, 1), np.float32)}
    found = session(bundle).run(["embedding"], {**feeds, "fill": np.zeros((1, 1, 1, 3), np.float32)})[0]
    return np.asarray(found, np.float64)


def compared(embeddings: Array, other: Array, function: str, condition: str | None) -> Array:
    """Similarities [B] to another embedding [D]."""
    mask = np.array(CONDITIONS[condition]) if condition else np.ones(len(other))
    rows, one = embeddings * mask, other * mask
    if function == "euclidean":
        return np.asarray(-np.sqrt(((rows - one) ** 2).sum(axis=1)))
    if function == "cosine":
        rows, one = rows / np.linalg.norm(rows, axis=1, keepdims=True), one / np.linalg.norm(one)
    return np.asarray(rows @ one)


def area(scores: Array, *, raw: bool) -> float:
    """The area under the curve, normalised unless ``raw``."""
    values = scores if raw else (scores - scores.min()) / (scores.max() - scores.min())
    return float(sum((values[at] + values[at + 1]) / 2 for at in range(100)) / 100)


def scores_by_hand(audited: Audited, row: Row, explained: Row, saliency: Array, *, runtime: bool) -> Array:
    """The similarities [101] of the images that a row of insertion or deletion is about."""
    sides = ("query", "reference") if row["side"] == "query" else ("reference", "query")
    pixels, other = (audited.shop.pixels(explained[side]) for side in sides)
    made = versions(pixels, saliency, row["metric"].removesuffix("_raw"), row["fill"])
    whole = np.array([pixels, other], float)
    embeddings = by_runtime(audited.bundle, made) if runtime else by_formula(made)
    ends = by_runtime(audited.bundle, whole) if runtime else by_formula(whole)
    return compared(embeddings, ends[1], audited.function, row["condition"])


def check_curves(
    audited: Audited,
    rows: Sequence[Row],
    maps: Callable[[Row], Array],
    *,
    runtime: bool,
) -> None:
    """Rows of insertion and deletion, normalised and raw, are the areas of images made by hand."""
    explained = audited.explanations()
    raw = {
        (row["pair_id"], row["side"], row["method"], row["metric"], row["fill"]): row["value"]
        for row in rows
        if row["metric"].endswith("_raw")
    }
    assert rows
    assert 2 * len(raw) == len(rows)
    for row in [row for row in rows if not row["metric"].endswith("_raw")]:
        method = row["method"] if not row["control"] else "rise"
        of = explained[row["pair_id"], row["side"], method]
        scores = scores_by_hand(audited, row, of, maps(of), runtime=runtime)
        scale = max(1.0, float(np.abs(scores).max()))
        assert row["value"] == pytest.approx(area(scores, raw=False), abs=1e-5)
        of_row = row["pair_id"], row["side"], row["method"], f"{row['metric']}_raw", row["fill"]
        assert raw[of_row] == pytest.approx(area(scores, raw=True), abs=1e-5 * scale)
        np.testing.assert_allclose(row["curve"], scores, atol=1e-5 * scale)
        assert (row["count"], row["reason"]) == (101, None)
        last = scores[-1 if row["metric"] == "insertion" else 0]
        assert last == pytest.approx(of["similarity"], abs=1e-5 * scale)
