"""SANE on drawn garments, where the truth is known: ``python -m benchmarks.sane.garments --help``.

Does supervision by saliency maps bring activation maps to the region that shows their attribute? And is a network that
knows one attribute explained by it? Every step is a command of ``whymatch`` whose result is kept under ``--out``.

The page's text is written by hand; this rewrites what stands between its marks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from benchmarks.sane.study import UNSUPERVISED, Garments, Supervision
from benchmarks.support.machine import markdown_table, paragraph, processor, versions
from benchmarks.support.steps import Steps
from export.ranking.catalogue_embeddings import embed_catalogue
from export.ranking.evidence import AuditMaps, collect
from pipeline.demo import attribute_mask
from transforms.core.attributes.names import column_of
from transforms.core.errors import UsageError
from transforms.core.metrics.regions import iou
from transforms.core.records import Failure, Float32, Float64, Product
from transforms.core.statistics.bootstrap import Interval, bootstrap
from transforms.inputs import catalogue as catalogues
from transforms.serving import bundle as bundles
from transforms.serving.models import Serving

SUPERVISION = Supervision(0.1, 1.0)
"""How the maps supervise: not flat, since the question is where activation maps lie."""
BEGIN, END = "<!-- garments: begin -->", "<!-- garments: end -->"


def overlap(activation: Float32, region: NDArray[np.bool_]) -> float:
    """:func:`transforms.core.metrics.regions.iou` of ``region`` [H, W] with ``activation`` [h, w], NaN where it is
    empty.

    The map is brought to the region's size by bilinear interpolation.
    """
    if not region.any():
        return float("nan")
    size = (region.shape[1], region.shape[0])
    fine = np.asarray(PIL.Image.fromarray(activation.astype(np.float32)).resize(size, PIL.Image.Resampling.BILINEAR))
    return iou(fine.astype(np.float64), region)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """IoU of each test product [Q] and column [C], of networks without and with supervision; NaN where a product has no
    attribute of the column. Means over seeds."""

    columns: tuple[str, ...]
    without: Float64 = field(repr=False)
    supervised: Float64 = field(repr=False)

    def figures(self, column: int | None) -> tuple[Interval, Interval, Interval]:
        """Without, with, and the difference, of one column or of all; intervals over products."""
        first, second = (
            np.nanmean(values if column is None else values[:, column : column + 1], axis=1)
            for values in (self.without[self._there(column)], self.supervised[self._there(column)])
        )
        count = len(first)
        return (
            bootstrap(lambda drawn: float(first[drawn].mean()), count),
            bootstrap(lambda drawn: float(second[drawn].mean()), count),
            bootstrap(lambda drawn: float((second - first)[drawn].mean()), count),
        )

    def _there(self, column: int | None) -> NDArray[np.bool_]:
        some = self.without if column is None else self.without[:, column : column + 1]
        return np.asarray(~np.isnan(some).all(axis=1))


@dataclass(frozen=True)
class Known:
    """A network that knows one attribute: in what share of test pairs this attribute of the query has the highest prior
    of the query's own, and is ranked first of all attributes; and the phi that calibration found.

    ``recall`` is the network's recall@1 on the test split, ``chance`` that of a random order. Where several attributes
    share the first place, each has its part of it.
    """

    column: str
    pairs: int
    recall: float
    chance: float
    prior_first: Interval
    rank_first: Interval
    confidence_first: Interval
    phi: tuple[float, float, float]


def overlaps(plan: Garments, supervision: Supervision, steps: Steps) -> Overlaps:
    """Trains without and with supervision and looks where the activation maps of the test split lie."""
    variants = (UNSUPERVISED, supervision)
    steps.run(*(plan.train_attributes(variant, seed) for seed in plan.seeds for variant in variants), at_once=2)
    products = [row for row in catalogues.read(str(plan.catalogue / "catalogue.csv")) if not isinstance(row, Failure)]
    products = [product for product in products if product.split == "test"]
    column = plan.columns[0]
    found = []
    for variant in variants:
        steps.run(*(plan.export(column, variant, seed) for seed in plan.seeds))
        found.append(np.mean([_overlaps(plan, plan.export(column, variant, s).makes, products) for s in plan.seeds], 0))
    return Overlaps(plan.columns, found[0], found[1])


def _overlaps(plan: Garments, bundle: Path, products: Sequence[Product]) -> Float64:
    """IoU [Q, C] of one attribute network."""
    embeddings = embed_catalogue(
        Serving(str(bundle)), str(plan.catalogue / "catalogue.csv"), {product.id for product in products}, echo=_quiet
    )
    height, width = embeddings.gallery.bundle.resize.size
    found = np.full((len(products), len(plan.columns)), np.nan)
    for at, product in enumerate(products):
        maps = embeddings.activations[embeddings.gallery.places[product.id]]
        for number, column in enumerate(plan.columns):
            name = f"{column}={dict(product.attributes).get(column)}"
            if name not in embeddings.gallery.bundle.vocabulary:
                continue
            region = PIL.Image.fromarray(attribute_mask(plan.catalogue, product.id, column))
            small = np.asarray(region.resize((width, height), PIL.Image.Resampling.NEAREST))
            found[at, number] = overlap(maps[embeddings.gallery.bundle.vocabulary.index(name)], small)
    return found


def known(plan: Garments, supervision: Supervision, steps: Steps) -> list[Known]:
    """For each column's network, with the first attribute network: priors, calibration on validation pairs, and what
    test pairs get."""
    found = []
    for column in plan.columns:
        seed = plan.seeds[0]
        steps.run(plan.export(column, supervision, seed))
        steps.run(plan.priors(column, supervision, seed))
        steps.run(plan.calibrate(column, supervision, seed))
        found.append(_known(plan, plan.calibrate(column, supervision, seed).makes, column))
    return found


def _known(plan: Garments, address: Path, column: str) -> Known:
    bundle = bundles.read(str(address))
    if bundle.priors is None:
        raise UsageError(f"{address} has no priors")
    catalogue = str(plan.catalogue / "catalogue.csv")
    maps = AuditMaps(str(plan.audit(column, "test").makes))
    dataset = collect(maps, Serving(str(address)), catalogue, echo=_quiet)
    of_column = np.array([column_of(name) == column for name in bundle.vocabulary])
    wanted = dataset.on_query & of_column  # [P, A]; the query's value of the column
    usable = wanted.any(axis=1)
    queries = np.unique(np.array(dataset.queries)[usable], return_inverse=True)[1]
    prior = np.where(dataset.on_query, np.array(bundle.priors), -np.inf)
    rank = bundle.ranking.scores(dataset.confidence, dataset.match)
    shares = [share_of_first(values[usable], wanted[usable]) for values in (prior, rank, dataset.confidence)]
    figures = json.loads((plan.train_similarity(column).makes / "similarity.json").read_text(encoding="utf-8"))
    test = figures["training"]["figures"]["test"]
    first, second, third = (_over_queries(share, queries) for share in shares)
    return Known(column, int(usable.sum()), test["recall@1"], test["chance"], first, second, third, bundle.phi)


def share_of_first(values: Float64, wanted: NDArray[np.bool_]) -> Float64:
    """What part of the first place of each row of ``values`` [P, A] goes to those that are ``wanted``: [P], 0 to 1."""
    first = values == values.max(axis=1, keepdims=True)
    return np.asarray((first & wanted).sum(axis=1) / first.sum(axis=1))


def _over_queries(values: Float64, queries: NDArray[np.int64]) -> Interval:
    """The mean over pairs with its interval over queries, which are numbered from 0."""
    totals, counts = np.bincount(queries, values), np.bincount(queries)
    return bootstrap(lambda drawn: float(totals[drawn].sum() / counts[drawn].sum()), len(counts))


def rewritten(page: str, overlap_of: Overlaps, ranks: Sequence[Known], minutes: float, plan: Garments) -> str:
    """``page`` with a new section on garments; UsageError where it has no marks."""
    if BEGIN not in page or END not in page:
        raise UsageError(f"the page needs the marks {BEGIN} and {END}")
    before, rest = page.split(BEGIN, 1)
    return before + BEGIN + "\n\n" + section(overlap_of, ranks, minutes, plan) + "\n\n" + END + rest.split(END, 1)[1]


def section(overlap_of: Overlaps, ranks: Sequence[Known], minutes: float, plan: Garments) -> str:
    """The tables, and what they were measured on."""
    rows = []
    for column in (None, *range(len(overlap_of.columns))):
        name = "all, mean of a product's attributes" if column is None else overlap_of.columns[column]
        rows.append((name, *(one.text(3) for one in overlap_of.figures(column))))
    table = markdown_table(("attribute", "IoU without maps", "IoU supervised by maps", "difference"), rows)
    rows = [
        (
            one.column,
            f"{one.recall:.3f} ({one.chance:.3f})",
            f"{one.pairs:,}",
            *(share.text(1, 100) for share in (one.prior_first, one.rank_first, one.confidence_first)),
            ", ".join(f"{weight:g}" for weight in one.phi),
        )
        for one in ranks
    ]
    shares = ("% its prior is the query's highest", "% ranked first of all", "% most confident")
    known_head = ("similar by", "recall@1 (chance)", "test pairs", *shares, "phi")
    how = paragraph(
        f"{date.today():%Y-%m-%d}, {processor()}, {versions('torch', 'onnxruntime', 'scikit-learn')}. {plan.products} "
        f"garments, {len(plan.seeds)} seeds, {len(overlap_of.without)} of the test split. Steps: {minutes:.0f} minutes "
        "in all, two trainings side by side counting twice."
    )
    return "\n\n".join([how, table, markdown_table(known_head, rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and rewrites the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sane.garments", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/sane/garments"), help="what is made lies here, and is kept"
    )
    parser.add_argument("--page", type=Path, default=Path("docs/sane.md"), help="the page to rewrite")
    options = parser.parse_args(arguments)
    plan, steps = Garments(options.out), Steps(options.out / "steps")
    prepare(plan, steps)
    found = overlaps(plan, SUPERVISION, steps), known(plan, SUPERVISION, steps)
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(rewritten(page, *found, steps.total() / 60, plan), encoding="utf-8")
    print(options.page)


def prepare(plan: Garments, steps: Steps) -> None:
    """The garments, a network for each column, and the maps of its pairs."""
    steps.run(plan.draw)
    steps.run(*(plan.train_similarity(column) for column in plan.columns), at_once=2)
    steps.run(*(plan.export_similarity(column) for column in plan.columns))
    for split in ("train", "valid", "test"):
        steps.run(*(plan.pairs(column, split) for column in plan.columns))
        steps.run(*(plan.audit(column, split) for column in plan.columns), at_once=2)


def _quiet(line: str) -> None:
    """Says nothing: a step's own lines are in its log."""


if __name__ == "__main__":
    main()
