"""What is asked of a runner's profile."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.runs.progress import watched
from pipeline.runs.runners import LOCAL, RUNNERS, RunnerProfile, default_threads, last_line, profile_of
from pipeline.runs.submit import beam_options, quiet_beam, submit
from transforms.core.errors import RunError, UsageError


def test_the_local_runner_alone_is_here() -> None:
    assert [profile.name for profile in RUNNERS.values() if profile.here] == ["local"]
    assert list(RUNNERS) == [profile.name for profile in RUNNERS.values()]
    assert [profile.runner(1) for profile in RUNNERS.values() if not profile.here] == [
        "SparkRunner",
        "FlinkRunner",
        "DataflowRunner",
    ]
    assert type(LOCAL.runner(1)).__name__ == type(LOCAL.runner(2)).__name__ == "FnApiRunner"


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(UsageError, match="--runner dask: there is 'local', 'spark', 'flink', 'dataflow'"):
        profile_of("dask")


def test_threads_are_this_machine_s_shared_or_one() -> None:
    assert LOCAL.threads(1) == default_threads(1) >= LOCAL.threads(2) >= 1
    assert [profile_of(name).threads(1) for name in ("spark", "flink", "dataflow")] == [1, 1, 1]


def test_what_workers_cannot_reach() -> None:
    for name in ("local", "spark", "flink"):
        profile_of(name).check_reach("/data/pairs.csv", None)
    profile_of("dataflow").check_reach("gs://bucket/pairs.csv", None)
    with pytest.raises(UsageError, match=r"--runner dataflow: its workers cannot reach /data/pairs.csv; copy it"):
        profile_of("dataflow").check_reach("gs://bucket/b", None, "/data/pairs.csv")


def test_where_networks_run_in_words() -> None:
    assert LOCAL.described("CPUExecutionProvider", "auto") == "CPUExecutionProvider"
    assert profile_of("spark").described("CPUExecutionProvider", "auto") == "spark, device auto"


def test_an_error_s_last_line() -> None:
    assert last_line(RuntimeError("first\n  second \n\n")) == "second"
    assert last_line(RuntimeError()) == "RuntimeError"


def running(profile: RunnerProfile, *beam_args: str, workers: int = 1) -> SimpleNamespace:
    return SimpleNamespace(profile=profile, workers=workers, beam_args=beam_args)


def test_a_failure_is_told_as_the_profile_tells_it() -> None:
    profile = replace(LOCAL, cause=lambda error: f"told of {type(error).__name__} s3://key:s3cr3t@bucket/a")

    def build(pipeline: object) -> None:
        def run() -> None:
            raise OSError("no room")

        pipeline.run = run  # type: ignore[attr-defined]

    with pytest.raises(RunError, match="the pipeline broke: told of OSError") as caught:
        submit(running(profile), build)  # type: ignore[arg-type]
    assert "s3cr3t" not in str(caught.value)


def test_arguments_of_the_profile_come_beside_the_user_s() -> None:
    found = beam_options(running(LOCAL, "--flink_master=a:1", workers=2)).get_all_options(drop_default=True)
    assert (found["direct_num_workers"], found["flink_master"]) == (2, "a:1")
    elsewhere = beam_options(running(profile_of("spark"), workers=2)).get_all_options(drop_default=True)
    assert "direct_num_workers" not in elsewhere


def test_only_workers_of_this_machine_report_here() -> None:
    said: list[str] = []
    with watched(LOCAL, said.append, what="pairs") as progress:
        progress.add("pairs", 2)
        progress.add("done", 2)
    assert said[-1] == "explaining: 2 of 2 pairs (100%)"
    with watched(profile_of("spark"), said.append, what="pairs") as progress:
        assert progress.path is None


def test_beam_s_log_is_quiet_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(logging, "disable", levels.append)
    quiet_beam(profile_of("spark"))
    assert levels == []
    quiet_beam(LOCAL)
    assert levels == [logging.ERROR]
