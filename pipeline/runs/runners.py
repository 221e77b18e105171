"""Beam's runners: what each is given, and what their failures become."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, Protocol

from transforms import storage
from transforms.core.errors import RunError, UsageError, WhymatchError
from transforms.storage.addresses import is_local


class Running(Protocol):
    """The options that say where a pipeline runs."""

    @property
    def runner(self) -> str: ...

    @property
    def workers(self) -> int: ...

    @property
    def beam_args(self) -> tuple[str, ...]: ...


def submit(options: Running, build: Callable[[Any], Any]) -> None:
    """Runs the pipeline that ``build`` makes and waits for it; RunError when it breaks."""
    import apache_beam as beam

    pipeline = beam.Pipeline(runner=runner_of(options), options=beam_options(options))
    build(pipeline)
    try:
        state = pipeline.run().wait_until_finish()
    except WhymatchError:
        raise
    except Exception as error:
        # Beam wraps a worker's error in its own text, which may hold addresses
        raise RunError(f"the pipeline broke: {storage.redact(_cause(error))}") from None
    if state != "DONE":
        raise RunError(f"the pipeline ended as {state}")


def runner_of(options: Running) -> Any:
    """The runner, or the name by which Beam finds it."""
    if options.runner == "local":
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.transforms.environments import SubprocessSDKEnvironment

        # FnApiRunner by name: the bare DirectRunner tries to download another engine
        if options.workers == 1:
            return FnApiRunner()
        command = f"{shlex.quote(sys.executable)} -P -m pipeline.runs.local_worker"
        return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command_string=command))
    return {"spark": "SparkRunner", "flink": "FlinkRunner", "dataflow": "DataflowRunner"}[options.runner]


def beam_options(options: Running) -> Any:
    """Beam's own options."""
    from apache_beam.options.pipeline_options import PipelineOptions

    arguments = list(options.beam_args)
    if options.runner == "local":
        arguments.append(f"--direct_num_workers={options.workers}")
    return PipelineOptions(arguments, save_main_session=False)


def default_threads(workers: int, runner: str = "local") -> int:
    """CPU threads a worker: this machine's cores shared among them; 1 elsewhere, where a core has its own worker."""
    if runner != "local":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def check_reach(runner: str, *addresses: str | None) -> None:
    """Workers of Dataflow see no disk of this machine; those of other clusters only what they share."""
    if runner == "dataflow" and (local := [address for address in addresses if address and is_local(address)]):
        raise UsageError(f"--runner dataflow: its workers cannot reach {local[0]}; copy it to gs:// or s3://")


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
