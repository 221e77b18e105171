"""From options to a finished run: check everything that can be checked, submit, watch, sum up."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.options import AuditOptions, check_bundle, plan_memory
from pipeline.runners import check_reach, submit
from pipeline.watch import Watch
from transforms import bundle as bundles
from transforms import catalogue, manifest, storage, tables
from transforms.core import images, memory
from transforms.core.errors import UsageError
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.methods import NO_FILL
from transforms.core.types import Failure
from transforms.models import Models, Serving
from transforms.progress import Progress
from transforms.rows import listed
from transforms.runtime import resolve_device

Echo = Callable[[str], None]

_VERSIONS = ("apache-beam", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "pyarrow", "scikit-image", "scipy")


def plan(options: AuditOptions, echo: Echo = print) -> Any:
    """Validates a run and says what it will do; returns the :class:`pipeline.graph.Plan`.

    Raises UsageError for whatever can be known before the first worker starts: a missing file or column, a used run id,
    a bundle that does not fit, a device that does not work, memory that is not there.
    """
    from pipeline.graph import Plan

    images.require_safe_decoder()
    check_reach(options.runner, *options.manifest, options.bundle, options.out, options.catalogue)
    local = options.runner == "local"
    # workers elsewhere have devices of their own: they settle what "auto" means
    device = resolve_device(options.device) if local else "cpu"
    bundle = bundles.read(options.bundle)
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
    check_bundle(options, bundle)
    memory_plan, hold = plan_memory(options, bundle, device)
    needs = tuple(sorted({explainer.method.needs for explainer in options.explainers()}))
    serving = Serving(options.bundle, device, options.threads, options.batch, hold, needs)
    models = Models(serving)  # opens every session once: what cannot run fails here, not in a worker
    if not local:
        serving = replace(serving, device=options.device)
    echo(
        f"run {options.run_id}: {len(files)} manifest file{'s' * (len(files) != 1)}, "
        f"{models.similarity.provider if local else f'{options.runner}, device {options.device}'}"
    )
    if bundle.conditions:
        echo(f"conditions {listed(tuple(bundle.conditions))}")
    for explainer in options.explainers():
        echo(f"method {_described(explainer, options)}")
    echo(f"memory: {memory.megabytes(memory_plan.total)} a worker beyond its libraries" + _kept(options, hold))
    return Plan(options, bundle, serving, files, versions())


def _described(explainer: Explainer, options: AuditOptions) -> str:
    """An explainer in a line: its method, its parameters, its fill, what it perturbs and which image it explains."""
    parameters = {key: value for key, value in explainer.method.parameters().items() if value is not None}
    listed = ", ".join(f"{key} {value}" for key, value in parameters.items() if key != "seed")
    filled = "" if explainer.fill == NO_FILL else f"fill {explainer.fill}"
    both = "both images perturbed" if explainer.perturb == "both" else ""
    explained = "" if options.explain == "query" else f"explains {options.explain}"
    return ", ".join(filter(None, [f"{explainer.method.name}{f' ({listed})' * bool(listed)}", filled, both, explained]))


def _kept(options: AuditOptions, hold: bool) -> str:
    banks = any(getattr(explainer.method, "banks", 0) for explainer in options.explainers())
    return " (masks are drawn again for every image: they exceed --memory-limit)" if banks and not hold else ""


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
    from pipeline.graph import build
    from pipeline.summary import summarise

    if options.runner == "local":
        # Beam logs much that is no concern of the user's; its errors are raised as well
        logging.disable(logging.ERROR)
    started = time.monotonic()
    planned = plan(options, echo)
    if options.runner == "local":
        with tempfile.TemporaryDirectory(prefix="whymatch-progress-") as folder:
            planned = replace(planned, progress=Progress(str(Path(folder) / "progress")))
            with Watch(planned.progress, echo, what="pairs" if len(options.sides()) == 1 else "sides of pairs"):
                submit(options, lambda pipeline: build(pipeline, planned))
    else:
        submit(options, lambda pipeline: build(pipeline, planned))
    return summarise(options, time.monotonic() - started, echo)


def _check_catalogue(address: str, echo: Echo) -> None:
    failures = [item for item in catalogue.read(address) if isinstance(item, Failure)]
    if failures:
        first = failures[0]
        echo(f"catalogue: {len(failures)} rows cannot be used, the first is {first.source}: {first.message}")


def default_threads(workers: int, runner: str = "local") -> int:
    """CPU threads a worker: this machine's cores shared among them; 1 elsewhere, where a core has its own worker."""
    if runner != "local":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
