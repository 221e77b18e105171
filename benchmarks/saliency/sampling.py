"""Which design of masks gives RISE's map for the fewest passes? ``python -m benchmarks.saliency.sampling --help``.

On photographs and three networks: how a map of N masks correlates with one of 8,000 independent masks that no contender
shares. On the drawn catalogue, with the network that matches by the badge: how far from the badge's centre a map's peak
lies, and how its pixels tell the badge. Correlation alone does not see a design whose peak snaps to a lattice.

Masked passes are the cost. Each design is run once, at its largest N, and its first masks are the smaller ones; what
comes out is kept under ``--cache``, so a second run costs none.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.saliency.sampling_report import INDEPENDENT, Localised, Measured, page, plot
from benchmarks.saliency.shortcut import brand_pairs, in_frame
from benchmarks.support.machine import write
from benchmarks.support.photographs import require, with_progress
from pipeline.demo import Box, badge_boxes, draw, embedded
from transforms.core.errors import UsageError
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.metrics.curves import map_agreement
from transforms.core.metrics.regions import peak, pixel_auc
from transforms.core.records import Float32, Float64, Pair, Product, content_id
from transforms.core.saliency.grids import Sampling
from transforms.core.saliency.rise import Estimator, Rise, rise
from transforms.core.similarity import similarities
from transforms.inputs import catalogue, manifest
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

CONTENDERS: dict[str, tuple[Sampling, Estimator]] = {
    INDEPENDENT: ("independent", "average"),  # the paper's masks, and its estimator normalised by what was drawn
    "independent, regression": ("independent", "regression"),
    "sobol, average": ("sobol", "average"),
    "sobol, regression": ("sobol", "regression"),
    "hadamard, average": ("hadamard", "average"),
    "hadamard, regression": ("hadamard", "regression"),
}
REFERENCE_SEED = 1_000_000
"""Of the reference map's masks; no contender's seed comes near."""


@dataclass(frozen=True)
class Plan:
    """How much to measure. ``longest`` is how far independent masks go, so that others can be compared beyond 2,000.

    Sobol points stop one count earlier.
    """

    photographs: int = 20
    seeds: int = 1
    reference: int = 8000
    counts: tuple[int, ...] = (64, 128, 256, 512, 1024, 2000)
    longest: int = 3000
    badge_queries: int = 20
    badge_references: int = 4
    badge_seeds: int = 3
    products: int = 600  # of the drawn catalogue, where it has to be drawn

    def counts_of(self, name: str) -> tuple[int, ...]:
        """The numbers of masks that contender ``name`` is measured at."""
        if name == INDEPENDENT:
            return (*self.counts, self.longest)
        return self.counts[:-1] if CONTENDERS[name][0] == "sobol" else self.counts

    def largest(self, sampling: Sampling) -> int:
        """The most masks that a contender of ``sampling`` needs."""
        return max(self.counts_of(name)[-1] for name, (of, _) in CONTENDERS.items() if of == sampling)


QUICK = Plan(3, 1, 400, (16, 32, 64), 128, badge_queries=2, badge_references=2, badge_seeds=2, products=120)


@dataclass(eq=False)
class Runner:
    """One network, and the embeddings of masked images that were already computed."""

    models: Models
    cache: Path
    passes: int = 0
    saved: int = 0
    _designs: dict[tuple[int, Sampling, int], Rise] = field(default_factory=dict, repr=False)

    def design(self, masks: int, sampling: Sampling, seed: int) -> Rise:
        """The design of 8 x 8 cells, drawn once."""
        key = (masks, sampling, seed)
        if key not in self._designs:
            self._designs[key] = rise(
                self.models.similarity.size, masks=masks, cells=8, p=0.5, sampling=sampling, seed=seed
            )
        return self._designs[key]

    def masked(self, image: LoadedImage, design: Rise) -> Float32:
        """Embeddings [N, D] of ``image`` under ``design``, fill "auto"."""
        # the masks themselves and not the design's key: a design that is being worked on keeps its key
        drawn = (design.grids.tobytes(), design.shifts.tobytes(), repr(design.size))
        name = content_id(self.models.bundle.model_id, *drawn, image.sha256, "auto", letter="e")
        path = self.cache / f"{name}.npy"
        if path.exists():
            self.saved += design.n
            kept: Float32 = np.load(path)
            return kept
        fill = make_fill("auto", image.pixels, self.models.bundle.fill_mean)
        found = self.models.similarity.perturbed(image.pixels, self.models.similarity.bank(design, hold=False), fill)
        self.passes += design.n
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("wb") as stream:
            np.save(stream, found)
        partial.replace(path)  # a run that is stopped leaves no half of a file
        return found

    def maps(
        self, image: LoadedImage, references: Float32, base: Float64, plan: Plan, seed: int
    ) -> Iterator[tuple[str, int, Float64]]:
        """(contender, N, maps [R, H, W]) of all contenders; those of one sampling share their passes."""
        function = self.models.bundle.similarity_function
        for sampling in dict.fromkeys(sampling for sampling, _ in CONTENDERS.values()):
            design = self.design(plan.largest(sampling), sampling, seed)
            scores = similarities(references, self.masked(image, design), function)
            for name, (of, estimator) in CONTENDERS.items():
                if of != sampling:
                    continue
                judged = Rise(design.size, design.grids, design.shifts, design.key, design.p, estimator, design.block)
                for n in plan.counts_of(name):
                    yield name, n, judged.estimate(np.ascontiguousarray(scores[:, :n]), base)


def photograph_pairs(pairs: str, products: str, count: int) -> list[tuple[str, str]]:
    """The addresses of ``count`` queries and of one reference of each, in an order that a hash of their names decides.

    UsageError where the manifest has fewer queries.
    """
    addresses = {item.id: item.image for item in catalogue.read(products) if isinstance(item, Product)}
    first: dict[str, str] = {}
    for pair in manifest.read(pairs):
        if isinstance(pair, Pair):
            query, reference = (
                pair.query or addresses.get(pair.query_id),
                pair.reference or addresses.get(pair.reference_id),
            )
            if query and reference:
                first.setdefault(query, reference)
    if len(first) < count:
        raise UsageError(f"{pairs} has {len(first)} queries, {count} photographs were asked for")
    chosen = sorted(first, key=lambda address: content_id(os.path.basename(address), letter="q"))[:count]
    return [(query, first[query]) for query in chosen]


def correlate(name: str, runner: Runner, chosen: Sequence[tuple[str, str]], load: ImageLoader, plan: Plan) -> Measured:
    """Every contender's correlation with the reference map, for network ``name`` on the ``chosen`` photographs."""
    models, function = runner.models, runner.models.bundle.similarity_function
    found = {contender: np.empty((len(plan.counts_of(contender)), len(chosen))) for contender in CONTENDERS}
    halves = np.empty(len(chosen))
    whole = runner.design(plan.reference, "independent", REFERENCE_SEED)
    judge = Rise(whole.size, whole.grids, whole.shifts, whole.key, whole.p, "average", whole.block)
    for at, (query, reference) in enumerate(with_progress(chosen, name)):
        image = load(query)
        references = models.similarity.embed(load(reference).pixels[None])
        base = similarities(references, models.similarity.embed(image.pixels[None]), function)[:, 0]
        scores = similarities(references, runner.masked(image, judge), function)
        truth = judge.estimate(scores, base)[0]
        halves[at] = _halves(judge, scores, base)
        rows: dict[tuple[str, int], list[float]] = {}
        for seed in range(plan.seeds):
            for contender, n, maps in runner.maps(image, references, base, plan, seed):
                rows.setdefault((contender, n), []).append(map_agreement(maps[0], truth).pearson)
        for contender, of_counts in found.items():
            of_counts[:, at] = [np.mean(rows[contender, n]) for n in plan.counts_of(contender)]
    counts = {contender: plan.counts_of(contender) for contender in CONTENDERS}
    return Measured(name, counts, found, halves)


def localise(runner: Runner, folder: Path, plan: Plan) -> Localised:
    """How far every contender's peak lies from the badge, and how its map tells the badge's pixels."""
    models, function = runner.models, runner.models.bundle.similarity_function
    load = ImageLoader(Access((str(folder),)), ImageLimits(), models.bundle.resize)
    pairs, boxes = brand_pairs(folder, plan.badge_queries, plan.badge_references, seed=0), badge_boxes(folder)
    counts = {name: plan.counts_of(name) for name in CONTENDERS}
    shape = (len(pairs), plan.badge_seeds, plan.badge_references)
    distance = {name: np.empty((len(counts[name]), *shape)) for name in CONTENDERS}
    auc = {name: np.empty((len(counts[name]), *shape)) for name in CONTENDERS}
    for at, (query, others) in enumerate(with_progress(pairs, "badges")):
        image = load(query.image)
        box = in_frame(boxes[query.id], image)
        inside = region(box, image.frame.size)
        references = models.similarity.embed(np.stack([load(other.image).pixels for other in others]))
        base = similarities(references, models.similarity.embed(image.pixels[None]), function)[:, 0]
        for seed in range(plan.badge_seeds):
            for name, n, maps in runner.maps(image, references, base, plan, seed):
                row = counts[name].index(n)
                distance[name][row, at, seed] = [to_centre(peak(one), box) for one in maps]
                auc[name][row, at, seed] = [pixel_auc(one, inside) for one in maps]
    return Localised(models.similarity.size, counts, distance, auc)


def region(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of ``box`` (top, left, height, width), bool [H, W]."""
    inside = np.zeros(size, bool)
    inside[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    return inside


def to_centre(pixel: tuple[int, int], box: Box) -> float:
    """Pixels from the centre of ``pixel`` (row, column) to the centre of ``box`` (top, left, height, width)."""
    return float(np.hypot(pixel[0] + 0.5 - box[0] - box[2] / 2, pixel[1] + 0.5 - box[1] - box[3] / 2))


def _halves(design: Rise, scores: Float64, base: Float64) -> float:
    """How the map of the first half of the masks correlates with that of the second."""
    half = design.n // 2
    maps = []
    for rows in (np.arange(half), np.arange(half, design.n)):
        maps.append(design.subset(rows).estimate(np.ascontiguousarray(scores[:, rows]), base)[0])
    return map_agreement(*maps).pearson


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the page and the plot; 2 where the input is not there."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else Plan(options.photographs, options.seeds)
    start, runners = time.monotonic(), []
    try:
        networks = dict(_named(one) for one in options.networks)
        require(options.manifest, options.catalogue, *networks.values())
        chosen = photograph_pairs(options.manifest, options.catalogue, plan.photographs)
        roots = {
            os.path.dirname(os.path.abspath(name))
            for name in (options.catalogue, *(at for pair in chosen for at in pair))
        }
        measured = []
        for name, bundle in networks.items():
            runner = Runner(Models(Serving(bundle, "cpu", options.threads, batch=16)), options.cache)
            loader = ImageLoader(Access(tuple(sorted(roots))), ImageLimits(), runner.models.bundle.resize)
            measured.append(correlate(name, runner, chosen, loader, plan))
            runners.append(runner)
        if not (options.demo / "catalogue.csv").exists():
            draw(options.demo, products=plan.products)
        runners.append(Runner(Models(Serving(options.brand, "cpu", options.threads, batch=16)), options.cache))
        localised = localise(runners[-1], options.demo, plan)
    except UsageError as error:
        print(f"sampling: {error}", file=sys.stderr)
        return 2
    passes, saved = (sum(getattr(runner, what) for runner in runners) for what in ("passes", "saved"))
    cost = f"{passes:,} masked passes in {(time.monotonic() - start) / 60:.1f} minutes, {saved:,} from earlier runs."
    picture = options.out.with_suffix(".png")
    write(options.out, page(measured, localised, plan.reference, plan.seeds, cost, picture.name))
    plot(measured, localised, picture)
    return 0


def _named(text: str) -> tuple[str, str]:
    name, equals, bundle = text.partition("=")
    if not equals:
        raise UsageError(f"a network is NAME=BUNDLE, not {text!r}")
    return name, bundle


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saliency.sampling",
        description="Compares designs of RISE's masks by the passes that they need.",
    )
    networks = (
        "EfficientNet-Lite0=build/fashion/bundle",
        "ResNet-18=build/sampling/resnet18/bundle",
        "transformer=build/sampling/transformer/bundle",
    )
    parser.add_argument("--networks", nargs="+", default=networks, metavar="NAME=BUNDLE", help="(default: %(default)s)")
    parser.add_argument("--manifest", default="build/fashion/pairs.csv", help="pairs, as `whymatch pairs` writes them")
    parser.add_argument("--catalogue", required=True, help="catalogue of the photographs")
    parser.add_argument(
        "--demo", type=Path, default=Path("build/demo"), help="the drawn catalogue, drawn where missing"
    )
    parser.add_argument("--brand", default=embedded("brand"), help="bundle of the network that uses the badge")
    parser.add_argument("--photographs", type=int, default=Plan.photographs, help="(default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=Plan.seeds, help="of the masks, on photographs (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="three photographs and few masks, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--cache", type=Path, default=Path("build/sampling/cache"), help="folder for embeddings")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks/sampling.md"), help="page; the plot beside it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
