"""How good is each saliency method, and what does it cost? ``python -m benchmarks.saliency.methods --help``.

Quality: insertion and deletion on real pairs, one reference a query, as in SANE's code
(``transforms.core.metrics.curves``).
Cost: forward passes, seconds a pair at one and at eight references, and peak memory, each as a worker has it. And a
picture of all methods on four pairs.

What a query has given is kept under ``--cache``: a run that was stopped goes on, and one of more queries costs only
those. The page's text is written by hand; this rewrites what stands between its two marks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.saliency.methods_report import Cost, Judged, Results, measured_section, rewritten
from benchmarks.support.machine import processor, versions
from benchmarks.support.photographs import require
from benchmarks.support.statistics import balanced_orders
from transforms.core.errors import UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.metrics.curves import PixelSteps, deletion, insertion
from transforms.core.records import EmbeddedImage, Failure, Float32, Float64, Pair, Product, content_id
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.saliency.gradients import GradientMethod, IntegratedGradientsMethod
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.similarity import similarities
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings
from transforms.inputs import catalogue, manifest
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

REFERENCE_MASKS = ReferenceMasks(30, RiseMethod.fill, 0)
WHITE = np.full((1, 1, 1, 3), 255, np.float32)


@dataclass(frozen=True)
class Setting:
    """A method with its parameters, and how the page calls it. ``queries`` limits one that takes too long for more."""

    name: str
    explainer: Explainer
    queries: int | None = None

    @property
    def both(self) -> bool:
        """Whether the reference is perturbed too."""
        return self.explainer.perturb == "both"

    @property
    def masked(self) -> int:
        """Masked versions of each reference; Mask has a mask of its own for them instead."""
        return self.explainer.references.masks if self.explainer.references else 0


def _setting(name: str, method: Any, both: bool = False, queries: int | None = None) -> Setting:
    masks = REFERENCE_MASKS if both and method.name != "mask" else None
    return Setting(name, Explainer(method, method.fill, "both" if both else "query", masks), queries)


_PAPER = RiseMethod(masks=512, sampling="independent", estimator="average")

SETTINGS: tuple[Setting, ...] = (
    _setting("rise", RiseMethod()),
    _setting("rise, as in the paper, 512, 50 queries", _PAPER, queries=50),
    _setting("rise, as in the paper, 2,000, 25 queries", replace(_PAPER, masks=2000), queries=25),
    _setting("rise, --converge 0.9, 50 queries", RiseMethod(masks=2000, converge=0.9), queries=50),
    _setting("sliding_window", SlidingWindowMethod()),
    _setting("sbsm", SbsmMethod()),
    _setting("lime", LimeMethod()),
    _setting("mask", MaskMethod()),
    _setting("gradient_x_input", GradientMethod()),
    _setting("integrated_gradients", IntegratedGradientsMethod()),
    _setting("integrated_gradients, 50 steps, 25 queries", IntegratedGradientsMethod(steps=50), queries=25),
    _setting("decomposition", DecompositionMethod()),
    _setting("rise, --perturb both", RiseMethod(), both=True),
    _setting("sliding_window, --perturb both", SlidingWindowMethod(), both=True),
    _setting("lime, --perturb both", LimeMethod(), both=True),
    _setting("mask, --perturb both, 10 queries", MaskMethod(), both=True, queries=10),
)
"""What is measured. The first is what the others are compared with; a method's defaults go by its name alone."""


@dataclass(frozen=True)
class Plan:
    """How much to measure. ``references`` is how many a query has in the measurement of costs, ``rounds`` how often."""

    queries: int = 100
    references: int = 8
    rounds: int = 1
    steps: int | None = None  # the most steps that a method takes, to see that it runs


QUICK = Plan(queries=3, references=2, rounds=1, steps=10)


def settings_for(bundle: Bundle, plan: Plan) -> tuple[list[Setting], dict[str, str]]:
    """The settings that ``bundle`` allows, and of the others why not."""
    allowed, left_out = [], {}
    for setting in SETTINGS:
        method: Any = setting.explainer.method
        graph = method.needs.graph
        if graph and getattr(bundle, graph) is None:
            left_out[setting.name] = f"no {graph}: {bundle.missing.get(graph, 'it is not known why')}"
            continue
        if plan.steps is not None and hasattr(method, "steps"):
            method = replace(method, steps=min(method.steps, plan.steps))
        allowed.append(replace(setting, explainer=replace(setting.explainer, method=method)))
    return allowed, left_out


def random_pixels(size: tuple[int, int], rng: np.random.Generator) -> Float64:
    """A map [H, W] in which every pixel is drawn by itself."""
    return rng.random(size)


def random_cells(size: tuple[int, int], rng: np.random.Generator) -> Float64:
    """A map [H, W] of 8 x 8 random cells, upsampled bilinearly: as coarse as RISE's."""
    rows, columns = (np.linspace(0, 7, side) for side in size)
    cells = rng.random((8, 8))
    across = np.stack([np.interp(columns, np.arange(8), row) for row in cells])
    return np.stack([np.interp(rows, np.arange(8), column) for column in across.T], axis=1)


def centre(size: tuple[int, int], rng: np.random.Generator) -> Float64:
    """A Gaussian [H, W] at the centre, its standard deviation a quarter of each side."""
    down, across = (np.exp(-0.5 * np.square(((np.arange(side) + 0.5) / side - 0.5) / 0.25)) for side in size)
    return np.outer(down, across)


BASELINES: dict[str, Callable[[tuple[int, int], np.random.Generator], Float64]] = {
    "random pixels": random_pixels,
    "random cells": random_cells,
    "centred Gaussian": centre,
}
"""Maps that know nothing of the pair."""


def chosen_pairs(pairs: str, products: str, queries: int, references: int) -> list[tuple[Pair, ...]]:
    """The first ``references`` pairs of each of ``queries`` queries, in an order that a hash of their ids decides.

    UsageError where the manifest has fewer such queries.
    """
    addresses = {item.id: item.image for item in catalogue.read(products) if isinstance(item, Product)}
    of_query: dict[str, list[Pair]] = {}
    for pair in manifest.read(pairs):
        if isinstance(pair, Pair):
            query, reference = (
                address or addresses.get(id_, "")
                for address, id_ in ((pair.query, pair.query_id), (pair.reference, pair.reference_id))
            )
            if query and reference:
                of_query.setdefault(pair.query_id, []).append(replace(pair, query=query, reference=reference))
    fit = sorted((id_ for id_, found in of_query.items() if len(found) >= references), key=_hash)
    if len(fit) < queries:
        raise UsageError(
            f"{pairs} has {len(fit)} queries of at least {references} references; {queries} were asked for. Make a "
            "larger manifest with `whymatch pairs`, or lower --queries."
        )
    return [tuple(of_query[id_][:references]) for id_ in fit[:queries]]


@dataclass(eq=False)
class Bench:
    """Open networks, what reads the photographs, and the folder of what was computed before."""

    models: Models
    load: ImageLoader
    settings: Sequence[Setting]
    cache: Path

    @property
    def size(self) -> tuple[int, int]:
        """The frame (H, W)."""
        return self.models.similarity.size

    def explained(
        self, settings: Sequence[Setting], pairs: Sequence[Pair], map_size: tuple[int, int], side: Any = "query"
    ) -> tuple[list[dict[str, Any]], int]:
        """Rows of the table explanations, and the forward passes behind all of them, as a worker makes both."""
        explaining = ExplanationSettings(tuple(one.explainer for one in settings), (side,), map_size=map_size)
        targets = [ExplanationTarget(pair, side) for pair in pairs]
        matched = [(target, self._other(target.counterpart, settings)) for target in targets]
        prepared = PreparedImage.of(self.load(targets[0].explained), explaining, self.models, self.load, matched)
        rows = []
        for row in explanation_rows(prepared, matched):
            if isinstance(row, Failure):
                raise UsageError(f"{row.query_id} and {row.reference_id}, {row.method}: {row.message}")
            rows.append(row)
        return rows, prepared.passes + max(one.masked for one in settings) * len(pairs)

    def judged(self, pair: Pair) -> dict[str, Judged]:
        """Every setting's and every baseline's map of ``pair`` with its curves. Settings share their passes."""
        image, names = self.load(pair.query), [*(one.name for one in self.settings), *BASELINES]
        paths = {name: self._path(name, pair, image) for name in names}
        missing = [one for one in self.settings if not paths[one.name].exists()]
        if missing:
            rows, _ = self.explained(missing, [pair], self.size)
            for setting, row in zip(missing, rows, strict=True):
                saliency = np.asarray(row["map"], np.float32).reshape(self.size)
                self._judge(paths[setting.name], image, pair, saliency, row["passes"])
        for name, make in BASELINES.items():
            if not paths[name].exists():
                drawn = make(self.size, np.random.default_rng(int(image.sha256[:8], 16)))
                self._judge(paths[name], image, pair, drawn.astype(np.float32), 0)
        return {name: Judged.read(path) for name, path in paths.items()}

    def complete(self, pair: Pair) -> bool:
        """Whether all of ``pair`` was computed before."""
        image = self.load(pair.query)
        names = [*(one.name for one in self.settings), *BASELINES]
        return all(self._path(name, pair, image).exists() for name in names)

    def _judge(self, path: Path, image: LoadedImage, pair: Pair, saliency: Float32, passes: int) -> None:
        reference = self.models.similarity.embed(self.load(pair.reference).pixels[None])
        curves = [
            self._scores(image, steps, reference)
            for steps in (insertion(saliency.astype(np.float64)), deletion(saliency.astype(np.float64)))
        ]
        Judged(saliency, curves[0], curves[1], passes).write(path)

    def _scores(self, image: LoadedImage, steps: PixelSteps, reference: Float32) -> Float64:
        bank = self.models.similarity.bank(steps, hold=False)
        embeddings = self.models.similarity.perturbed(image.pixels, bank, WHITE)
        scores: Float64 = similarities(reference, embeddings, self.models.bundle.similarity_function)[0]
        return scores

    def _path(self, name: str, pair: Pair, image: LoadedImage) -> Path:
        explainers = {one.name: one.explainer.id for one in self.settings}
        bundle = self.models.bundle
        files = [",".join(network.files.values()) for network in (bundle.gradient, bundle.projection) if network]
        key = (bundle.model_id, *files, explainers.get(name, name), image.sha256, pair.reference_id)
        return self.cache / f"{content_id(*key, letter='j')}.npz"

    def _other(self, address: str, settings: Sequence[Setting]) -> EmbeddedImage:
        masked = REFERENCE_MASKS if any(one.masked for one in settings) else None
        ((_, found),) = embed([address], self.load, self.models, masked, [address])
        if not isinstance(found, EmbeddedImage):
            raise UsageError(f"{address}: {found.message}")
        return found


def judge(bench: Bench, chosen: Sequence[tuple[Pair, ...]]) -> dict[str, list[Judged]]:
    """What every setting and baseline has to say of the first pair of every query."""
    found: dict[str, list[Judged]] = {}
    todo = sum(not bench.complete(pairs[0]) for pairs in chosen)
    start, done = time.monotonic(), 0
    for at, pairs in enumerate(chosen):
        bench = replace(bench, settings=[one for one in bench.settings if one.queries is None or at < one.queries])
        new = not bench.complete(pairs[0])
        for name, one in bench.judged(pairs[0]).items():
            found.setdefault(name, []).append(replace(one, saliency=one.saliency[:0]))
        done += new
        if new:
            left = (time.monotonic() - start) / done * (todo - done)
            print(f"maps and curves: {at + 1} of {len(chosen)} queries, {left / 60:.1f} minutes left", flush=True)
    return found


def costs(
    bench: Bench, chosen: Sequence[tuple[Pair, ...]], plan: Plan, memory_of: Callable[[int], list[int]]
) -> Iterator[Cost]:
    """Each setting's :class:`Cost`: all of them on ``plan.rounds`` queries, in an order that is fair to each.

    ``memory_of`` gives bytes before and at the peak for a setting's place.
    """
    counts = (1, plan.references)
    items = [(setting, count) for setting in bench.settings for count in counts]
    seconds: dict[tuple[str, int], list[float]] = {}
    passes: dict[tuple[str, int], list[int]] = {}
    for setting, _ in items[::2]:  # opens banks, and lets the runtime take its memory
        bench.explained([setting], chosen[-1][:1], (28, 28))
    for number, order in enumerate(balanced_orders(items, plan.rounds)):
        start = time.monotonic()
        for setting, count in order:
            begin = time.perf_counter()
            _, used = bench.explained([setting], chosen[number % len(chosen)][:count], (28, 28))
            seconds.setdefault((setting.name, count), []).append((time.perf_counter() - begin) / count)
            passes.setdefault((setting.name, count), []).append(used)
        print(f"costs: round {number + 1} of {plan.rounds}, {time.monotonic() - start:.0f} s", flush=True)
    for at, setting in enumerate(bench.settings):
        few, many = ((setting.name, count) for count in counts)
        before, peak = memory_of(at)
        yield Cost(
            setting.name,
            (float(np.median(seconds[few])), float(np.median(seconds[many]))),
            (float(np.median(passes[few])), float(np.median(passes[many]))),
            before,
            peak,
        )


def kept_costs(path: Path, measure: Callable[[], Sequence[Cost]]) -> list[Cost]:
    """The costs in the file ``path``, measured where there is none."""
    if path.exists():
        return [Cost.of(content) for content in json.loads(path.read_text(encoding="utf-8"))]
    found = list(measure())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in found]), encoding="utf-8")
    return found


def memory(name: str) -> int:
    """Bytes of this process: "VmRSS" that it holds, "VmHWM" the most so far. Linux only.

    Not ``resource.getrusage``, whose peak a process inherits from the one that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """Lets "VmHWM" start again from what is held now: opening a network takes more than serving it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory_of(arguments: Sequence[str]) -> Callable[[int], list[int]]:
    """Bytes with the networks open, and at the peak since: of a process of its own that explains one query."""

    def measure(at: int) -> list[int]:
        command = [sys.executable, "-m", "benchmarks.saliency.methods", *arguments, "--memory-of", str(at)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found: list[int] = json.loads(said.splitlines()[-1])
        return found

    return measure


def open_bench(options: argparse.Namespace, settings: Sequence[Setting], chosen: Sequence[tuple[Pair, ...]]) -> Bench:
    """The bench with the networks that ``settings`` ask for."""
    serving = Serving(options.bundle, "cpu", options.threads)
    models = Models(serving.with_needs_of(one.explainer.method for one in settings))
    images = {
        os.path.dirname(address) for pairs in chosen for pair in pairs for address in (pair.query, pair.reference)
    }
    beside = {os.path.dirname(os.path.abspath(name)) for name in (options.pairs, options.catalogue)}
    loader = ImageLoader(Access(tuple(sorted(images | beside))), ImageLimits(), models.bundle.resize)
    return Bench(models, loader, settings, options.cache)


def main(arguments: list[str] | None = None) -> int:
    """Measures, rewrites the page's measured section and draws the picture; 2 where the input is not there."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    plan = QUICK if options.quick else Plan(options.queries)
    start = time.monotonic()
    try:
        require(options.bundle, options.pairs, options.catalogue)
        chosen = chosen_pairs(options.pairs, options.catalogue, plan.queries, plan.references)
        settings, left_out = settings_for(bundles.read(options.bundle), plan)
        if options.memory_of is not None:
            bench = open_bench(options, [settings[options.memory_of]], chosen)
            forget_peak()
            before = memory("VmRSS")
            bench.explained(bench.settings, chosen[0][:2], (28, 28))
            print(json.dumps([before, memory("VmHWM")]))
            return 0
        page = options.out or Path("build/methods/quick.md" if options.quick else "docs/methods.md")
        rewritten(page, "")  # before an hour of measuring: is the section there?
        bench = open_bench(options, settings, chosen)
        ids = (bench.models.bundle.model_id, *(one.explainer.id for one in settings))
        how = (repr(plan), str(options.threads), processor(), versions("onnxruntime"))
        kept = options.cache / f"{content_id(*ids, *how, letter='c')}.json"
        found = kept_costs(kept, lambda: list(costs(bench, chosen, plan, _memory_of(given))))
        judged = judge(bench, chosen)
    except UsageError as error:
        print(f"methods: {error}", file=sys.stderr)
        return 2
    results = Results(judged, found, bench.size, plan.references, plan.rounds, options.threads, left_out)
    page.parent.mkdir(parents=True, exist_ok=True)
    minutes = (time.monotonic() - start) / 60
    page.write_text(rewritten(page, measured_section(results, bench.models.bundle.model_id, minutes)), encoding="utf-8")
    from benchmarks.saliency.methods_picture import draw

    draw(bench, chosen, page.with_suffix(".png"))
    print(f"written to {page}")
    return 0


def _hash(name: str) -> str:
    return content_id(name, letter="q")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saliency.methods",
        description="Measures every saliency method: how good it is, what it costs.",
    )
    parser.add_argument("--bundle", default="build/fashion/bundle", help="with gradient and projection")
    parser.add_argument("--pairs", default="build/fashion/pairs.csv", help="as `whymatch pairs` writes them")
    parser.add_argument("--catalogue", required=True, help="catalogue of the photographs")
    parser.add_argument("--queries", type=int, default=Plan.queries, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three queries and few steps, to see that it runs")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--cache", type=Path, default=Path("build/methods/cache"), help="folder for maps and curves")
    parser.add_argument("--out", type=Path, help="page (default: docs/methods.md; build/methods/quick.md with --quick)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
