"""What each of Beam's runners is given, and what becomes of a pipeline that does not end well."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment, SubprocessSDKEnvironment

from pipeline.runs import runners
from transforms.core.errors import BundleError, RunError, UsageError


@dataclass(frozen=True)
class Options:
    runner: str = "local"
    workers: int = 1
    beam_args: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("name", "runner"), [("spark", "SparkRunner"), ("flink", "FlinkRunner"), ("dataflow", "DataflowRunner")]
)
def test_runners_elsewhere_are_named_to_beam(name: str, runner: str) -> None:
    assert runners.runner_of(Options(name)) == runner
    given = runners.beam_options(Options(name, workers=3, beam_args=("--flink_master=localhost:8081",)))
    assert given.get_all_options(drop_default=True).get("flink_master") == "localhost:8081"
    assert given.get_all_options()["direct_num_workers"] == 1, "the workers of --workers are this machine's"
    assert given.get_all_options()["save_main_session"] is False


def test_one_worker_runs_in_this_process_and_several_in_their_own() -> None:
    alone, several = (runners.runner_of(Options(workers=workers)) for workers in (1, 3))
    assert type(alone) is type(several) is FnApiRunner
    assert isinstance(alone._default_environment, EmbeddedPythonEnvironment)
    assert isinstance(several._default_environment, SubprocessSDKEnvironment)
    command = several._default_environment.command_string
    assert command == f"{sys.executable} -P -m pipeline.runs.local_worker"
    given = runners.beam_options(Options(workers=3, beam_args=("--job_name=x",))).get_all_options()
    assert (given["direct_num_workers"], given["job_name"], given["save_main_session"]) == (3, "x", False)


def broken(error: Exception) -> Any:
    """Makes a pipeline whose only step raises ``error``."""

    def fail(_: int) -> int:
        raise error

    return lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail)


@pytest.mark.engine
def test_a_broken_pipeline_is_a_run_error_without_secrets() -> None:
    with pytest.raises(RunError, match=r"the pipeline broke: .*no room on s3://") as caught:
        runners.submit(Options(), broken(OSError("no room on s3://key:s3cr3t@bucket/a?X-Amz-Signature=s3cr3t")))
    assert "s3cr3t" not in repr(caught.value)
    assert "\n" not in str(caught.value), "of Beam's text the cause alone"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "Beam's error, with the address in its text, is not printed"


class Ends(PipelineRunner):  # type: ignore[misc]
    """A runner whose pipelines end in ``state``, or as they are built with ``error``."""

    def __init__(self, state: str = "DONE", error: Exception | None = None) -> None:
        self.state, self.error = state, error

    def run_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        if self.error:
            raise self.error
        result = PipelineResult(self.state)
        result.wait_until_finish = lambda: self.state
        return result


@pytest.mark.engine
@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "UNKNOWN"])
def test_a_pipeline_that_is_not_done_is_a_run_error(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(runners, "runner_of", lambda _: Ends(state))
    with pytest.raises(RunError, match=f"the pipeline ended as {state}"):
        runners.submit(Options(), lambda pipeline: pipeline | beam.Create([1]))


@pytest.mark.engine
def test_a_pipeline_that_is_done_and_an_error_of_whymatchs_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "runner_of", lambda _: Ends())
    runners.submit(Options(), lambda pipeline: pipeline | beam.Create([1]))
    monkeypatch.setattr(runners, "runner_of", lambda _: Ends(error=BundleError("sha256 differs")))
    with pytest.raises(BundleError, match=r"^sha256 differs$"):
        runners.submit(Options(), lambda pipeline: pipeline | beam.Create([1]))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("Traceback\n  File x, line 1\nOSError: no room \n\n"), "OSError: no room"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_of_a_workers_traceback_the_last_line_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    monkeypatch.setattr(runners, "runner_of", lambda _: Ends(error=error))
    with pytest.raises(RunError) as caught:
        runners.submit(Options(), lambda pipeline: pipeline | beam.Create([1]))
    assert str(caught.value) == f"the pipeline broke: {cause}"


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_workers_of_this_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert runners.default_threads(workers) == threads
    assert runners.default_threads(workers, "spark") == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runners.default_threads(workers) == 1


def test_dataflow_reaches_no_disk_of_this_machine() -> None:
    runners.check_reach("dataflow", "gs://b/m.csv", None, "s3://b/t")
    runners.check_reach("spark", "/mnt/m.csv")
    with pytest.raises(UsageError, match=r"dataflow.*cannot reach /mnt/m.csv; copy it to gs:// or s3://"):
        runners.check_reach("dataflow", "gs://b/m.csv", None, "/mnt/m.csv")
