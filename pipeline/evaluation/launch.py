"""From options to a finished evaluation: check what can be checked, submit, watch, sum up."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.look import Found, look
from pipeline.evaluation.options import EvaluateOptions
from pipeline.launch import versions
from pipeline.options import check_bundle, explaining, plan_memory
from pipeline.runners import check_reach, submit
from pipeline.watch import Watch
from transforms import bundle as bundles
from transforms import catalogue, runs, storage, tables
from transforms.bundle import Bundle
from transforms.core import images, memory
from transforms.core.errors import UsageError
from transforms.core.memory import CHUNK
from transforms.core.metrics import STEPS
from transforms.core.saliency.controls import CONTROLS
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.methods import NO_FILL
from transforms.core.types import Product
from transforms.explain_image import Explaining
from transforms.gallery import columns_of, type_column
from transforms.lines import quoted
from transforms.measuring import AGREEMENTS, ATTRIBUTES, CURVES, REGIONS, STRANGER, Measuring, Stage
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.regions import RegionReader, read_legend
from transforms.rows import header, listed
from transforms.runtime import resolve_device

if TYPE_CHECKING:
    from pipeline.evaluation.graph import EvaluationPlan

Echo = Callable[[str], None]

SESSION = 3
"""The memory of a session in sizes of its file, roughly: weights, packed weights, activations."""

Cascade = Callable[[Path, Path, int, int], Sequence[Stage]]
"""Writes randomised copies of the bundle in a folder into another: ``cascade(bundle, out, stages, seed)``."""


def run(options: EvaluateOptions, cascade: Cascade, echo: Echo = print) -> bool:
    """Runs an evaluation to its end and prints its summary; False where it fails (:func:`finish.faults`)."""
    from pipeline.evaluation.finish import finish
    from pipeline.evaluation.graph import build

    if options.runner == "local":
        # Beam logs much that is no concern of the user's; its errors are raised as well
        logging.disable(logging.ERROR)
    started = time.monotonic()
    with ExitStack() as held:
        planned = plan(options, cascade, held, echo)
        if options.runner == "local":
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="whymatch-progress-"))
            planned = replace(planned, progress=Progress(str(Path(folder) / "progress")))
            planned.progress.add("pairs", planned.expected)
            with Watch(planned.progress, echo, what="explanations", doing="measuring", before="reading the tables"):
                submit(options, lambda pipeline: build(pipeline, planned))
        else:
            submit(options, lambda pipeline: build(pipeline, planned))
    return finish(options, planned.run_id, time.monotonic() - started, echo)


def plan(options: EvaluateOptions, cascade: Cascade, held: ExitStack, echo: Echo = print) -> EvaluationPlan:
    """Validates an evaluation and says what it will do. Folders that it needs while it runs are kept in ``held``.

    Raises UsageError for whatever can be known before the first worker starts.
    """
    from pipeline.evaluation.graph import EvaluationPlan

    images.require_safe_decoder()
    check_reach(options.runner, options.tables, options.bundle, options.catalogue, options.scratch)
    local = options.runner == "local"
    device = resolve_device(options.device) if local else "cpu"
    run_ = runs.find(options.tables, options.run_id)
    bundle = _bundle_of(options, run_)
    _check_id(options, run_)
    if options.catalogue and options.asks(*ATTRIBUTES):
        catalogue.check_header(options.catalogue, columns=columns_of(bundle))
        _check_attributes(options, run_, bundle, echo)
        _check_split(options.catalogue, options.split)
    explained = _explained_with(options, run_)
    methods = tuple(one.method.name for one in explained)
    seeds = _other_seeds(options, run_, explained)
    if options.report is not None:
        _check_report(options, Path(options.report), echo)
    files = _files(options, run_, "explanations")
    found = look(files, methods, options)
    again = _explains_again(options)
    audit = replace(
        explaining(_configuration(run_)),
        device=options.device,
        threads=options.threads,
        batch=options.batch,
        memory_limit=options.memory_limit,
        max_pixels=options.max_pixels,
    )
    _check_found(options, run_, bundle, found, audit.map_size)
    if again:
        check_bundle(audit, bundle)
    planned_memory, hold = plan_memory(audit, bundle, device)
    needs = tuple(sorted({one.method.needs for one in explained})) if again else ()
    serving = Serving(
        options.bundle, device, options.threads, options.batch, hold and "sanity" not in options.metrics, needs
    )
    provider = Models(serving).similarity.provider  # what cannot run fails here, not in a worker
    stages = _stages(options, run_, bundle, cascade, held, needs) if "sanity" in options.metrics else ()
    controls = _controls(options) if options.compares else ()
    needed = _bytes(options, bundle, planned_memory.total, len(stages), len(explained) + len(controls))
    if not local:
        serving = replace(serving, device=options.device)
    regions, labels = _regions(options)
    measuring = Measuring(
        options.evaluation_id,
        frozenset(options.metrics),
        Explaining(explained, audit.sides(), 1, audit.map_size),
        controls=controls,
        with_strangers=options.with_strangers,
        fills=options.fills,
        full=options.maps == "full",
        seeds=seeds,
        noise=options.noise,
        stages=stages,
        strangers=found.strangers,
        labels=labels,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    _say(options, run_, measuring, found, provider if local else f"{options.runner}, device {options.device}", echo)
    copies = f", {len(stages)} randomised copies of the network among it" if stages else ""
    echo(f"memory: about {memory.megabytes(needed)} a worker beyond its libraries{copies}")
    return EvaluationPlan(
        options,
        run_.id,
        bundle,
        serving,
        measuring,
        files,
        methods,
        versions(),
        regions,
        _type_column(options, bundle, echo),
        expected=found.sampled,
        image_files=_files(options, run_, "images"),
    )


def _bundle_of(options: EvaluateOptions, run_: runs.Run) -> Bundle:
    bundle = bundles.read(options.bundle)
    if run_.row["model_id"] != bundle.model_id:
        raise UsageError(
            f"run {run_.id} is of another similarity model than the bundle: its model_id is {run_.row['model_id']}, "
            f"the bundle's is {bundle.model_id}. Give the bundle that was audited, or choose a run with --run-id."
        )
    if options.asks(*ATTRIBUTES) and bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(options.bundle)} has no attribute network: {' and '.join(ATTRIBUTES)} judge what one says"
        )
    return bundle


def _files(options: EvaluateOptions, run_: runs.Run, table: str) -> tuple[str, ...]:
    """The run's files of ``table``."""
    return tuple(address for run_id, address in runs.files(options.tables, table) if run_id == run_.id)


def _check_id(options: EvaluateOptions, run_: runs.Run) -> None:
    """UsageError where the evaluation's id is taken, also by one that broke off, whose rows would count."""
    if (run_.id, options.evaluation_id) in runs.evaluations(options.tables):
        raise UsageError(
            f"{storage.shown(options.tables)} already holds an evaluation {options.evaluation_id} of run {run_.id}; "
            "choose another --evaluation-id"
        )
    folder = tables.folder(options.tables, "metrics", run_.id)
    if any(runs.of(address) == options.evaluation_id for address in storage.list_files(folder)):
        raise UsageError(
            f"an evaluation {options.evaluation_id} of run {run_.id} broke off and left rows behind: choose another "
            f"--evaluation-id, or remove {storage.shown(folder)}/part-{options.evaluation_id}-*.parquet"
        )


def _check_attributes(options: EvaluateOptions, run_: runs.Run, bundle: Bundle, echo: Echo) -> None:
    """UsageError where the run named other attributes than the bundle would; those of old runs are not known."""
    asked = " and ".join(metric for metric in ATTRIBUTES if metric in options.metrics)
    for name, what in (("attribute_model_id", "another attribute network"), ("vocabulary_id", "another vocabulary")):
        then, now = run_.row[name], getattr(bundle, name)
        if then is not None and then != now:
            raise UsageError(
                f"{asked}: run {run_.id} was made with {what} than the bundle has: its {name} is {then}, the bundle's "
                f"is {now}. Give the bundle that was audited, or audit again."
            )
    then, now = run_.row["ranking_id"], bundle.ranking_id
    if "removal" in options.metrics and then is not None and then != now:
        echo(
            f"run {run_.id} ranked its attributes otherwise than the bundle does now: removal measures the run's order"
        )


def _check_split(address: str, split: str | None) -> None:
    """UsageError where no product of the catalogue is of ``split``."""
    splits: set[str] = set()
    if split is None:
        return
    for item in catalogue.read(address):
        if isinstance(item, Product) and item.split is not None:
            if item.split == split:
                return
            splits.add(item.split)
    there = f"there are {listed(sorted(splits))}" if splits else "it has none: the column 'split' is missing or empty"
    raise UsageError(f"--split: no product of the catalogue {storage.shown(address)} is of {quoted(split)}; {there}")


def _check_report(options: EvaluateOptions, folder: Path, echo: Echo) -> None:
    """Makes the report's folder, so that one that cannot be written is found before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--report: cannot write to {storage.shown(str(folder))}: {error.strerror}") from None
    if options.asks(*CURVES, "sanity") and find_spec("matplotlib") is None:
        echo("the report will have no pictures: they need matplotlib. Run: pip install 'whymatch[report]'")


def _configuration(run_: runs.Run) -> dict[str, Any]:
    try:
        configuration = json.loads(run_.row["configuration"])
    except (ValueError, RecursionError):
        configuration = None
    if not isinstance(configuration, dict):
        raise UsageError(f"{storage.shown(run_.address)}: the run's configuration is no JSON object. Audit again.")
    return configuration


def _explained_with(options: EvaluateOptions, run_: runs.Run) -> tuple[Explainer, ...]:
    """The run's explainers that are measured.

    Where maps are made again, they must be those that the audit made: ids are of methods and all their parameters.
    """
    explainers = explaining(_configuration(run_)).explainers()
    names = [one.method.name for one in explainers]
    if unknown := sorted(set(options.methods) - set(names)):
        raise UsageError(f"run {run_.id} has no maps of {unknown[0]!r}; it has those of {listed(names)}")
    if _explains_again(options) and {one.id for one in explainers} != set(run_.row["explainer_ids"]):
        raise UsageError(
            f"run {run_.id} was explained by another version of whymatch, whose maps this one does not make: "
            f"{', '.join(sorted(_again(options)))} cannot be measured. Audit again, or measure its stored maps by "
            f"{', '.join(CURVES)}."
        )
    return tuple(one for one in explainers if not options.methods or one.method.name in options.methods)


def _again(options: EvaluateOptions) -> set[str]:
    """What of the metrics asks for maps to be made again."""
    asked = set(options.metrics) & (set(AGREEMENTS) - {"stranger"})
    return asked | ({"--maps full"} if options.maps == "full" else set())


def _explains_again(options: EvaluateOptions) -> bool:
    return bool(_again(options))


def _other_seeds(options: EvaluateOptions, run_: runs.Run, explained: Sequence[Explainer]) -> tuple[Explainer, ...]:
    """The explainers with another seed; those that draw nothing are left out.

    UsageError where none is left.
    """
    if "seeds" not in options.metrics:
        return ()
    configuration = _configuration(run_)
    others = explaining(configuration, seed=explaining(configuration).seed + 1).explainers()
    before = {one.method.name: one.id for one in explained}
    seeds = tuple(one for one in others if one.method.name in before and one.id != before[one.method.name])
    if not seeds:
        raise UsageError(
            f"--metrics seeds: none of the methods that are measured ({', '.join(before)}) draws anything, so another "
            "seed changes no map. Leave seeds out, or measure a method that draws, such as rise."
        )
    return seeds


def _controls(options: EvaluateOptions) -> tuple[Explainer, ...]:
    return tuple(Explainer(CONTROLS[name](), NO_FILL) for name in options.controls if name != STRANGER)


def _check_found(
    options: EvaluateOptions, run_: runs.Run, bundle: Bundle, found: Found, map_size: tuple[int, int]
) -> None:
    if not found.sampled:
        raise UsageError(
            f"run {run_.id} has {found.explanations:,} explanations, and --sample {options.sample} takes none of them"
        )
    if found.frame != bundle.resize.size:
        raise UsageError(f"run {run_.id} has maps of the frame {found.frame}, the bundle's is {bundle.resize.size}")
    if found.map_size not in (None, map_size):
        raise UsageError(
            f"run {run_.id} has maps of {found.map_size} cells, and its record says {map_size}: audit again"
        )
    needs: list[str] = [name for name in options.metrics if name in ("shuffled", "stranger")]
    if options.with_strangers:
        needs.append(f"--controls {STRANGER}")
    if needs and len({stranger.query_id for stranger in found.strangers}) < 2:
        raise UsageError(f"{', '.join(needs)}: the run has one query only, and nothing to compare it with")


def _stages(
    options: EvaluateOptions, run_: runs.Run, bundle: Bundle, cascade: Cascade, held: ExitStack, needs: Sequence[str]
) -> tuple[Stage, ...]:
    """Randomised copies of the bundle, in a folder of this machine or, for other runners, in ``--scratch``."""
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="whymatch-cascade-")))
    (source := folder / "bundle").mkdir()
    bundles.write(bundles.fetch(options.bundle, source), source)
    stages = tuple(cascade(source, folder / "stages", options.stages, options.seed))
    for stage in stages:
        made = bundles.read(stage.bundle)
        for need in needs:
            if need in ("gradient", "projection") and getattr(made, need) is None:
                raise UsageError(f"sanity: {made.missing.get(need, f'the randomised bundle has no {need}')}")
    if options.scratch is None:
        return stages
    # ids of evaluations are those of their run
    scratch = storage.join(options.scratch, f"run_id={run_.id}", options.evaluation_id)
    return tuple(_published(stage, scratch) for stage in stages)


def _published(stage: Stage, scratch: str) -> Stage:
    """The stage where other machines can read it; what an evaluation that broke off has left there may stand."""
    folder = Path(stage.bundle)
    address = storage.join(scratch, folder.name)
    for path in sorted(folder.iterdir()):
        data, target = path.read_bytes(), storage.join(address, path.name)
        try:
            storage.publish(target, data)
        except storage.AlreadyPublished:
            if storage.read_file(target) != data:
                raise UsageError(
                    f"--scratch: {storage.shown(target)} is of another evaluation; choose another --evaluation-id or "
                    f"--scratch, or remove {storage.shown(address)}"
                ) from None
    return replace(stage, bundle=address)


def _bytes(options: EvaluateOptions, bundle: Bundle, image: int, stages: int, explainers: int) -> int:
    """The bytes that a worker needs, roughly; UsageError where they are more than ``--memory-limit``.

    ``image`` are those of explaining one. To them come the network and its ``stages`` randomised copies, each of
    ``SESSION`` times the size of its file; and, where maps are made again, those of a chunk of pairs in float64, of
    each of the ``explainers``, controls among them.
    """
    network = SESSION * sum(_size(storage.join(options.bundle, name)) for name in bundle.similarity.files)
    networks = (1 + stages) * network
    height, width = bundle.resize.size
    maps = explainers * CHUNK * height * width * 8 if options.maps == "full" else 0
    total = image + networks + maps
    if total > options.memory_limit:
        parts = [
            f"{memory.megabytes(image)} for explaining an image",
            f"{memory.megabytes(networks)} for the network" + (f" and {stages} randomised copies" if stages else ""),
            *([f"{memory.megabytes(maps)} for maps at the frame's size"] if maps else ()),
        ]
        fewer = ["fewer --stages"] * bool(stages) + ["--maps stored"] * bool(maps) + ["fewer methods or --max-pixels"]
        raise UsageError(
            f"this evaluation needs about {memory.megabytes(total)} a worker, more than --memory-limit "
            f"{memory.megabytes(options.memory_limit)}: {', '.join(parts)}. "
            f"Take {', '.join(fewer)}, or raise the limit."
        )
    return total


def _size(address: str) -> int:
    with storage.open_file(address) as stream:
        return stream.seek(0, io.SEEK_END)


def _regions(options: EvaluateOptions) -> tuple[RegionReader | None, frozenset[int]]:
    if not options.asks(*REGIONS) or options.catalogue is None or options.region is None:
        return None, frozenset()
    if "regions" not in header(options.catalogue):
        raise UsageError(
            f"the catalogue {storage.shown(options.catalogue)} has no column 'regions', the address of each product's "
            f"label image, which {', '.join(REGIONS)} need"
        )
    legend = read_legend(options.legend or storage.resolve("regions.json", options.catalogue))
    return RegionReader(options.access(), options.limits(), legend), legend.labels(options.region)


def _type_column(options: EvaluateOptions, bundle: Bundle, echo: Echo) -> str | None:
    """The column of the types that the bundle's conditions join, where the catalogue has it."""
    column = type_column(bundle)
    if column is None or not options.asks("removal") or options.catalogue is None:
        return None
    if column in header(options.catalogue):
        return column
    echo(f"the catalogue has no column {column!r}: any product may stand for a query under a condition")
    return None


def _say(options: EvaluateOptions, run_: runs.Run, measuring: Measuring, found: Found, where: str, echo: Echo) -> None:
    """What will be measured, and the least number of forward passes that it takes."""
    sampled = "" if options.sample == 1 else f", {options.sample:.0%} of the queries sampled"
    echo(
        f"evaluation {options.evaluation_id} of run {run_.id}: {found.sampled:,} of {found.explanations:,} "
        f"explanations, {found.pairs:,} pairs of {found.queries:,} queries{sampled}, {where}"
    )
    maps = "made again at the frame's size" if measuring.full else "as stored, enlarged to the frame"
    echo(f"metrics {', '.join(options.metrics)}; maps {maps}")
    curves = sum(name in options.metrics for name in CURVES) * len(options.fills) * (STEPS + 1)
    names = [one.method.name for one in measuring.controls] + [STRANGER] * measuring.with_strangers
    if names and options.compares:
        echo(f"controls {', '.join(names)}")
    if curves:
        echo(f"insertion and deletion: {curves * found.sampled:,} forward passes for the run's own maps")
    if measuring.stages:
        shares = ", ".join(f"{stage.depth:.0%}" for stage in measuring.stages)
        echo(f"sanity: {len(measuring.stages)} randomised networks, {shares} of the blocks from the top")
