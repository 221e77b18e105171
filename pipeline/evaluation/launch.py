"""From options to a finished evaluation: check what can be checked, submit, watch, sum up."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.bundle_fit import check_bundle, plan_memory
from pipeline.audit.launch import versions
from pipeline.audit.options import AuditOptions, explaining
from pipeline.evaluation.cascade import Cascade, make_stages
from pipeline.evaluation.checks import (
    bundle_of,
    check_attributes,
    check_found,
    check_id,
    check_report,
    check_split,
    needed_bytes,
)
from pipeline.evaluation.explainers import configuration_of, controls_of, explained_with, explains_again, other_seeds
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.run_inventory import RunInventory, scan_run
from pipeline.runs.progress import watched
from pipeline.runs.submit import quiet_beam, submit
from transforms import storage
from transforms.core import memory
from transforms.core.errors import UsageError
from transforms.core.imaging import images
from transforms.core.messages import Echo
from transforms.core.metrics.curves import STEPS
from transforms.core.metrics.registry import CURVES, REMOVAL, needing, requests
from transforms.core.saliency.controls import UNRELATED
from transforms.evaluating.gallery import columns_of, type_column
from transforms.evaluating.settings import EvaluationSettings
from transforms.explaining.settings import ExplanationSettings
from transforms.inputs import catalogue
from transforms.inputs.region_files import RegionReader
from transforms.inputs.region_legend import read_legend
from transforms.inputs.rows import header
from transforms.serving.bundle import Bundle
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import resolve_device
from transforms.tables import runs

if TYPE_CHECKING:
    from pipeline.evaluation.graph import EvaluationPlan


def run(options: EvaluateOptions, cascade: Cascade, echo: Echo = print) -> bool:
    """Runs an evaluation to its end and prints its summary; False for :func:`pipeline.evaluation.closing.faults`."""
    from pipeline.evaluation.closing import finish
    from pipeline.evaluation.graph import build

    quiet_beam(options.profile)
    started = time.monotonic()
    with ExitStack() as held:
        planned = plan(options, cascade, held, echo)

        with watched(
            options.profile, echo, what="explanations", doing="measuring", before="reading the tables"
        ) as progress:
            progress.add("pairs", planned.expected)
            submit(options, lambda pipeline: build(pipeline, replace(planned, progress=progress)))
    return finish(options, planned.run_id, time.monotonic() - started, echo)


def plan(options: EvaluateOptions, cascade: Cascade, held: ExitStack, echo: Echo = print) -> EvaluationPlan:
    """Validates an evaluation and says what it will do. Folders that it needs while it runs are kept in ``held``.

    Raises UsageError for whatever can be known before the first worker starts.
    """
    from pipeline.evaluation.graph import EvaluationPlan

    images.require_safe_decoder()
    profile = options.profile
    profile.check_reach(options.tables, options.bundle, options.catalogue, options.scratch)
    device = resolve_device(options.device) if profile.here else "cpu"
    run_ = runs.find(options.tables, options.run_id)
    bundle = _checked_bundle(options, run_, echo)
    explained = explained_with(options, run_)
    methods = tuple(one.method.name for one in explained)
    seeds = other_seeds(options, run_, explained)
    if options.report is not None:
        check_report(options, Path(options.report), echo)
    files = _files(options, run_, "explanations")
    found = scan_run(files, methods, options)
    remakes = explains_again(options)
    audit = _audit_of(options, run_)
    check_found(options, run_, bundle, found, audit.map_size)
    if remakes:
        check_bundle(audit, bundle)
    planned_memory, hold = plan_memory(audit, bundle, device)
    randomises = options.asks(*needing("cascade"))
    serving = Serving(options.bundle, device, options.threads, options.batch, hold and not randomises)
    serving = serving.with_needs_of([one.method for one in explained] if remakes else [])
    provider = Models(serving).similarity.provider  # what cannot run fails here, not in a worker
    stages = make_stages(options, run_, bundle, cascade, held, serving.graphs) if randomises else ()
    controls = controls_of(options) if options.compares else ()
    needed = needed_bytes(options, bundle, planned_memory.total, len(stages), len(explained) + len(controls))
    if not profile.here:
        serving = replace(serving, device=options.device)
    regions, labels = _regions(options)
    settings = replace(
        _settings_of(options, ExplanationSettings(explained, audit.sides(), 1, audit.map_size)),
        controls=controls,
        seeds=seeds,
        stages=stages,
        unrelated=found.unrelated,
        labels=labels,
    )
    where = profile.described(provider, options.device)
    _say(options, run_, settings, found, where, needed, echo)
    return EvaluationPlan(
        options,
        run_.id,
        bundle,
        serving,
        settings,
        files,
        methods,
        versions(),
        regions,
        _type_column(options, bundle, echo),
        expected=found.sampled,
        image_files=_files(options, run_, "images"),
    )


def _checked_bundle(options: EvaluateOptions, run_: runs.Run, echo: Echo) -> Bundle:
    """The bundle; UsageError where it, the evaluation's id or the catalogue does not go with the run."""
    bundle = bundle_of(options, run_)
    check_id(options, run_)
    if options.catalogue and options.asks(*needing("attributes")):
        catalogue.check_header(options.catalogue, columns=columns_of(bundle))
        check_attributes(options, run_, bundle, echo)
        check_split(options.catalogue, options.split)
    return bundle


def _audit_of(options: EvaluateOptions, run_: runs.Run) -> AuditOptions:
    """The run's audit, as this evaluation would do it again."""
    return replace(
        explaining(configuration_of(run_)),
        device=options.device,
        threads=options.threads,
        batch=options.batch,
        memory_limit=options.memory_limit,
        max_pixels=options.max_pixels,
    )


def _settings_of(options: EvaluateOptions, explained_with: ExplanationSettings) -> EvaluationSettings:
    """What ``options`` alone say."""
    return EvaluationSettings(
        options.evaluation_id,
        frozenset(options.metrics),
        explained_with,
        with_unrelated=options.with_unrelated,
        fills=options.fills,
        full=options.maps == "full",
        noise=options.noise,
        tolerance=options.tolerance,
        seed=options.seed,
    )


def _files(options: EvaluateOptions, run_: runs.Run, table: str) -> tuple[str, ...]:
    """The run's files of ``table``."""
    return tuple(address for run_id, address in runs.files(options.tables, table) if run_id == run_.id)


def _regions(options: EvaluateOptions) -> tuple[RegionReader | None, frozenset[int]]:
    if not options.asks(*needing("regions")) or options.catalogue is None or options.region is None:
        return None, frozenset()
    if "regions" not in header(options.catalogue):
        raise UsageError(
            f"the catalogue {storage.shown(options.catalogue)} has no column 'regions', the address of each product's "
            f"label image, which {', '.join(needing('regions'))} need"
        )
    legend = read_legend(options.legend or storage.resolve("regions.json", options.catalogue))
    return RegionReader(options.access(), options.limits(), legend), legend.labels(options.region)


def _type_column(options: EvaluateOptions, bundle: Bundle, echo: Echo) -> str | None:
    """The column of the types that the bundle's conditions join, where the catalogue has it."""
    column = type_column(bundle)
    if column is None or not options.asks(*requests(REMOVAL)) or options.catalogue is None:
        return None
    if column in header(options.catalogue):
        return column
    echo(f"the catalogue has no column {column!r}: any product may stand for a query under a condition")
    return None


def _say(
    options: EvaluateOptions,
    run_: runs.Run,
    settings: EvaluationSettings,
    found: RunInventory,
    where: str,
    needed: int,
    echo: Echo,
) -> None:
    """What will be measured, the least number of forward passes that it takes, and the ``needed`` bytes a worker."""
    sampled = "" if options.sample == 1 else f", {options.sample:.0%} of the queries sampled"
    echo(
        f"evaluation {options.evaluation_id} of run {run_.id}: {found.sampled:,} of {found.explanations:,} "
        f"explanations, {found.pairs:,} pairs of {found.queries:,} queries{sampled}, {where}"
    )
    maps = "made again at the frame's size" if settings.full else "as stored, enlarged to the frame"
    echo(f"metrics {', '.join(options.metrics)}; maps {maps}")
    curves = sum(name in options.metrics for name in requests(CURVES)) * len(options.fills) * (STEPS + 1)
    names = [one.method.name for one in settings.controls] + [UNRELATED] * settings.with_unrelated
    if names and options.compares:
        echo(f"controls {', '.join(names)}")
    if curves:
        echo(f"insertion and deletion: {curves * found.sampled:,} forward passes for the run's own maps")
    if settings.stages:
        shares = ", ".join(f"{stage.depth:.0%}" for stage in settings.stages)
        echo(f"sanity: {len(settings.stages)} randomised networks, {shares} of the blocks from the top")
    copies = f", {len(settings.stages)} randomised copies of the network among it" if settings.stages else ""
    echo(f"memory: about {memory.megabytes(needed)} a worker beyond its libraries{copies}")
