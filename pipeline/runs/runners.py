"""Beam's runners, each an entry of ``RUNNERS``: all in which they differ is asked of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transforms.core.errors import UsageError
from transforms.core.messages import listed


def default_threads(workers: int) -> int:
    """CPU threads of each of ``workers`` processes of this machine: its cores, shared among them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def last_line(error: BaseException) -> str:
    """What a runner's error says: the last line of its text, where the local one quotes the worker's own error."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@dataclass(frozen=True)
class RunnerProfile:
    """One of Beam's runners.

    Attributes:
      name: as ``--runner`` calls it.
      runner: Beam's runner for so many workers, or the name by which Beam finds it.
      here: its workers are processes of this machine. They share the launcher's devices, files and memory, where all
        rows are held; they can report progress to it; and Beam's log, whose errors are raised as well, is kept quiet.
      reads_local_files: whether workers may find a local address at all; those of clusters see what they share.
      arguments: of Beam's, for so many workers, beside those that the user gives.
      threads: CPU threads of each of so many workers, where the user does not say.
      cause: the one line that an error of this runner's becomes, which may still hold addresses.
    """

    name: str
    runner: Callable[[int], Any]
    here: bool = False
    reads_local_files: bool = True
    arguments: Callable[[int], tuple[str, ...]] = lambda _: ()
    threads: Callable[[int], int] = lambda _: 1  # elsewhere a core has its own worker
    cause: Callable[[BaseException], str] = last_line

    def check_reach(self, *addresses: str | None) -> None:
        """UsageError where one of ``addresses`` is nothing that workers can reach."""
        from transforms.storage.addresses import is_local

        if not self.reads_local_files and (local := [one for one in addresses if one and is_local(one)]):
            raise UsageError(f"--runner {self.name}: its workers cannot reach {local[0]}; copy it to gs:// or s3://")

    def described(self, provider: str, device: str) -> str:
        """Where the networks run, in words: by ``provider``, as on this machine, or on the workers' own ``device``."""
        return provider if self.here else f"{self.name}, device {device}"


def _local(workers: int) -> Any:
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    # FnApiRunner by name: the bare DirectRunner tries to download another engine
    if workers == 1:
        return FnApiRunner()
    command = f"{shlex.quote(sys.executable)} -P -m pipeline.runs.local_worker"
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command_string=command))


LOCAL = RunnerProfile(
    "local",
    _local,
    here=True,
    arguments=lambda workers: (f"--direct_num_workers={workers}",),
    threads=default_threads,
)

RUNNERS = {
    profile.name: profile
    for profile in (
        LOCAL,
        RunnerProfile("spark", lambda _: "SparkRunner"),
        RunnerProfile("flink", lambda _: "FlinkRunner"),
        RunnerProfile("dataflow", lambda _: "DataflowRunner", reads_local_files=False),
    )
}
"""By the name of ``--runner``, the local one first."""


def profile_of(name: str) -> RunnerProfile:
    """The profile of that name; UsageError where there is none."""
    if name not in RUNNERS:
        raise UsageError(f"--runner {name}: there is {listed(tuple(RUNNERS))}")
    return RUNNERS[name]
