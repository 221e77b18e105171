"""Backbones by name: the trunk is the network without its head, and weights that do not fit are refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from export.training.networks.backbones import Normalisation, backbone, feature_shape, normalisation_of
from export.training.networks.small_network import network as small_network
from export.training.networks.weights import read_state
from transforms.core.errors import UsageError

SIZE = (64, 48)

# One model of each family, and the module that takes the pooled feature map.
FAMILIES = {
    "resnet18": "fc",
    "mobilenet_v3_small": "classifier",
    "shufflenet_v2_x0_5": "fc",
    "efficientnet_b0": "classifier",
    "regnet_y_400mf": "fc",
    "mnasnet0_5": "classifier",
    "densenet121": "classifier",
}


pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Classifier(nn.Module):
    """A network of somebody's: forward gives classes, ``extract_features`` the map."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, stride=4)
        self.fc = nn.Linear(5, 2)
        self.normalisation = {"scale": 1.0, "mean": [127.0] * 3, "std": [128.0] * 3}

    def extract_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.convolution(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        classes: Tensor = self.fc(self.extract_features(x).mean(dim=(2, 3)))
        return classes


class OnlyClasses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Strict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("needs metadata")


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module of factories."""
    module = ModuleType("factories_of_a_user")
    module.__dict__.update(
        classifier=Classifier, only_classes=OnlyClasses, strict=Strict, number=lambda: 7, no_callable=3
    )
    monkeypatch.setitem(__import__("sys").modules, "factories_of_a_user", module)
    return "factories_of_a_user"


@pytest.mark.parametrize("name", FAMILIES)
def test_trunk_with_a_checkpoint_equals_the_whole_network_up_to_its_head(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = models.get_model(name, weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    trunk = backbone(name, str(tmp_path / "weights.pt")).eval()
    pooled: list[Tensor] = []
    head = getattr(whole, FAMILIES[name])
    head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        whole(images)
        features = trunk(images)
    assert features.ndim == 4
    assert torch.allclose(features.mean(dim=(2, 3)), pooled[0].flatten(1), atol=1e-5)
    assert feature_shape(trunk, SIZE) == tuple(features.shape[1:])


def test_small_network_has_a_map_of_an_eighth() -> None:
    assert feature_shape(small_network(), (96, 72)) == (80, 12, 9)
    assert 100_000 < sum(p.numel() for p in small_network().parameters()) < 200_000


def test_feature_shape_leaves_the_training_mode_and_the_batch_statistics_alone() -> None:
    trunk = small_network().train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    feature_shape(trunk, (32, 24))
    assert trunk.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_checkpoints_may_be_wrapped_and_prefixed(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    saved = small_network()
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "weights.pt")
    loaded = backbone("export.training.networks.small_network:network", str(tmp_path / "weights.pt"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    saved = small_network()
    safetensors.save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    loaded = backbone("export.training.networks.small_network:network", str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match="no safetensors file"):
        read_state(tmp_path / "broken.safetensors")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(UsageError, match=r"does not fit.*missing"):
        backbone("resnet34", str(tmp_path / "resnet18.pt"))
    torch.save(models.get_model("resnet34", weights=None).state_dict(), tmp_path / "resnet34.pt")
    with pytest.raises(UsageError, match=r"no place for.*layer1\.2"):
        backbone("resnet18", str(tmp_path / "resnet34.pt"))
    wide = {name: tensor for name, tensor in small_network().state_dict().items()}
    wide["layers.0.weight"] = torch.zeros(24, 3, 5, 5)
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(UsageError, match=r"layers\.0\.weight.*\[24, 3, 5, 5\].*\[24, 3, 3, 3\]"):
        backbone("export.training.networks.small_network:network", str(tmp_path / "wide.pt"))


class Payload:
    """Runs code where a pickle of it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.canary),))


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Payload(tmp_path / "canary")}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="tensors and plain values"):
        read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut short"])
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        read_state(tmp_path / "file.pt")


def test_checkpoints_without_tensors_and_missing_ones(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        read_state(tmp_path / "empty.pt")
    with pytest.raises(UsageError, match="there is no checkpoint"):
        read_state(tmp_path / "absent.pt")


def test_a_factory_is_used_by_its_feature_method(factories: str) -> None:
    trunk = backbone(f"{factories}:classifier", None)
    assert feature_shape(trunk, (20, 12)) == (5, 5, 3)
    assert normalisation_of(trunk) == Normalisation(1.0, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def test_a_factory_takes_a_checkpoint_of_its_own_names(factories: str, tmp_path: Path) -> None:
    saved = Classifier()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    trunk = backbone(f"{factories}:classifier", str(tmp_path / "weights.pt"))
    images = torch.randn(1, 3, 20, 12)
    assert torch.equal(trunk(images), saved.extract_features(images))


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("resnet19", None, "no image classifier 'resnet19'"),
        ("fasterrcnn_resnet50_fpn", None, "no image classifier"),
        ("absent_module:factory", None, "cannot import 'absent_module'"),
        ("{}:absent", None, "no callable 'absent'"),
        ("{}:no_callable", None, "no callable 'no_callable'"),
        ("{}:number", None, "returned int"),
        ("{}:classifier", "default", "brings its own"),
    ],
)
def test_specs_that_name_no_backbone(spec: str, weights: str | None, message: str, factories: str) -> None:
    with pytest.raises(UsageError, match=message):
        backbone(spec.format(factories), weights)


@pytest.mark.parametrize(
    ("factory", "message"), [("only_classes", r"gives \[1, 3\].*feature map"), ("strict", "cannot take an input")]
)
def test_networks_without_a_feature_map(factory: str, message: str, factories: str) -> None:
    with pytest.raises(UsageError, match=message):
        feature_shape(backbone(f"{factories}:{factory}", None), SIZE)


def test_a_factory_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_trunks.py").write_text("from torch import nn\ndef trunk():\n    return nn.Conv2d(3, 4, 3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_trunks", raising=False)
    assert feature_shape(backbone("my_trunks:trunk", None), (8, 6)) == (4, 6, 4)


def test_normalisation_by_hand() -> None:
    pixels = torch.tensor([[[[0.0]], [[51.0]], [[255.0]]]])
    expected = torch.tensor([(0 - 0.5) / 0.1, (0.2 - 0.4) / 0.2, (1 - 0.3) / 0.5]).view(1, 3, 1, 1)
    assert torch.allclose(Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.1, 0.2, 0.5)).apply(pixels), expected)
    with pytest.raises(UsageError, match="scale > 0"):
        Normalisation(std=(0.0, 1.0, 1.0))
