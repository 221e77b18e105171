"""Plans, runners' arguments and progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import launch
from pipeline.audit.bundle_fit import plan_memory
from pipeline.audit.options import AuditOptions
from pipeline.runs.progress import Watch
from pipeline.runs.runners import profile_of
from pipeline.runs.submit import beam_options
from transforms.beam.progress import Progress
from transforms.core.errors import RunError, UsageError
from transforms.serving import bundle as bundles


def options(**changes: object) -> AuditOptions:
    given: dict[str, object] = {"manifest": ("m.csv",), "bundle": "b", "out": "o", "run_id": "r", **changes}
    return AuditOptions(**given)  # type: ignore[arg-type]


def test_progress_adds_up_over_processes(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")
    first, second = Progress(path), Progress(path)
    first.add("pairs", 7)
    second.add("pairs", 5)
    second.add("done")
    assert Progress(path).totals() == {"pairs": 12, "done": 1}
    assert Progress().totals() == {}
    Progress().add("pairs")


def test_progress_says_how_far_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(str(tmp_path / "progress"))
    watch = Watch(progress, print)
    clock = iter([100.0, 160.0])
    monkeypatch.setattr("pipeline.runs.progress.time.monotonic", lambda: next(clock))
    assert watch._line()[0] == "reading the manifest"
    progress.add("images", 1500)
    assert watch._line()[0] == "embedding images: 1,500"
    progress.add("pairs", 400)
    progress.add("done", 10)
    assert watch._line()[0] == "explaining: 10 of 400 pairs (2%)"
    progress.add("done", 30)
    # 30 pairs in a minute: the 360 that are left take 12 minutes
    assert watch._line() == ("explaining: 40 of 400 pairs (10%), 12:00 left", 2)


def test_runner_arguments() -> None:
    passed = beam_options(options(runner="flink", beam_args=("--flink_master=localhost:8081",)))
    assert passed.get_all_options(drop_default=True)["flink_master"] == "localhost:8081"
    local = beam_options(options(workers=3)).get_all_options(drop_default=True)
    assert local["direct_num_workers"] == 3
    assert profile_of("dataflow").runner(1) == "DataflowRunner"


@pytest.mark.engine
def test_a_broken_pipeline_is_a_run_error_without_secrets(
    bundle: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no room on s3://key:s3cr3t@bucket/a?X-Amz-Signature=s3cr3t")

    monkeypatch.setattr("transforms.beam.write_tables.storage.publish", fail)
    run = options(
        manifest=(str(drawn / "pairs.csv"),), catalogue=str(drawn / "catalogue.csv"), bundle=str(bundle),
        out=str(tmp_path / "out"), masks=5, device="cpu",
    )  # fmt: skip
    with pytest.raises(RunError) as caught:
        launch.run(run, lambda _: None)
    assert "no room" in str(caught.value)
    assert "s3cr3t" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert not (tmp_path / "out" / "runs").exists()


def test_masks_that_do_not_fit_are_drawn_again_and_less_is_refused(bundle: Path) -> None:
    read = bundles.read(str(bundle))
    many: dict[str, Any] = {"masks": 20_000, "max_pixels": 1000, "settings": {"rise.banks": "8"}}
    held, hold = plan_memory(options(**many), read, "cpu")
    assert hold
    assert held.bank == 8 * 20_000 * 12 * 16 * 4
    smaller, hold = plan_memory(options(**many, memory_limit=held.total - 1), read, "cpu")
    assert not hold
    with pytest.raises(UsageError, match="--memory-limit"):
        plan_memory(options(**many, memory_limit=smaller.total - 1), read, "cpu")


def test_the_record_of_the_options_holds_no_credentials() -> None:
    recorded = options(out="s3://key:s3cr3t@bucket/tables", manifest=("gs://b/m.csv?token=s3cr3t",)).recorded()
    assert "s3cr3t" not in repr(recorded)
    assert recorded["methods"] == ["rise"]
