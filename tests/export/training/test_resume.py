"""A training that was killed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export.training.data.dataset import load_dataset
from export.training.fitting.loop import fit
from export.training.fitting.state_file import StateFile
from export.training.losses import attribute_bce, cosine_distances
from export.training.settings import AttributeTraining, Recipe, SaliencySupervision, SimilarityTraining
from export.training.train_attributes import train_attributes
from export.training.train_similarity import train_similarity
from pipeline import cli
from tests.support.photographs import SIZE, Photographs, take
from tests.support.tables.saliency import row, write
from transforms.core.errors import RunError, UsageError
from transforms.core.imaging.images import Resize, frame_of
from transforms.core.messages import Echo
from transforms.core.metrics.retrieval import retrieval

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RESIZE = Resize(SIZE, "squash")
RECIPE = Recipe(epochs=4, batch=8, threads=1, seed=3)
STEPS = 4 * 5  # epochs, batches of 40 images
# what a step calls once
ATTRIBUTE_LOSS = "export.training.attribute_objective.attribute_bce"
DISTANCES = "export.training.similarity_objectives.cosine_distances"
MASK_PENALTY = "export.training.conditions.mask_penalty"


def silent(_: str) -> None:
    """An echo that says nothing."""


class Killed(BaseException):
    """What a step raises in place of a SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return take(tmp_path_factory.mktemp("photographs") / "catalogue")


@pytest.fixture(scope="module")
def audit(photographs: Photographs, tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    ids = [line.split(",")[0] for line in Path(photographs.catalogue).read_text(encoding="utf-8").splitlines()[1:]]
    frame = frame_of((30, 20), RESIZE)
    size = {"input_height": SIZE[0], "input_width": SIZE[1]}
    box = dict(zip(("crop_top", "crop_left", "crop_height", "crop_width"), frame.box, strict=True))
    train = ids[:40]
    rows = [
        row(one, other, value=0) | size | box | {"map": rng.random(6, np.float32)}
        for one, other in zip(train, [*train[1:], train[0]], strict=True)
    ]
    return write(tmp_path_factory.mktemp("tables"), rows)


def attributes(
    photographs: Photographs, audit: str, out: Path, echo: Echo = silent, **changed: Any
) -> dict[str, Tensor]:
    options: dict[str, Any] = {"columns": ("colour",), "min_count": 5, "recipe": RECIPE}
    options |= {
        "catalogue": photographs.catalogue,
        "backbone": "tests.support.models.dropout_network:with_dropout",
        "resize": RESIZE,
    }
    options |= {"saliency": SaliencySupervision((audit,), 0.1), "checkpoint_seconds": 0.0}
    return state(train_attributes(AttributeTraining(out=out, **{**options, **changed}), echo).checkpoint)


def similarity(
    photographs: Photographs, audit: str, out: Path, echo: Echo = silent, **changed: Any
) -> dict[str, Tensor]:
    options: dict[str, Any] = {"similar_by": ("colour",), "embedding": 8, "recipe": RECIPE}
    options |= {
        "catalogue": photographs.catalogue,
        "backbone": "tests.support.models.dropout_network:with_dropout",
        "resize": RESIZE,
    }
    told = SimilarityTraining(out=out, checkpoint_seconds=0.0, **{**options, **changed})
    return state(train_similarity(told, echo).checkpoint)


def conditional(photographs: Photographs, audit: str, out: Path, **changed: Any) -> dict[str, Tensor]:
    """Makers are the types: products of any two of them are compared under a condition of their own."""
    return similarity(photographs, audit, out, **{"conditions": "maker", **changed})


def state(checkpoint: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state"]
    return content


def dies_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [step]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return function(*arguments, **named)

    return wrapped


@pytest.mark.parametrize(
    ("train", "loss"),
    [(attributes, ATTRIBUTE_LOSS), (similarity, DISTANCES), (conditional, MASK_PENALTY)],
)
def test_killed_after_five_random_steps_it_ends_with_the_same_weights(
    train: Callable[..., dict[str, Tensor]],
    loss: str,
    photographs: Photographs,
    audit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train(photographs, audit, tmp_path / "whole")
    original = pkgutil.resolve_name(loss)
    # steps from one kill to the next; the last kill leaves something to do
    stops = np.random.default_rng(11).integers(0, STEPS // 5, 5).tolist()
    said: list[str] = []
    for stop in stops:
        monkeypatch.setattr(loss, dies_at(stop, original))
        with pytest.raises(Killed):
            train(photographs, audit, tmp_path / "killed", resume=True, echo=said.append)
    monkeypatch.setattr(loss, original)
    resumed = train(photographs, audit, tmp_path / "killed", resume=True, echo=said.append)
    done = sum(stops)
    assert f"going on at epoch {1 + done // 5}, batch {1 + done % 5}" in said
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert not list((tmp_path / "killed").glob("*state*"))  # what is done leaves no state behind
    records = [json.loads(next((tmp_path / name).glob("*.json")).read_text()) for name in ("whole", "killed")]
    curves = [[{**row, "seconds": 0} for row in record["curve"]] for record in records]
    assert curves[0] == curves[1]


def test_dropout_draws_matter_for_the_weights(photographs: Photographs, audit: str, tmp_path: Path) -> None:
    """Without it, the state of torch's generator would not be tested."""
    once = attributes(photographs, audit, tmp_path / "once", recipe=replace(RECIPE, epochs=1))
    plain = attributes(
        photographs,
        audit,
        tmp_path / "plain",
        recipe=replace(RECIPE, epochs=1),
        backbone="export.training.networks.small_network:network",
    )
    assert not torch.equal(once["evidence.weight"], plain["evidence.weight"])


def test_a_state_of_other_settings_is_refused(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ATTRIBUTE_LOSS, dies_at(3, attribute_bce))
        with pytest.raises(Killed):
            attributes(photographs, audit, tmp_path)
    for changed in (
        {"recipe": replace(RECIPE, learning_rate=1e-4)},
        {"saliency": None},
        {"saliency": SaliencySupervision((audit,), 0.2)},
        {"min_count": 4, "columns": ("colour", "maker")},
    ):
        with pytest.raises(UsageError, match="a training with other settings or another catalogue"):
            attributes(photographs, audit, tmp_path, resume=True, **changed)
    begun_anew = attributes(photographs, audit, tmp_path)
    assert all(torch.equal(x, begun_anew[name]) for name, x in attributes(photographs, audit, tmp_path).items())


def test_what_is_no_state_is_refused(photographs: Photographs, audit: str, tmp_path: Path) -> None:
    torch.save({"format": 0}, tmp_path / "attributes.state.pt")
    with pytest.raises(UsageError, match="no state of a training of this version"):
        attributes(photographs, audit, tmp_path, resume=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_goes_on(photographs: Photographs, tmp_path: Path) -> None:
    """SIGKILL from outside, at whatever instruction it hits."""
    size = f"{SIZE[0]}x{SIZE[1]}"
    command = [sys.executable, "-m", "pipeline.cli", "train", "similarity", "--catalogue", photographs.catalogue]
    command += [
        "--out",
        str(tmp_path / "killed"),
        "--similar-by",
        "colour",
        "--backbone",
        "export.training.networks.small_network:network",
    ]
    command += ["--size", size, "--embedding", "8", "--epochs", "40", "--batch", "8", "--threads", "1"]
    command += ["--checkpoint-seconds", "0", "--patience", "40", "--resume"]
    where = tmp_path / "killed" / "similarity.state.pt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240  # the first import of torch can take a minute
    while not where.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert where.exists()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "going on at epoch" in finished.stdout
    told = SimilarityTraining(
        catalogue=photographs.catalogue,
        out=tmp_path / "whole",
        backbone="export.training.networks.small_network:network",
        similar_by=("colour",),
        resize=RESIZE,
        embedding=8,
        recipe=Recipe(epochs=40, batch=8, threads=1, patience=40),
    )
    train_similarity(told, silent)
    whole, resumed = (state(tmp_path / name / "similarity.pt") for name in ("whole", "killed"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_killed_during_validation_it_ends_with_the_same_weights(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = similarity(photographs, audit, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            "export.training.similarity_objectives.retrieval", dies_at(2, retrieval)
        )  # once before the first epoch
        with pytest.raises(Killed):
            similarity(photographs, audit, tmp_path / "killed", resume=True)
    said: list[str] = []
    resumed = similarity(photographs, audit, tmp_path / "killed", resume=True, echo=said.append)
    assert "going on at epoch 2, batch 6" in said  # of 5: only the validation is left of it
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(("train", "kind"), [(attributes, "attributes"), (similarity, "similarity")])
def test_a_finished_training_is_not_trained_again(
    train: Callable[..., dict[str, Tensor]],
    kind: str,
    photographs: Photographs,
    audit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = replace(RECIPE, epochs=1)
    train(photographs, audit, tmp_path, recipe=short)
    left = [tmp_path / f"{kind}.pt", tmp_path / f"{kind}.json"]
    before = [path.read_bytes() for path in left]
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("export.training.session.fit", dies_at(0, fit))
        train(photographs, audit, tmp_path, recipe=short, resume=True, echo=said.append)
        assert [path.read_bytes() for path in left] == before
        assert any("is there already, trained with the same settings on the same data" in line for line in said)
        with pytest.raises(Killed):  # without --resume it is begun anew
            train(photographs, audit, tmp_path, recipe=short)
        with pytest.raises(Killed):
            train(photographs, audit, tmp_path, recipe=replace(short, seed=4), resume=True)
        record = json.loads(before[1])
        del record["settings"]
        for text in (json.dumps(record), "{", "[]"):
            left[1].write_text(text)
            with pytest.raises(Killed):
                train(photographs, audit, tmp_path, recipe=short, resume=True)
        left[1].write_bytes(before[1])
        left[0].unlink()
        with pytest.raises(Killed):
            train(photographs, audit, tmp_path, recipe=short, resume=True)


def test_a_finished_training_says_its_figures(photographs: Photographs, tmp_path: Path) -> None:
    options: dict[str, Any] = {"catalogue": photographs.catalogue, "out": tmp_path, "resize": RESIZE}
    options |= {
        "backbone": "export.training.networks.small_network:network",
        "similar_by": ("colour",),
        "embedding": 8,
    }
    options |= {"recipe": replace(RECIPE, epochs=1)}
    first = train_similarity(SimilarityTraining(**options), silent)
    again = train_similarity(SimilarityTraining(**options, resume=True), silent)
    assert (again.checkpoint, again.record) == (first.checkpoint, first.record)
    assert again.figures.keys() == first.figures.keys()
    for split, figures in first.figures.items():
        assert again.figures[split] == pytest.approx(figures, abs=1e-5, nan_ok=True)


def test_a_killed_end_leaves_no_record_of_an_earlier_training(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old record would vouch for the new checkpoint."""
    short = replace(RECIPE, epochs=1)
    similarity(photographs, audit, tmp_path, recipe=short)
    with monkeypatch.context() as patch:
        patch.setattr("export.training.record.json.dumps", dies_at(0, json.dumps))
        with pytest.raises(Killed):
            similarity(photographs, audit, tmp_path, recipe=replace(short, seed=5))
    assert (tmp_path / "similarity.pt").exists()
    assert not (tmp_path / "similarity.json").exists()


@pytest.mark.parametrize("changed", ["threads", "torch", "cpu"])
def test_a_state_of_another_machine_is_refused(
    changed: str, photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 threads are all that there are: on eight cores other weights than on two."""
    recipe = replace(RECIPE, threads=0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(ATTRIBUTE_LOSS, dies_at(3, attribute_bce))
        with pytest.raises(Killed):
            attributes(photographs, audit, tmp_path, recipe=recipe)
    with monkeypatch.context() as patch:
        if changed == "threads":
            patch.setattr("os.cpu_count", lambda: 2)
        elif changed == "torch":
            patch.setattr(torch, "__version__", "9.9")
        else:
            patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "VSX")
        with pytest.raises(UsageError, match="on another machine"):
            attributes(photographs, audit, tmp_path, recipe=recipe, resume=True)
    said: list[str] = []
    attributes(photographs, audit, tmp_path, recipe=replace(RECIPE, threads=1), resume=True, echo=said.append)
    assert "going on at epoch 1, batch 4" in said


def test_what_a_kill_leaves_of_a_write_does_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a SIGKILL, when nothing is tidied up."""
    kept = StateFile(tmp_path / "similarity.state.pt", resume=True, settings="s")
    kept.write({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dies_at(0, os.replace))
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for _ in range(3):
            with pytest.raises(Killed):
                kept.write({"step": 2})
    assert len(list(tmp_path.iterdir())) == 2
    assert (kept.read() or {})["step"] == 1
    kept.write({"step": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["similarity.state.pt"]
    (tmp_path / ".similarity.state.pt.next").write_bytes(b"torn")
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_the_old_state_stays(tmp_path: Path) -> None:
    kept = StateFile(tmp_path / "similarity.state.pt", resume=True, settings="s")
    kept.write({"step": 1})
    (tmp_path / ".similarity.state.pt.next").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"cannot be written to .*state\.pt: No space left on device\. Make room"):
        kept.write({"tensor": torch.zeros(100_000)})
    assert (kept.read() or {})["step"] == 1
    with pytest.raises(RunError, match="cannot be written"):
        StateFile(tmp_path / "similarity.state.pt" / "x.pt").write({})


def test_a_state_without_its_fields_is_refused(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DISTANCES, dies_at(2, cosine_distances))
        with pytest.raises(Killed):
            similarity(photographs, audit, tmp_path)
    where = tmp_path / "similarity.state.pt"
    content = torch.load(where, weights_only=True)
    for missing in ("settings", "network", "generators", "best_state", "epoch"):
        torch.save({name: value for name, value in content.items() if name != missing}, where)
        with pytest.raises(UsageError, match=r"similarity\.state\.pt is .*leave --resume out"):
            similarity(photographs, audit, tmp_path, resume=True)


def test_the_seconds_are_those_of_all_processes(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DISTANCES, dies_at(7, cosine_distances))
        with pytest.raises(Killed):
            similarity(photographs, audit, tmp_path)
    where = tmp_path / "similarity.state.pt"
    content = torch.load(where, weights_only=True)
    torch.save({**content, "seconds": 1000.0}, where)
    similarity(photographs, audit, tmp_path, resume=True)
    record = json.loads((tmp_path / "similarity.json").read_text())
    assert 1000 <= record["curve"][-1]["seconds"] < 1100
    assert record["seconds"] == pytest.approx(record["curve"][-1]["seconds"], abs=0.2)


# The command line


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("attributes", ["--saliency-weight", "0.1"], "--saliency-weight belongs to --saliency, which is not given"),
        ("attributes", ["--saliency-weight", "0"], "--saliency-weight belongs to --saliency, which is not given"),
        ("attributes", ["--saliency-temperature", "1"], "--saliency-temperature belongs to --saliency"),
        ("attributes", ["--saliency-limit", "3"], "--saliency-limit belongs to --saliency"),
        ("attributes", ["--saliency", "{tmp}"], "holds no finished audit: name the folder that was --out of one"),
        (
            "attributes",
            ["--checkpoint-seconds", "nan"],
            "--checkpoint-seconds is a finite number of at least 0, not nan",
        ),
        ("similarity", ["--min-pairs", "3"], "--min-pairs belongs to --conditions, which is not given"),
        ("similarity", ["--min-pairs", "0", "--conditions", "maker"], "--min-pairs must be at least 1, not 0"),
        ("similarity", ["--checkpoint-seconds", "-1"], "--checkpoint-seconds is a finite number of at least 0, not -1"),
        (
            "similarity",
            ["--checkpoint-seconds", "inf"],
            "--checkpoint-seconds is a finite number of at least 0, not inf",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused_before_images_are_decoded(
    kind: str,
    more: list[str],
    told: str,
    photographs: Photographs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("train_similarity", "train_attributes"):
        monkeypatch.setattr(f"export.training.{module}.load_dataset", dies_at(0, load_dataset))
    own = ["--similar-by", "colour"] if kind == "similarity" else []
    command = ["train", kind, "--catalogue", photographs.catalogue, "--out", str(tmp_path / "out"), *own]
    command += ["--backbone", "export.training.networks.small_network:network", "--threads", "1"]
    assert cli.main([*command, *(text.format(tmp=tmp_path) for text in more)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_s_defaults_are_those_of_the_supervision(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("export.training.train_attributes.train_attributes", given.append)
    monkeypatch.setattr("export.training.train_similarity.train_similarity", given.append)
    command = ["--catalogue", photographs.catalogue, "--out", str(tmp_path / "out")]
    supervised = ["train", "attributes", *command, "--saliency", audit]
    for more in ([], ["--saliency-weight", "0.25", "--saliency-temperature", "2", "--saliency-limit", "7"]):
        assert cli.main([*supervised, *more]) == 0
    assert [one.saliency for one in given] == [
        SaliencySupervision((audit,)),
        SaliencySupervision((audit,), 0.25, 2.0, 7),
    ]
    conditional = ["train", "similarity", *command, "--similar-by", "colour", "--conditions", "maker"]
    for more in ([], ["--min-pairs", "4"]):
        assert cli.main([*conditional, *more]) == 0
    assert [one.min_pairs for one in given[2:]] == [20, 4]
