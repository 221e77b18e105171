"""Training on tiny photographs: it learns, it repeats itself, and it says what it leaves out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.training.data.augmentation import Augmentation, augment
from export.training.data.batches import label_batches, plain_batches
from export.training.data.dataset import Dataset, load_dataset, to_pixels
from export.training.data.labels import attribute_targets, label_ids
from export.training.fitting.loop import fit
from export.training.fitting.optimiser import frozen_layers
from export.training.fitting.task import TrainingTask
from export.training.networks.backbones import Normalisation
from export.training.networks.checkpoint import load as load_checkpoint
from export.training.networks.small_network import network as small_network
from export.training.settings import AttributeTraining, Recipe, SimilarityTraining
from export.training.train_attributes import train_attributes
from export.training.train_similarity import train_similarity
from tests.support.photographs import PATCH, SIZE, Photographs, take
from transforms.core.errors import DeviceError, RunError, UsageError
from transforms.core.imaging.images import Resize
from transforms.core.records import Product

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


def test_what_cannot_be_used_is_counted_and_said(tmp_path: Path) -> None:
    photographs = take(tmp_path / "catalogue", products=30)
    images = tmp_path / "catalogue" / "images"
    (images / "p001.png").write_bytes(b"<html>not found</html>")
    (images / "p002.png").write_bytes((images / "p002.png").read_bytes()[:60])
    (images / "p003.png").unlink()
    with (tmp_path / "catalogue" / "catalogue.csv").open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["", "images/p004.png", "red", "m0", "train"],
                ["x1", "../secret.png", "red", "m0", "train"],
                ["x2", "images/p004.png", "red", "m0", "holdout"],
            ]
        )
    said: list[str] = []
    dataset = load_dataset(photographs.catalogue, RESIZE, echo=said.append)
    assert len(dataset.products) == len(dataset.images) == 27
    assert sum(dataset.skipped.values()) == 6
    assert dataset.skipped["html_not_image"] == dataset.skipped["not_found"] == dataset.skipped["bad_row"] == 1
    assert dataset.skipped["address_refused"] == dataset.skipped["split 'holdout'"] == 1
    assert "6 rows left out" in said[-1]
    # The images behind a gap still belong to their products.
    whole = load_dataset(take(tmp_path / "whole", products=30).catalogue, RESIZE, echo=said.append)
    expected = {product.id: image for product, image in zip(whole.products, whole.images, strict=True)}
    for product, image in zip(dataset.products, dataset.images, strict=True):
        assert np.array_equal(image, expected[product.id])


def test_a_catalogue_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    photographs = take(tmp_path / "catalogue", products=3)
    for path in (tmp_path / "catalogue" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"no image .* can be used: 3 empty"):
        load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None)


def test_large_catalogues_lie_in_a_file(
    photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None)
    monkeypatch.setattr("export.training.data.dataset._IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr("export.training.data.dataset._DECODE_AT_ONCE", 7)
    paged = load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None, threads=2)
    assert isinstance(paged.images, np.memmap)
    assert np.array_equal(paged.images, in_memory.images)
    assert paged.products == in_memory.products


def test_splits_by_the_id_where_the_catalogue_has_none(tmp_path: Path) -> None:
    dataset = load_dataset(take(tmp_path / "c", products=60, split=False).catalogue, RESIZE, echo=lambda _: None)
    parts = {split: len(dataset.part(split)) for split in ("train", "valid", "test")}
    assert sum(parts.values()) == 60
    assert parts["train"] > 40
    assert min(parts.values()) > 0
    fewer = load_dataset(take(tmp_path / "d", products=40, split=False).catalogue, RESIZE, echo=lambda _: None)
    whole = {product.id: product.split for product in dataset.products}
    assert all(product.split == whole[product.id] for product in fewer.products)


def test_similar_by_several_columns() -> None:
    products = [
        Product("a", "a.jpg", (("type", "shirt"), ("colour", "red"))),
        Product("b", "b.jpg", (("type", "shirt"), ("colour", "blue"))),
        Product("c", "c.jpg", (("type", "shirt"),)),
        Product("d", "d.jpg", (("colour", "red"), ("type", "shirt"))),
    ]
    labels, names = label_ids(products, ["type", "colour"])
    assert labels.tolist() == [1, 0, -1, 1]
    assert names == (("shirt", "blue"), ("shirt", "red"))
    with pytest.raises(UsageError, match=r"no attribute column 'size'; it has colour, type"):
        label_ids(products, ["type", "size"])


def test_empty_cells_say_nothing_of_their_column() -> None:
    products = [
        Product("a", "a.jpg", (("type", "shirt"), ("colour", "red"))),
        Product("b", "b.jpg", (("type", "shoe"),)),
    ]
    targets, known = attribute_targets(products, ["type=shirt", "colour=red", "colour=blue"])
    assert targets.tolist() == [[True, True, False], [False, False, False]]
    assert known.tolist() == [[True, True, True], [True, False, False]]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-1, 5), min_size=1, max_size=60),
    st.integers(2, 20),
    st.integers(2, 5),
    st.integers(0, 99),
)
def test_an_epoch_holds_every_usable_image_at_most_once(labels: list[int], batch: int, each: int, seed: int) -> None:
    numbers = np.array(labels)
    among = np.flatnonzero(np.arange(len(labels)) % 5 != 4)
    batches = label_batches(numbers, among, batch=batch, per_label=each, rng=np.random.default_rng(seed))
    usable = [i for i in among if numbers[i] >= 0 and (numbers[among] == numbers[i]).sum() > 1]
    drawn = [int(i) for indices in batches for i in indices]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(map(int, usable))
    assert len(usable) - len(drawn) < max(batch, 1) / 2  # no more than a short last batch is dropped
    for indices in batches:
        counts = np.unique(numbers[indices], return_counts=True)[1]
        assert counts.min() >= 2  # every image has a positive in its batch


def test_plain_batches_hold_everything_once() -> None:
    batches = plain_batches(np.arange(10, 33), batch=8, rng=np.random.default_rng(0))
    assert [len(indices) for indices in batches] == [8, 8, 7]
    assert sorted(np.concatenate(batches).tolist()) == list(range(10, 33))


def test_augmentation_off_changes_nothing_and_a_flip_is_a_mirror() -> None:
    pixels = torch.arange(2 * 3 * 6 * 4, dtype=torch.float32).reshape(2, 3, 6, 4).repeat(8, 1, 1, 1)
    off, _ = augment(pixels, Augmentation(flip=False, shift=0.0, zoom=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(off, pixels)
    flipped, _ = augment(pixels, Augmentation(flip=True, shift=0.0, zoom=0.0), torch.Generator().manual_seed(0))
    mirrored = [torch.allclose(new, old.flip(-1), atol=1e-3) for new, old in zip(flipped, pixels, strict=True)]
    same = [torch.allclose(new, old, atol=1e-3) for new, old in zip(flipped, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(pixels)


def test_a_shift_moves_by_its_share_of_the_frame_at_most() -> None:
    pixels = torch.zeros(64, 3, 40, 20)
    pixels[:, :, 20, 10] = 255
    moved, _ = augment(pixels, Augmentation(flip=False, shift=0.2, zoom=0.0), torch.Generator().manual_seed(0))
    rows = moved.sum(dim=(1, 3)).argmax(dim=1)
    columns = moved.sum(dim=(1, 2)).argmax(dim=1)
    assert 12 <= rows.min() < 15
    assert 25 < rows.max() <= 28
    assert 6 <= columns.min() < 8
    assert 12 < columns.max() <= 14


def test_augmentation_stays_within_pixels() -> None:
    pixels = torch.rand(8, 3, 12, 10) * 255
    strong = Augmentation(shift=0.5, zoom=0.5, jitter=0.9)
    changed, _ = augment(pixels, strong, torch.Generator().manual_seed(1))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(changed, augment(pixels, strong, torch.Generator().manual_seed(1))[0])
    with pytest.raises(UsageError, match="zoom is a share"):
        Augmentation(zoom=1.0)


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


def test_frozen_layers_are_counted_from_the_input() -> None:
    trunk = small_network()
    layers = [layer for layer in trunk.layers if not isinstance(layer, nn.ReLU)]
    assert frozen_layers(trunk, 0.3) == layers[:3]
    assert frozen_layers(trunk, 1.0) == layers
    assert frozen_layers(trunk, 0.0) == []


class Scripted:
    """A task whose validation is a given list of figures."""

    def __init__(self, figures: list[float], loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.network = nn.Conv2d(3, 1, 1)
        self.weights: list[torch.Tensor] = []
        remaining = iter(figures)

        def validate() -> dict[str, float]:
            self.weights.append(self.network.weight.detach().clone())
            return {"figure": next(remaining)}

        self.task = TrainingTask(
            network=self.network,
            trunk=self.network,
            batches=lambda rng: [np.arange(4)],
            loss=lambda output, *_: {"scripted": loss(output)},
            validate=validate,
            metric="figure",
        )

    def fit(self, **recipe: Any) -> Any:
        dataset = Dataset((), np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8), {})
        return fit(self.task, dataset, Normalisation(), Recipe(batch=4, **recipe), lambda _: None)


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    scripted = Scripted([0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.9], lambda output: output.square().mean())
    curve = scripted.fit(epochs=7, patience=3)
    assert [row.validation["figure"] for row in curve] == [0.1, 0.5, 0.4, 0.5, 0.3]  # three after the first 0.5
    assert torch.equal(scripted.network.weight, scripted.weights[3])  # of equals the later one


def test_without_a_validation_the_last_epoch_stays() -> None:
    scripted = Scripted([float("nan")] * 3, lambda output: output.square().mean())
    assert len(scripted.fit(epochs=3, patience=5)) == 3
    assert torch.equal(scripted.network.weight, scripted.weights[-1])


def test_a_loss_that_is_not_finite_breaks_the_run() -> None:
    with pytest.raises(RunError, match="not finite in epoch 1; lower the learning rate"):
        Scripted([0.0], lambda output: output.mean() * float("nan")).fit(epochs=1)


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"epochs": 0}, "epochs is at least 1, got 0"), ({"frozen": 1.5}, "frozen"), ({"learning_rate": 0.0}, "rate > 0")],
)
def test_recipes_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**changed)


def test_a_device_that_is_not_there(photographs: Photographs, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'tpu'"):
        similarity(photographs, tmp_path, recipe=Recipe(device="tpu"))
