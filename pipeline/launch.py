"""From options to a finished run: check everything that can be checked, submit, watch, sum up."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.options import AuditOptions, check_bundle, plan_memory
from transforms import bundle as bundles
from transforms import catalogue, manifest, storage, tables
from transforms.addresses import is_local
from transforms.core import images, memory
from transforms.core.errors import RunError, UsageError, WhymatchError
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
    _check_reach(options)
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
                submit(planned)
    else:
        submit(planned)
    return summarise(options, time.monotonic() - started, echo)


def submit(planned: Any) -> None:
    """Runs the pipeline on the chosen runner and waits for it; RunError when it breaks."""
    import apache_beam as beam

    from pipeline.graph import build

    pipeline = beam.Pipeline(runner=_runner(planned.options), options=_beam_options(planned.options))
    build(pipeline, planned)
    try:
        state = pipeline.run().wait_until_finish()
    except WhymatchError:
        raise
    except Exception as error:
        # Beam wraps a worker's error in its own text, which may hold addresses
        raise RunError(f"the pipeline broke: {storage.redact(_cause(error))}") from None
    if state != "DONE":
        raise RunError(f"the pipeline ended as {state}")


def _runner(options: AuditOptions) -> Any:
    if options.runner == "local":
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.transforms.environments import SubprocessSDKEnvironment

        # FnApiRunner by name: the bare DirectRunner tries to download another engine
        if options.workers == 1:
            return FnApiRunner()
        command = f"{shlex.quote(sys.executable)} -P -m pipeline.local_worker"
        return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command_string=command))
    return {"spark": "SparkRunner", "flink": "FlinkRunner", "dataflow": "DataflowRunner"}[options.runner]


def _beam_options(options: AuditOptions) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    arguments = list(options.beam_args)
    if options.runner == "local":
        arguments.append(f"--direct_num_workers={options.workers}")
    return PipelineOptions(arguments, save_main_session=False)


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _check_reach(options: AuditOptions) -> None:
    """Workers of Dataflow see no disk of this machine; those of other clusters only what they share."""
    named = (*options.manifest, options.bundle, options.out, *filter(None, [options.catalogue]))
    if options.runner == "dataflow" and (local := [address for address in named if is_local(address)]):
        raise UsageError(f"--runner dataflow: its workers cannot reach {local[0]}; copy it to gs:// or s3://")


def _check_catalogue(address: str, echo: Echo) -> None:
    failures = [item for item in catalogue.read(address) if isinstance(item, Failure)]
    if failures:
        first = failures[0]
        echo(f"catalogue: {len(failures)} rows cannot be used, the first is {first.source}: {first.message}")


class Watch:
    """Prints a local run's progress: what is being done, how far, and when it will be done.

    On a terminal one line is rewritten; elsewhere a line is printed when a tenth more is done.
    """

    def __init__(self, progress: Progress, echo: Echo, interval: float = 0.5, what: str = "pairs") -> None:
        self._progress, self._echo, self._interval, self._what = progress, echo, interval, what
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._first: tuple[float, int] | None = None
        self._shown = -1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show(final=True)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _loop(self) -> None:
        while not self._stop.wait(self._interval):
            self._show()

    def _show(self, final: bool = False) -> None:
        line, tenth = self._line()
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif tenth > self._shown or (final and tenth != self._shown):
            self._shown = tenth
            self._echo(line)

    def _line(self) -> tuple[str, int]:
        totals = self._progress.totals()
        done, pairs, embedded = totals["done"], totals["pairs"], totals["images"]
        if not done:
            return f"embedding images: {embedded:,}" if embedded else "reading the manifest", 0
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, before = self._first
        left = f", {_clock((now - since) * (pairs - done) / (done - before))} left" if done > before else ""
        return f"explaining: {done:,} of {pairs:,} {self._what} ({done / pairs:.0%}){left}", 1 + 10 * done // pairs


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def default_threads(workers: int, runner: str = "local") -> int:
    """CPU threads a worker: this machine's cores shared among them; 1 elsewhere, where a core has its own worker."""
    if runner != "local":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
