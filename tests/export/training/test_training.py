"""Training on tiny photographs: it learns, it repeats itself, and it says what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.training.data.augmentation import Augmentation
from export.training.data.dataset import load_dataset, to_pixels
from export.training.networks.checkpoint import load as load_checkpoint
from export.training.networks.small_network import network as small_network
from export.training.settings import AttributeTraining, Recipe, SimilarityTraining
from export.training.train_attributes import train_attributes
from export.training.train_similarity import train_similarity
from tests.support.photographs import PATCH, SIZE, Photographs, take
from transforms.core.errors import DeviceError, UsageError
from transforms.core.imaging.images import Resize

RESIZE = Resize(SIZE, "squash")
SHORT = Recipe(epochs=6, batch=16, learning_rate=3e-3, threads=1, augmentation=Augmentation(shift=0.0, zoom=0.0))
BACKBONE = "export.training.networks.small_network:network"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return take(tmp_path_factory.mktemp("photographs") / "catalogue")


def similarity(photographs: Photographs, out: Path, **changed: Any) -> Any:
    said: list[str] = []
    options: dict[str, Any] = {
        "catalogue": photographs.catalogue,
        "backbone": BACKBONE,
        "similar_by": ("colour",),
        "resize": RESIZE,
        "embedding": 16,
        "recipe": SHORT,
    }
    return train_similarity(SimilarityTraining(out=out, **{**options, **changed}), said.append), said


def attributes(photographs: Photographs, out: Path, **changed: Any) -> Any:
    said: list[str] = []
    options: dict[str, Any] = {
        "catalogue": photographs.catalogue,
        "backbone": BACKBONE,
        "resize": RESIZE,
        "columns": ("colour",),
        "min_count": 5,
        "recipe": SHORT,
    }
    return train_attributes(AttributeTraining(out=out, **{**options, **changed}), said.append), said


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state"]
    return content


def test_similarity_learns_and_leaves_a_checkpoint_and_a_record(photographs: Photographs, tmp_path: Path) -> None:
    trained, said = similarity(photographs, tmp_path / "new" / "folder")
    record = json.loads(trained.record.read_text(encoding="utf-8"))
    losses = [row["loss"] for row in record["curve"]]
    assert losses[-1] < losses[0] / 2
    assert trained.figures["test"]["recall@1"] > 0.85 > 2 * trained.figures["test"]["chance"]
    assert record["training"]["images"] == {"train": 40, "valid": 10, "test": 10}
    assert record["training"]["similar_by"] == ["colour"]
    assert str(tmp_path) not in trained.record.read_text(encoding="utf-8")
    config, network = load_checkpoint(trained.checkpoint, "similarity")
    assert (config.backbone, config.embedding, config.resize) == (BACKBONE, 16, RESIZE)
    assert network(torch.zeros(3, 3, *SIZE)).shape == (3, 16)
    assert not network.training
    assert sum("to go" in line for line in said) == len(losses)


def test_the_seed_decides_the_weights(photographs: Photographs, tmp_path: Path) -> None:
    brief = Recipe(epochs=2, batch=16, threads=1, seed=5)
    first, _ = similarity(photographs, tmp_path / "first", recipe=brief)
    torch.rand(7)  # the state of torch's own generator must not matter
    second, _ = similarity(photographs, tmp_path / "second", recipe=brief)
    other, _ = similarity(photographs, tmp_path / "other", recipe=Recipe(epochs=2, batch=16, threads=1, seed=6))
    weights, again, changed = (state(each.checkpoint) for each in (first, second, other))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    assert not torch.equal(weights["head.weight"], changed["head.weight"])


def test_training_leaves_torch_as_it_was(photographs: Photographs, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    similarity(photographs, tmp_path, recipe=Recipe(epochs=1, batch=16, threads=threads + 1))
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_attributes_learn_where_they_are(photographs: Photographs, tmp_path: Path) -> None:
    trained, _ = attributes(photographs, tmp_path, recipe=Recipe(epochs=15, batch=16, learning_rate=3e-3, threads=1))
    assert trained.figures["test"]["map"] > 0.9 > 2 * trained.figures["test"]["chance"]
    config, network = load_checkpoint(trained.checkpoint, "attributes")
    assert config.vocabulary == ("colour=blue", "colour=green", "colour=red")
    dataset = load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None)
    with torch.inference_mode():
        logits, evidence = network(config.normalisation.apply(to_pixels(dataset.images)))
    assert torch.allclose(logits, evidence.mean(dim=(2, 3)), atol=1e-6)
    found = 0
    for product, maps in zip(dataset.products, evidence.numpy(), strict=True):
        cells = maps[config.vocabulary.index(product.names()[0])]
        row, column = np.unravel_index(cells.argmax(), cells.shape)
        top, left = photographs.patches[product.id]
        centre = (row + 0.5) * SIZE[0] / cells.shape[0], (column + 0.5) * SIZE[1] / cells.shape[1]
        # The centre of the strongest cell is in the patch, or less than a cell's half outside of it.
        found += top - 4 <= centre[0] <= top + PATCH + 4 and left - 4 <= centre[1] <= left + PATCH + 4
    assert found / len(dataset.products) > 0.9


def test_rare_attributes_are_left_out_and_said(photographs: Photographs, tmp_path: Path) -> None:
    trained, said = attributes(
        photographs, tmp_path, columns=("colour", "maker"), min_count=11, recipe=Recipe(epochs=1, batch=16, threads=1)
    )
    record = json.loads(trained.record.read_text(encoding="utf-8"))
    assert record["vocabulary"] == ["colour=blue", "colour=green", "colour=red"]  # 13 or 14 of 40, makers have 10
    assert record["left_out"] == {f"maker=m{i}": 10 for i in range(4)}
    assert any("4 attributes with fewer than 11 training images are left out: maker=m0 (10)" in line for line in said)
    with pytest.raises(UsageError, match="no attribute has 41 training images"):
        attributes(photographs, tmp_path, min_count=41)


@pytest.mark.parametrize(("recipe", "kept"), [({"frozen": 0.4}, 4), ({"trunk_rate": 0.0}, 10), ({}, 0)])
def test_frozen_layers_keep_their_weights_and_statistics(
    recipe: dict[str, float], kept: int, photographs: Photographs, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    before = small_network().state_dict()
    torch.save(before, weights)
    brief = Recipe(epochs=1, batch=16, threads=1, **recipe)  # type: ignore[arg-type]
    trained, _ = similarity(photographs, tmp_path / "out", weights=str(weights), recipe=brief)
    after = state(trained.checkpoint)
    layers = [f"layers.{3 * block + part}" for block in range(5) for part in (0, 1)]  # convolution, batch norm
    unchanged = [
        layer
        for layer in layers
        if all(torch.equal(t, after[f"backbone.{n}"]) for n, t in before.items() if n.startswith(f"{layer}."))
    ]
    assert unchanged == layers[:kept]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"similar_by": ("maker", "size")}, "no attribute column 'size'"),
        ({"embedding": 0}, "embedding >= 1"),
        ({"mining": "easy"}, "no triplet mining 'easy'"),
        ({"catalogue": "absent.csv"}, "absent.csv"),
    ],
)
def test_configurations_that_cannot_train(
    changed: dict[str, Any], message: str, photographs: Photographs, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        similarity(photographs, tmp_path, **changed)


def test_labels_without_pairs_cannot_train(tmp_path: Path) -> None:
    photographs = take(tmp_path / "catalogue", products=4, split=True)  # one training image a colour
    with pytest.raises(UsageError, match="0 labels have two training images"):
        similarity(photographs, tmp_path / "out")


def test_a_device_that_is_not_there(photographs: Photographs, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'tpu'"):
        similarity(photographs, tmp_path, recipe=Recipe(device="tpu"))
