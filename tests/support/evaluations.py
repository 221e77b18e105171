"""Whole evaluations on disk, for end-to-end tests: photographs and pairs, a bundle, the command line, the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from pipeline import cli
from tests.support.audits import Row, table, write_csv
from tests.support.models.bundles import PREPROCESSING, VOCABULARY
from tests.support.models.networks import SIZE, attribute_network, network
from transforms.core.imaging import images
from transforms.core.similarity import SimilarityFunction

CONDITIONS = {"colour": (1.0, 0.0, 0.5, 2.0, 0.25), "shape": (0.5, 1.0, 1.0, 0.0, 3.0)}
METHODS = ("--method", "rise,sliding_window", "--set", "sliding_window.window=4", "--set", "sliding_window.stride=2")
QUERIES = 4
REFERENCES = 3


def evaluate(out: Path, bundle: Path, evaluation_id: str, *more: str) -> int:
    """Runs ``whymatch evaluate`` in this process and returns its exit code."""
    named = ["--bundle", str(bundle), "--evaluation-id", evaluation_id, "--device", "cpu", "--shards", "2"]
    return cli.main(["evaluate", str(out), *named, *more])


def metrics(out: Path, evaluation_id: str, run_id: str = "one", **where: Any) -> list[Row]:
    """The rows of an evaluation whose columns have the values ``where``."""
    rows = [row for row in table(out, "metrics", run_id) if row["evaluation_id"] == evaluation_id]
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def evaluation(out: Path, evaluation_id: str, run_id: str = "one") -> Row:
    """The row of an evaluation."""
    (row,) = [row for row in table(out, "evaluations", run_id) if row["evaluation_id"] == evaluation_id]
    return row


@dataclass(frozen=True)
class Shop:
    """Photographs and pairs: ``folder`` holds 0.png to 9.png, of 30 x 40 pixels, and pairs.csv."""

    folder: Path

    def root(self) -> tuple[str, str]:
        return ("--image-root", str(self.folder))

    def pixels(self, address: str) -> NDArray[np.uint8]:
        """A photograph in the frame."""
        data = Path(address).read_bytes()
        return images.resize(images.decode(data), images.Resize(SIZE, "squash"))[0]


def make_shop(folder: Path, *, conditions: bool = False) -> Shop:
    """Four queries with three references each, or three with two under conditions; query 0 is query 1's, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(10):
        small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    rows = []
    for query in range(3 if conditions else QUERIES):
        for step in range(2 if conditions else REFERENCES):
            reference = 0 if (query, step) == (1, 0) else 4 + (query + step) % 6
            row = {"query": f"{query}.png", "reference": f"{reference}.png"}
            row |= {"query_id": f"q{query}", "reference_id": f"r{reference}"}
            rows.append(row | ({"condition": ("shape", "colour")[step % 2]} if conditions else {}))
    write_csv(folder / "pairs.csv", rows)
    return Shop(folder)


def make_bundle(folder: Path, function: SimilarityFunction = "cosine", *, conditions: bool = False) -> Path:
    """A bundle of the hand-built networks."""
    build(
        folder,
        BundleSpec(
            SimilarityGraph(network(), PREPROCESSING),
            images.Resize(SIZE, "squash"),
            attributes=AttributeGraph(attribute_network(), VOCABULARY),
            similarity_function=function,
            conditions=CONDITIONS if conditions else {},
        ),
    )
    return folder


@dataclass(frozen=True)
class Audited:
    """An audited shop; the run's id is "one"."""

    shop: Shop
    bundle: Path
    out: Path
    function: SimilarityFunction

    def evaluate(self, evaluation_id: str, *more: str) -> int:
        return evaluate(self.out, self.bundle, evaluation_id, *self.shop.root(), *more)

    def explanations(self) -> dict[tuple[str, str, str], Row]:
        rows = table(self.out, "explanations", "one")
        return {(row["pair_id"], row["side"], row["method"]): row for row in rows}
