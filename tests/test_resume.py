"""A training that was killed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import json
import os
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
from torch import Tensor, nn

from export import training
from export.fitting import Recipe
from export.losses import attribute_bce
from export.small import SmallNetwork
from export.training import SaliencySupervision, train_attributes, train_similarity
from tests.photographs import SIZE, Photographs, take
from tests.test_supervision import row, write
from transforms.core.errors import UsageError
from transforms.core.images import Resize, frame_of

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RESIZE = Resize(SIZE, "squash")
RECIPE = Recipe(epochs=4, batch=8, threads=1, seed=3)
STEPS = 4 * 5  # epochs, batches of 40 images


def with_dropout() -> nn.Module:
    """A backbone that draws from torch's own generator in training."""
    small = SmallNetwork()
    small.layers.append(nn.Dropout2d(0.3))
    return small


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
    rows = [row(one, "r", value=0) | size | box | {"map": rng.random(6, np.float32)} for one in ids]
    return write(tmp_path_factory.mktemp("tables"), rows)


def attributes(photographs: Photographs, audit: str, out: Path, **changed: Any) -> dict[str, Tensor]:
    options: dict[str, Any] = {"columns": ["colour"], "min_count": 5, "recipe": RECIPE, "echo": lambda _: None}
    options |= {"catalogue": photographs.catalogue, "backbone": "tests.test_resume:with_dropout", "resize": RESIZE}
    options |= {"saliency": SaliencySupervision((audit,), 0.1), "checkpoint_seconds": 0.0}
    return state(train_attributes(out=out, **{**options, **changed}).checkpoint)


def similarity(photographs: Photographs, audit: str, out: Path, **changed: Any) -> dict[str, Tensor]:
    options: dict[str, Any] = {"similar_by": ["colour"], "embedding": 8, "recipe": RECIPE, "echo": lambda _: None}
    options |= {"catalogue": photographs.catalogue, "backbone": "tests.test_resume:with_dropout", "resize": RESIZE}
    return state(train_similarity(out=out, checkpoint_seconds=0.0, **{**options, **changed}).checkpoint)


def state(checkpoint: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state"]
    return content


def dies_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [step]

    def wrapped(*arguments: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return function(*arguments)

    return wrapped


@pytest.mark.parametrize(("train", "loss"), [(attributes, "attribute_bce"), (similarity, "cosine_distances")])
def test_killed_after_five_random_steps_it_ends_with_the_same_weights(
    train: Callable[..., dict[str, Tensor]],
    loss: str,
    photographs: Photographs,
    audit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train(photographs, audit, tmp_path / "whole")
    original = getattr(training, loss)
    # steps from one kill to the next; the last kill leaves something to do
    stops = np.random.default_rng(11).integers(0, STEPS // 5, 5).tolist()
    said: list[str] = []
    for stop in stops:
        monkeypatch.setattr(training, loss, dies_at(stop, original))
        with pytest.raises(Killed):
            train(photographs, audit, tmp_path / "killed", resume=True, echo=said.append)
    monkeypatch.setattr(training, loss, original)
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
        photographs, audit, tmp_path / "plain", recipe=replace(RECIPE, epochs=1), backbone="export.small:network"
    )
    assert not torch.equal(once["evidence.weight"], plain["evidence.weight"])


def test_a_state_of_other_settings_is_refused(
    photographs: Photographs, audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "attribute_bce", dies_at(3, attribute_bce))
        with pytest.raises(Killed):
            attributes(photographs, audit, tmp_path)
    for changed in (
        {"recipe": replace(RECIPE, learning_rate=1e-4)},
        {"saliency": None},
        {"saliency": SaliencySupervision((audit,), 0.2)},
        {"min_count": 4, "columns": ["colour", "maker"]},
    ):
        with pytest.raises(UsageError, match="a training with other settings or another catalogue"):
            attributes(photographs, audit, tmp_path, resume=True, **changed)
    begun_anew = attributes(photographs, audit, tmp_path)
    assert all(torch.equal(x, begun_anew[name]) for name, x in attributes(photographs, audit, tmp_path).items())


def test_what_is_no_state_is_refused(photographs: Photographs, audit: str, tmp_path: Path) -> None:
    torch.save({"format": 0}, tmp_path / "attributes.state.pt")
    with pytest.raises(UsageError, match="no state of a training of this version"):
        attributes(photographs, audit, tmp_path, resume=True)


def test_a_killed_process_goes_on(photographs: Photographs, tmp_path: Path) -> None:
    """SIGKILL from outside, at whatever instruction it hits."""
    size = f"{SIZE[0]}x{SIZE[1]}"
    command = [sys.executable, "-m", "pipeline.cli", "train", "similarity", "--catalogue", photographs.catalogue]
    command += ["--out", str(tmp_path / "killed"), "--similar-by", "colour", "--backbone", "export.small:network"]
    command += ["--size", size, "--embedding", "8", "--epochs", "40", "--batch", "8", "--threads", "1"]
    command += ["--checkpoint-seconds", "0", "--patience", "40", "--resume"]
    where = tmp_path / "killed" / "similarity.state.pt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not where.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert where.exists()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "going on at epoch" in finished.stdout
    train_similarity(
        catalogue=photographs.catalogue,
        out=tmp_path / "whole",
        backbone="export.small:network",
        similar_by=["colour"],
        resize=RESIZE,
        embedding=8,
        recipe=Recipe(epochs=40, batch=8, threads=1, patience=40),
        echo=lambda _: None,
    )
    whole, resumed = (state(tmp_path / name / "similarity.pt") for name in ("whole", "killed"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
