"""From options to a finished run: check everything that can be checked, submit, watch, sum up."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from pipeline.audit import sources
from pipeline.audit.bundle_fit import check_bundle, plan_memory
from pipeline.audit.forecast import RunForecast, check_resources, forecast, graph_of, resources_here
from pipeline.audit.forecast_text import print_forecast
from pipeline.audit.options import AuditOptions
from pipeline.audit.probe import probe
from pipeline.audit.served.check import check_served
from pipeline.runs.progress import watched
from pipeline.runs.submit import quiet_beam, submit
from transforms import storage, tables
from transforms.core.errors import UsageError
from transforms.core.imaging import images
from transforms.core.messages import Echo, listed
from transforms.core.passes import Passes
from transforms.core.passes import passes as passes_of
from transforms.core.records import Failure
from transforms.core.saliency.contract import NO_FILL
from transforms.core.saliency.explainer import Explainer
from transforms.core.statistics.sampling import SamplingDesign
from transforms.inputs import catalogue, census, manifest, strata
from transforms.inputs.random_references import Drawn
from transforms.inputs.region_files import RegionReader
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import resolve_device

if TYPE_CHECKING:
    from pipeline.audit.graph import Plan


PROBED = 20
"""The speed of a run is measured on one in this many of its passes at most."""

_VERSIONS = ("apache-beam", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "pyarrow", "scikit-image", "scipy")


def plan(options: AuditOptions, echo: Echo = print, *, graph: bool = False, served: bool = False) -> Plan:
    """Validates a run, says what it will take, and returns it.

    With ``graph`` the pipeline's steps are said, too; with ``served`` the first served scores are checked.

    Raises UsageError for whatever can be known before the first worker starts: a missing file or column, a used run id,
    a bundle that does not fit or did not serve, a device that does not work, memory or disk that is not there.
    """
    from pipeline.audit.graph import build

    images.require_safe_decoder()
    profile = options.profile
    profile.check_reach(*options.manifest, options.bundle, options.out, options.catalogue, options.legend)
    # workers elsewhere have devices of their own: they settle what "auto" means
    device = resolve_device(options.device) if profile.here else "cpu"
    bundle = bundles.read(options.bundle)
    files = _checked_files(options, echo)
    check_bundle(options, bundle)
    found = strata.find(files, options.stratify, columns=options.columns, catalogue_address=options.catalogue)
    regions = sources.regions(options, files, echo)
    opened = _open(options, bundle, device)
    _say(options, opened, len(files), echo)
    if served:
        check_served(options, bundle, files, opened.models, echo)
    drawn = sources.random_references(options, files)
    passes = _passes(options, bundle, drawn)
    counted = _count(options, files, found, passes)
    planned = _planned(options, opened, files, counted, found, regions, drawn)
    foreseen = _foreseen(options, opened, planned, passes, counted)
    print_forecast(foreseen, echo, graph_of(lambda pipeline: build(pipeline, planned)) if graph else ())
    check_resources(foreseen, resources_here(options.out))
    return planned


@dataclass(frozen=True, eq=False)
class _Opened:
    """A bundle whose every session was opened once: what cannot run fails in the launcher, not in a worker.

    ``memory`` is what a worker needs, in bytes; it keeps its mask banks where ``serving.hold_banks``.
    """

    bundle: Bundle
    serving: Serving
    models: Models
    memory: int


@dataclass(frozen=True)
class _Census:
    """The rows of a manifest, those of them that cannot be read, and which of its queries are sampled."""

    rows: int
    unreadable: int
    design: SamplingDesign

    @property
    def queries(self) -> int:
        """Sampled queries."""
        return sum(stratum.sampled_queries for stratum in self.design.strata.values())

    @property
    def pairs(self) -> int:
        """Pairs of sampled queries."""
        return sum(stratum.sampled_pairs for stratum in self.design.strata.values())


def _checked_files(options: AuditOptions, echo: Echo) -> tuple[str, ...]:
    """The manifest's files; UsageError where one, or the catalogue, has a wrong header, or the run is there already."""
    files = tuple(file for pattern in options.manifest for file in storage.expand(pattern))
    for file in files:
        manifest.check_header(
            file, columns=options.columns, keep=options.keep, has_catalogue=options.catalogue is not None
        )
    if options.catalogue:
        _check_catalogue(options.catalogue, echo)
    if storage.list_files(tables.folder(options.out, "runs", options.run_id)):
        raise UsageError(
            f"{options.out} already holds a run {options.run_id}; choose another --run-id, or another --out"
        )
    return files


def _open(options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"]) -> _Opened:
    memory_plan, hold = plan_memory(options, bundle, device)
    serving = Serving(options.bundle, device, options.threads, options.batch, hold)
    serving = serving.with_needs_of(explainer.method for explainer in options.explainers())
    models = Models(serving)
    if not options.profile.here:
        serving = replace(serving, device=options.device)
    return _Opened(bundle, serving, models, memory_plan.total)


def _say(options: AuditOptions, opened: _Opened, files: int, echo: Echo) -> None:
    """What will be run, and by what."""
    echo(
        f"run {options.run_id}: {files} manifest file{'s' * (files != 1)}, "
        f"{options.profile.described(opened.models.similarity.provider, options.device)}"
    )
    if opened.bundle.conditions:
        echo(f"conditions {listed(tuple(opened.bundle.conditions))}")
    for explainer in options.explainers():
        echo(f"method {_described(explainer, options)}")
    size = opened.bundle.resize.size
    if not opened.serving.hold_banks and any(one.method.cost(size).banks for one in options.explainers()):
        echo("masks are drawn again for every image: their banks exceed --memory-limit")


def _passes(options: AuditOptions, bundle: Bundle, drawn: Drawn) -> Passes:
    return passes_of(
        options.explainers(),
        options.sides(),
        size=bundle.resize.size,
        function=bundle.similarity_function,
        random=len({address for some in drawn.values() for address in some}),
    )


def _count(options: AuditOptions, files: tuple[str, ...], found: strata.Strata, passes: Passes) -> _Census:
    budget = None if options.budget_passes is None else max(0, options.budget_passes - passes.random)
    with census.take(
        files, columns=options.columns, keep=options.keep, strata=found, seed=options.sampling_seed
    ) as counted:
        design = counted.design(
            options.sample,
            options.min_queries,
            budget,
            passes_per_query=passes.per_query,
            passes_per_pair=passes.per_pair,
        )
    return _Census(counted.rows, counted.unreadable, design)


def _planned(
    options: AuditOptions,
    opened: _Opened,
    files: tuple[str, ...],
    counted: _Census,
    found: strata.Strata,
    regions: RegionReader | None,
    drawn: Drawn,
) -> Plan:
    from pipeline.audit.graph import Plan

    return Plan(
        options,
        opened.bundle,
        opened.serving,
        files,
        versions(),
        counted.rows,
        counted.pairs + counted.unreadable,
        counted.design,
        found,
        regions,
        drawn,
    )


def _foreseen(options: AuditOptions, opened: _Opened, planned: Plan, passes: Passes, counted: _Census) -> RunForecast:
    load = ImageLoader(options.access(planned.files), options.limits(), opened.bundle.resize)
    most = passes.most(counted.queries, counted.pairs) // PROBED
    return forecast(
        options,
        opened.bundle,
        counted.design,
        passes,
        probe(opened.models, options.explainers(), load, sources.addresses(options, planned.files), most=most),
        rows=counted.rows,
        unreadable=counted.unreadable,
        worker_memory=opened.memory,
    )


def _described(explainer: Explainer, options: AuditOptions) -> str:
    """An explainer in a line: its method, its parameters, its fill, what it perturbs and which image it explains."""
    parameters = {key: value for key, value in explainer.method.parameters().items() if value is not None}
    listed = ", ".join(f"{key} {value}" for key, value in parameters.items() if key != "seed")
    filled = "" if explainer.fill == NO_FILL else f"fill {explainer.fill}"
    both = "both images perturbed" if explainer.perturb == "both" else ""
    explained = "" if options.explain == "query" else f"explains {options.explain}"
    less = "less the mean over random references" if explainer.contrast else ""
    name = f"{explainer.method.name}{f' ({listed})' * bool(listed)}"
    return ", ".join(filter(None, [name, filled, both, explained, less]))


def versions() -> dict[str, str]:
    """The versions that can change a result, by distribution; whymatch's own among them."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("whymatch", *_VERSIONS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"whymatch": "0", **found}


def run(options: AuditOptions, echo: Echo = print) -> bool:
    """Runs an audit to its end and prints its summary; False where more pairs failed than ``--max-failure-rate``
    allows.
    """
    from pipeline.audit.closing import summarise
    from pipeline.audit.graph import build

    quiet_beam(options.profile)
    started = time.monotonic()
    planned = plan(options, echo, served=True)
    what = "pairs" if len(options.sides()) == 1 else "sides of pairs"
    with watched(options.profile, echo, what=what) as progress:
        submit(options, lambda pipeline: build(pipeline, replace(planned, progress=progress)))
    return summarise(options, time.monotonic() - started, echo)


def _check_catalogue(address: str, echo: Echo) -> None:
    failures = [item for item in catalogue.read(address) if isinstance(item, Failure)]
    if failures:
        first = failures[0]
        echo(f"catalogue: {len(failures)} rows cannot be used, the first is {first.source}: {first.message}")
