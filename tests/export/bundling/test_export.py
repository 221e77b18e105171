"""Checkpoints to bundles: the bundle computes what torch computes, or it is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.bundling import from_torch as exporting
from export.bundling.from_torch import ExportRequest, to_onnx
from export.bundling.parity import attributes_parity, similarity_parity
from export.bundling.prefix import wrap_attributes, wrap_similarity
from export.training.networks.attribute_network import AttributeNetwork, ServedAttributes
from export.training.networks.backbones import Normalisation
from export.training.networks.checkpoint import Config, build_network, load, save
from export.training.networks.similarity_network import EmbeddingNetwork
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging.images import Resize
from transforms.core.messages import Echo
from transforms.serving import bundle as bundles
from transforms.serving import runtime
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.bundle import Bundle
from transforms.serving.similarity_model import SimilarityModel

SIZE = (40, 24)
NORMALISATION = Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
SIMILARITY = Config(
    "similarity", "export.training.networks.small_network:network", Resize(SIZE, "pad"), NORMALISATION, embedding=12
)
ATTRIBUTES = Config(
    "attributes",
    "export.training.networks.small_network:network",
    Resize(SIZE, "pad"),
    NORMALISATION,
    vocabulary=("a=1", "a=2", "b=ü"),
)


def export_command(*, echo: Echo, **asked: Any) -> Bundle:
    """Without the gradient, which takes as long as all else, and is the subject of test_gradient_graph."""
    return exporting.export_command(ExportRequest(gradient=False, **asked), echo=echo)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def checkpoint(path: Path, config: Config, *, seed: int = 0) -> Path:
    """A checkpoint of a network with random weights and with batch statistics that are not the initial ones."""
    torch.manual_seed(seed)
    network = build_network(config).train()
    with torch.no_grad():
        network(torch.randn(8, 3, *config.resize.size) * 2 + 0.5)
    save(path, config, network)
    return path


@pytest.fixture
def checkpoints(tmp_path: Path) -> Any:
    folder = tmp_path / "trained"
    return {
        "similarity": checkpoint(folder / "similarity.pt", SIMILARITY),
        "attributes": checkpoint(folder / "attributes.pt", ATTRIBUTES, seed=1),
    }


def test_weights_that_cannot_be_are_refused_before_any_work(checkpoints: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--phi: phi is three finite weights"):
        export_command(**checkpoints, out=tmp_path / "bundle", phi=(-1.0, 0.5, 0.0), echo=lambda _: None)
    assert not (tmp_path / "bundle").exists()


def test_scores_are_what_the_network_was_trained_to_give(checkpoints: Any, tmp_path: Path) -> None:
    """Of smooth L1 a softmax over all attributes, else a probability for each."""
    softmax = replace(ATTRIBUTES, training={"attribute_loss": "smooth-l1"})
    checkpoints["attributes"] = checkpoint(tmp_path / "softmax.pt", softmax, seed=1)
    built = export_command(**checkpoints, out=tmp_path / "bundle", echo=lambda _: None)
    assert built.attributes is not None
    image = np.random.default_rng(3).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    session = runtime.session(tmp_path / "bundle" / built.attributes.file)
    scores, maps = session.run(["scores", "maps"], {"image": image})
    evidence = np.exp(maps.mean(axis=(2, 3)))
    np.testing.assert_allclose(scores, evidence / evidence.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_bundle_computes_what_torch_computes(checkpoints: Any, tmp_path: Path) -> None:
    said: list[str] = []
    built = export_command(**checkpoints, out=tmp_path / "bundle", phi=(0.3, 0.5, 0.2), echo=said.append)
    assert bundles.read(str(tmp_path / "bundle")) == built
    assert built.vocabulary == ATTRIBUTES.vocabulary
    assert (built.phi, built.resize, built.embedding_size) == ((0.3, 0.5, 0.2), SIMILARITY.resize, 12)
    assert built.fill_mean == pytest.approx((127.5, 102.0, 76.5))
    assert built.attributes is not None
    assert 0 <= (built.similarity.parity or 1) < 1e-5
    assert 0 <= (built.attributes.parity or 1) < 1e-5
    assert "parity with torch" in said[-1]

    # Against torch once more, by hand: one image, one mask, one fill.
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    mask = rng.random((1, *SIZE, 1), dtype=np.float32)
    fill = np.array([10, 200, 90], np.float32).reshape(1, 1, 1, 3)
    graph = runtime.session(tmp_path / "bundle" / built.similarity.file)
    (served,) = graph.run(["embedding"], {"image": image, "mask": mask, "fill": fill})
    pixels = mask * image + (1 - mask) * fill
    x = (pixels / 255 - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
    _, network = load(checkpoints["similarity"], "similarity")
    with torch.no_grad():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    assert served == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_served_scores_are_the_sigmoid_of_the_maps_average(checkpoints: Any, tmp_path: Path) -> None:
    built = export_command(**checkpoints, out=tmp_path / "bundle", echo=lambda _: None)
    model = AttributeModel(built, tmp_path / "bundle", "cpu", 1, 4)
    images = np.random.default_rng(0).integers(0, 256, (7, *SIZE, 3), dtype=np.uint8)
    scores, maps = model.predict(images)
    assert maps.shape == (7, 3, 5, 3)
    assert scores == pytest.approx(1 / (1 + np.exp(-maps.mean(axis=(2, 3)))), abs=1e-5)


def test_a_bundle_without_attributes(checkpoints: Any, tmp_path: Path) -> None:
    built = export_command(similarity=checkpoints["similarity"], out=tmp_path / "bundle", echo=lambda _: None)
    assert built.attributes is None
    files = sorted(path.name for path in (tmp_path / "bundle").iterdir())
    assert files == ["bundle.json", "projection.onnx", "similarity.onnx"]


@pytest.mark.parametrize("function", ["dot", "euclidean"])
def test_without_the_cosine_embeddings_keep_their_length(function: Any, checkpoints: Any, tmp_path: Path) -> None:
    built = export_command(
        similarity=checkpoints["similarity"], out=tmp_path / "bundle", similarity_function=function, echo=lambda _: None
    )
    model = SimilarityModel(built, tmp_path / "bundle", "cpu", 1, 4)
    lengths = np.linalg.norm(model.embed(np.zeros((1, *SIZE, 3), np.uint8)), axis=1)
    assert abs(lengths[0] - 1) > 1e-3
    assert (built.similarity.parity or 1) < 1e-5


def test_half_precision(checkpoints: Any, tmp_path: Path) -> None:
    whole = export_command(**checkpoints, out=tmp_path / "whole", echo=lambda _: None)
    half = export_command(**checkpoints, out=tmp_path / "half", precision="float16", echo=lambda _: None)
    assert (whole.similarity.precision, half.similarity.precision) == ("float32", "float16")
    assert 1e-6 < (half.similarity.parity or 0) < exporting.TOLERANCE["float16"]
    sizes = [(tmp_path / name / "similarity.onnx").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(UsageError, match="precision is 'int8'"):
        export_command(**checkpoints, out=tmp_path / "x", precision="int8", echo=lambda _: None)


def test_a_torchvision_network(tmp_path: Path) -> None:
    config = replace(SIMILARITY, backbone="shufflenet_v2_x0_5", resize=Resize((64, 48), "crop"))
    path = checkpoint(tmp_path / "similarity.pt", config)
    built = export_command(similarity=path, out=tmp_path / "bundle", echo=lambda _: None)
    assert built.similarity.batch is None
    assert (built.similarity.parity or 1) < 1e-4


def test_a_graph_that_differs_is_not_written(checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_wrong(network: nn.Module, *rest: Any) -> Any:
        with torch.no_grad():
            next(iter(network.parameters())).mul_(1.01)
            model = to_onnx(network, *rest)
            next(iter(network.parameters())).div_(1.01)
        return model

    monkeypatch.setattr(exporting, "to_onnx", slightly_wrong)
    with pytest.raises(BundleError, match=r"similarity graph differs from torch by .*, more than 1e-04"):
        export_command(**checkpoints, out=tmp_path / "bundle", echo=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]


def test_parity_notices_each_part(checkpoints: Any) -> None:
    _, network = load(checkpoints["similarity"], "similarity")
    graph = wrap_similarity(
        to_onnx(network, SIZE, ("embedding",)), preprocessing=exporting._preprocessing(NORMALISATION), size=SIZE
    ).SerializeToString()
    assert similarity_parity(graph, network, NORMALISATION, SIZE, unit=True) < 1e-5
    assert similarity_parity(graph, network, NORMALISATION, SIZE, unit=False) > 1e-3
    shifted = replace(NORMALISATION, mean=(0.5, 0.41, 0.3))
    assert similarity_parity(graph, network, shifted, SIZE, unit=True) > 1e-4

    _, attributes = load(checkpoints["attributes"], "attributes")
    assert isinstance(attributes, AttributeNetwork)
    served = ServedAttributes(attributes)
    graph = wrap_attributes(
        to_onnx(served, SIZE, ("scores", "maps")),
        preprocessing=exporting._preprocessing(NORMALISATION),
        size=SIZE,
        scores_output="scores",
        maps_output="maps",
    ).SerializeToString()
    assert attributes_parity(graph, served, NORMALISATION, SIZE) < 1e-5
    assert attributes_parity(graph, served, shifted, SIZE) > 1e-4


def test_networks_that_saw_different_images_make_no_bundle(checkpoints: Any, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other.pt", replace(ATTRIBUTES, resize=Resize(SIZE, "squash")))
    with pytest.raises(UsageError, match="see the same image"):
        export_command(
            similarity=checkpoints["similarity"], attributes=other, out=tmp_path / "bundle", echo=lambda _: None
        )


def test_the_wrong_checkpoint(checkpoints: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a network for attributes, expected one for similarity"):
        export_command(similarity=checkpoints["attributes"], out=tmp_path / "bundle", echo=lambda _: None)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    with pytest.raises(UsageError, match="no checkpoint of whymatch train"):
        load(tmp_path / "plain.pt", "similarity")
    with pytest.raises(UsageError, match="there is no checkpoint"):
        load(tmp_path / "absent.pt", "similarity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["config"].pop("resize"), "incomplete description"),
        (lambda content: content["config"].update(embedding=13), "does not fit its own description"),
        (lambda content: content.update(format=99), "format 99"),
        (lambda content: content["config"]["normalisation"].update(std=[1.0]), "incomplete|normalisation"),
        (lambda content: content["state"].pop("head.bias"), "does not fit its own description"),
    ],
)
def test_damaged_checkpoints(change: Any, message: str, checkpoints: Any) -> None:
    content = torch.load(checkpoints["similarity"], weights_only=True)
    change(content)
    torch.save(content, checkpoints["similarity"])
    with pytest.raises(UsageError, match=message):
        load(checkpoints["similarity"], "similarity")


def test_a_checkpoint_cannot_choose_which_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chosen_code.py").write_text(
        "from pathlib import Path\nfrom export.training.networks.small_network import network\n"
        f"Path({str(tmp_path / 'canary')!r}).touch()\ndef trunk():\n    return network()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = checkpoint(tmp_path / "similarity.pt", replace(SIMILARITY, backbone="chosen_code:trunk"))
    (tmp_path / "canary").unlink()
    monkeypatch.delitem(__import__("sys").modules, "chosen_code")
    with pytest.raises(UsageError, match="--factory chosen_code:trunk if you trust it"):
        export_command(similarity=path, out=tmp_path / "bundle", echo=lambda _: None)
    assert not (tmp_path / "canary").exists()
    export_command(similarity=path, out=tmp_path / "bundle", factories=["chosen_code:trunk"], echo=lambda _: None)


def test_an_existing_folder_is_not_written_over(checkpoints: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="name a new folder"):
        export_command(**checkpoints, out=tmp_path / "bundle", echo=lambda _: None)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "trained"]


def test_the_folders_of_this_machine_stay_out_of_the_bundle(checkpoints: Any, tmp_path: Path) -> None:
    export_command(**checkpoints, out=tmp_path / "bundle", echo=lambda _: None)
    for path in (tmp_path / "bundle").iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content
        assert b"site-packages" not in content
        assert str(Path(__file__).parents[3]).encode() not in content
    json.loads((tmp_path / "bundle" / "bundle.json").read_text(encoding="utf-8"))


class DecidesByValue(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x[:, :, ::2]


def test_a_network_that_torch_cannot_export() -> None:
    network = EmbeddingNetwork(DecidesByValue(), size=SIZE, embedding=4).eval()
    with pytest.raises(BundleError, match="torch cannot export the network"):
        to_onnx(network, SIZE, ("embedding",))
