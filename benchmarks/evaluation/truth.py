"""Insertion and deletion where the truth is known: a perfect map, a random one and an inverted one.

The drawn catalogue says which pixels a network can have matched by: the badge, where a network knows brands, and the
garment, where it knows categories. A measure that does not rank these three maps measures something else.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline import demo
from transforms import storage
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.metrics.curves import PixelSteps, curve, deletion, insertion
from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import References
from transforms.core.saliency.controls import RandomControl
from transforms.core.similarity import similarities
from transforms.explaining.image_session import ImageSession, SessionView
from transforms.inputs.region_files import RegionReader
from transforms.inputs.region_legend import read_legend
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving

TRUE_REGION = {"brand": "badge", "category": "category"}
"""The embedded bundles, and the region that decides their similarity."""
KINDS = ("perfect", "random", "inverted")

_ONE = References(np.ones((1, 1), np.float32))
"""A control looks at no reference, but makes a map for each."""

Areas = Mapping[str, Float64]
"""By kind of map: areas of insertion and deletion, float64 [Q, 2], of one pair of each query."""


def areas(catalogue: Path, bundle: str, pairs: int) -> Areas:
    """The areas for one of the embedded bundles: of pairs of the drawn ``catalogue``, ``pairs`` queries at most."""
    folder, access = str(catalogue), storage.Access((str(catalogue),))
    models = Models(Serving(str(demo.embedded(bundle)), attributes=False))
    load = ImageLoader(access, ImageLimits(), models.bundle.resize)
    legend = read_legend(f"{folder}/regions.json")
    reader = RegionReader(access, ImageLimits(), legend)
    products = {row["id"]: row for row in _rows(catalogue / "catalogue.csv") if row["split"] != "broken"}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for query_id, reference_id in pairs_of(catalogue, bundle, list(products))[:pairs]:
        query = load(f"{folder}/{products[query_id]['image']}")
        reference = models.similarity.embed(load(f"{folder}/{products[reference_id]['image']}").pixels[None])
        address = f"{folder}/{products[query_id]['regions']}"
        truth = reader.region(address, query.frame, legend.labels(TRUE_REGION[bundle])).astype(np.float64)
        random = RandomControl().prepare(SessionView(ImageSession(query, models), "mean")).maps(_ONE).saliency[0]
        for kind, saliency in zip(KINDS, (truth, random, -truth), strict=True):
            designs = insertion(saliency), deletion(saliency)
            shown, hidden = (_area(models, query, reference, design) for design in designs)
            found[kind].append((shown, hidden))
    return {kind: np.array(each) for kind, each in found.items()}


def _area(models: Models, query: LoadedImage, reference: Float32, design: PixelSteps) -> float:
    fill = make_fill("#ffffff", query.pixels, models.bundle.fill_mean)
    rows = models.similarity.perturbed(query.pixels, models.similarity.bank(design, hold=False), fill)
    return curve(similarities(reference, rows, models.bundle.similarity_function)[0]).area


def pairs_of(catalogue: Path, bundle: str, products: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (query, reference) of ``products`` that match by the region, the first of each query.

    Both have the badge, or the manifest recommends them. A query's pairs are nearly one observation: means over one
    of each have intervals over queries.
    """
    if bundle == "brand":
        badged = [row["id"] for row in _rows(catalogue / "truth.csv") if row["top"] and row["id"] in products]
        return list(zip(badged[::2], badged[1::2], strict=False))
    first: dict[str, str] = {}
    for row in _rows(catalogue / "pairs.csv"):
        if {row["query_id"], row["reference_id"]} <= set(products):
            first.setdefault(row["query_id"], row["reference_id"])
    return list(first.items())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
