"""Pipelines that break, end otherwise or end well, and what Beam is told of where they run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment, SubprocessSDKEnvironment

from pipeline.runs.runners import LOCAL, RunnerProfile, profile_of
from pipeline.runs.submit import beam_options, submit
from transforms.core.errors import BundleError, RunError


@dataclass(frozen=True)
class Options:
    profile: RunnerProfile = LOCAL
    workers: int = 1
    beam_args: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("name", "runner"), [("spark", "SparkRunner"), ("flink", "FlinkRunner"), ("dataflow", "DataflowRunner")]
)
def test_runners_elsewhere_are_named_to_beam(name: str, runner: str) -> None:
    profile = profile_of(name)
    assert profile.runner(3) == runner
    given = beam_options(Options(profile, workers=3, beam_args=("--flink_master=localhost:8081",)))
    assert given.get_all_options(drop_default=True).get("flink_master") == "localhost:8081"
    assert given.get_all_options()["direct_num_workers"] == 1, "the workers of --workers are this machine's"
    assert given.get_all_options()["save_main_session"] is False


def test_one_worker_runs_in_this_process_and_several_in_their_own() -> None:
    alone, several = LOCAL.runner(1), LOCAL.runner(3)
    assert type(alone) is type(several) is FnApiRunner
    assert isinstance(alone._default_environment, EmbeddedPythonEnvironment)
    assert isinstance(several._default_environment, SubprocessSDKEnvironment)
    command = several._default_environment.command_string
    assert command == f"{sys.executable} -P -m pipeline.runs.local_worker"
    given = beam_options(Options(workers=3, beam_args=("--job_name=x",))).get_all_options()
    assert (given["direct_num_workers"], given["job_name"], given["save_main_session"]) == (3, "x", False)


def broken(error: Exception) -> Any:
    """Makes a pipeline whose only step raises ``error``."""

    def fail(_: int) -> int:
        raise error

    return lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail)


@pytest.mark.engine
def test_a_broken_pipeline_is_a_run_error_without_secrets() -> None:
    with pytest.raises(RunError, match=r"the pipeline broke: .*no room on s3://") as caught:
        submit(Options(), broken(OSError("no room on s3://key:s3cr3t@bucket/a?X-Amz-Signature=s3cr3t")))
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


def by(runner: PipelineRunner) -> Options:
    return Options(replace(LOCAL, runner=lambda _: runner))


def one(pipeline: Any) -> Any:
    return pipeline | beam.Create([1])


@pytest.mark.engine
@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "UNKNOWN"])
def test_a_pipeline_that_is_not_done_is_a_run_error(state: str) -> None:
    with pytest.raises(RunError, match=f"the pipeline ended as {state}"):
        submit(by(Ends(state)), one)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("Traceback\n  File x, line 1\nOSError: no room \n\n"), "OSError: no room"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_of_a_workers_traceback_the_last_line_is_said(error: Exception, cause: str) -> None:
    with pytest.raises(RunError) as caught:
        submit(by(Ends(error=error)), one)
    assert str(caught.value) == f"the pipeline broke: {cause}"


@pytest.mark.engine
def test_a_pipeline_that_is_done_and_an_error_of_whymatchs_own_pass() -> None:
    submit(by(Ends()), one)
    with pytest.raises(BundleError, match=r"^sha256 differs$"):
        submit(by(Ends(error=BundleError("sha256 differs"))), one)
