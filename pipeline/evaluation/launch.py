"""From options to a finished evaluation: check what can be checked, submit, watch, sum up."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.look import Found, look
from pipeline.evaluation.options import EvaluateOptions
from pipeline.launch import versions
from pipeline.options import check_bundle, explaining, plan_memory
from pipeline.runners import check_reach, submit
from pipeline.watch import Watch
from transforms import bundle as bundles
from transforms import catalogue, runs, storage
from transforms.bundle import Bundle
from transforms.core import images, memory
from transforms.core.errors import UsageError
from transforms.core.metrics import STEPS
from transforms.core.saliency.controls import CONTROLS
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.methods import NO_FILL
from transforms.explain_image import Explaining
from transforms.gallery import columns_of, type_column
from transforms.measuring import AGREEMENTS, ATTRIBUTES, CURVES, REGIONS, STRANGER, Measuring, Stage
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.regions import RegionReader, read_legend
from transforms.rows import header, listed
from transforms.runtime import resolve_device

if TYPE_CHECKING:
    from pipeline.evaluation.graph import EvaluationPlan

Echo = Callable[[str], None]

Cascade = Callable[[Path, Path, int | None, int], Sequence[Stage]]
"""Writes randomised copies of the bundle in a folder into another: ``cascade(bundle, out, stages, seed)``."""


def run(options: EvaluateOptions, cascade: Cascade, echo: Echo = print) -> bool:
    """Runs an evaluation to its end and prints its summary; False where an explainer of the run fails the sanity check,
    or more measures could not be taken than ``--max-failure-rate`` allows."""
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
    if (run_.id, options.evaluation_id) in runs.evaluations(options.tables):
        raise UsageError(
            f"{storage.shown(options.tables)} already holds an evaluation {options.evaluation_id} of run {run_.id}; "
            "choose another --evaluation-id"
        )
    if options.catalogue and options.asks(*ATTRIBUTES):
        catalogue.check_header(options.catalogue, columns=columns_of(bundle))
    explained = _explained_with(options, run_)
    methods = tuple(one.method.name for one in explained)
    files = tuple(address for run_id, address in runs.files(options.tables, "explanations") if run_id == run_.id)
    found = look(files, methods, options)
    _check_found(options, run_, bundle, found)
    again = _explains_again(options)
    audit = replace(
        explaining(_configuration(run_)),
        device=options.device,
        threads=options.threads,
        batch=options.batch,
        memory_limit=options.memory_limit,
        max_pixels=options.max_pixels,
    )
    if again:
        check_bundle(audit, bundle)
    planned_memory, hold = plan_memory(audit, bundle, device)
    needs = tuple(sorted({one.method.needs for one in explained})) if again else ()
    serving = Serving(
        options.bundle, device, options.threads, options.batch, hold and "sanity" not in options.metrics, needs
    )
    provider = Models(serving).similarity.provider  # what cannot run fails here, not in a worker
    stages = _stages(options, bundle, cascade, held, needs) if "sanity" in options.metrics else ()
    if not local:
        serving = replace(serving, device=options.device)
    regions, labels = _regions(options)
    measuring = Measuring(
        options.evaluation_id,
        frozenset(options.metrics),
        Explaining(explained, audit.sides(), 1, audit.map_size),
        controls=_controls(options) if options.compares else (),
        with_strangers=STRANGER in options.controls and options.asks(*CURVES, *REGIONS),
        fills=options.fills,
        full=options.maps == "full",
        seeds=_other_seeds(options, run_, explained),
        noise=options.noise,
        stages=stages,
        strangers=found.strangers,
        labels=labels,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    _say(options, run_, measuring, found, provider if local else f"{options.runner}, device {options.device}", echo)
    echo(f"memory: {memory.megabytes(planned_memory.total)} a worker beyond its libraries" + _beside(stages))
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
    """The explainers with another seed; those that draw nothing are left out."""
    if "seeds" not in options.metrics:
        return ()
    configuration = _configuration(run_)
    others = explaining(configuration, seed=int(configuration.get("seed", 0)) + 1).explainers()
    before = {one.method.name: one.id for one in explained}
    return tuple(one for one in others if one.method.name in before and one.id != before[one.method.name])


def _controls(options: EvaluateOptions) -> tuple[Explainer, ...]:
    return tuple(Explainer(CONTROLS[name](), NO_FILL) for name in options.controls if name != STRANGER)


def _check_found(options: EvaluateOptions, run_: runs.Run, bundle: Bundle, found: Found) -> None:
    if not found.sampled:
        raise UsageError(
            f"run {run_.id} has {found.explanations:,} explanations, and --sample {options.sample} takes none of them"
        )
    if found.frame != bundle.resize.size:
        raise UsageError(f"run {run_.id} has maps of the frame {found.frame}, the bundle's is {bundle.resize.size}")
    needs: list[str] = [name for name in options.metrics if name in ("shuffled", "stranger")]
    if STRANGER in options.controls and options.asks(*CURVES, *REGIONS):
        needs.append(f"--controls {STRANGER}")
    if needs and len(found.strangers) < 2:
        raise UsageError(f"{', '.join(needs)}: the run has one query only, and nothing to compare it with")


def _stages(
    options: EvaluateOptions, bundle: Bundle, cascade: Cascade, held: ExitStack, needs: Sequence[str]
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
    return tuple(_published(stage, options.scratch, options.evaluation_id) for stage in stages)


def _published(stage: Stage, scratch: str, evaluation_id: str) -> Stage:
    folder = Path(stage.bundle)
    address = storage.join(scratch, evaluation_id, folder.name)
    for path in sorted(folder.iterdir()):
        storage.publish(storage.join(address, path.name), path.read_bytes())
    return replace(stage, bundle=address)


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


def _beside(stages: Sequence[Stage]) -> str:
    return f", and {len(stages)} more copies of the network" if stages else ""
