"""The gradient graph: torch's own gradient, in float64 from the trace, in float32 from the bundle's file."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from export.bundling import from_torch as exporting
from export.bundling.build import build
from export.bundling.bundle_spec import NO_GRADIENT, BundleSpec, SimilarityGraph
from export.bundling.from_torch import ExportRequest, export_command
from export.bundling.gradient import BATCH, similarity, to_onnx, trace, trace_to_onnx
from export.bundling.gradient_prefix import wrap_gradient
from export.bundling.preprocessing import Preprocessing
from export.bundling.serve.gradient import serve_gradient
from export.training.networks.backbones import Normalisation, backbone
from export.training.networks.checkpoint import Config, build_network, save
from export.training.networks.similarity_network import EmbeddingNetwork
from tests.support.models import networks
from transforms.core.errors import BundleError, ModelFailed
from transforms.core.imaging.images import Resize
from transforms.core.records import Float32
from transforms.core.similarity import SimilarityFunction
from transforms.serving import bundle as bundles
from transforms.serving import runtime
from transforms.serving.bundle import Bundle, Network
from transforms.serving.gradient_model import GradientModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")

D = 6
NORMALISATION = Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
PREPROCESSING = Preprocessing("nchw", "rgb", 1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
FUNCTIONS: tuple[SimilarityFunction, ...] = ("cosine", "dot", "euclidean")
DRAWS = 50


class SmallTransformer(nn.Module):
    """Patches, two blocks of attention, the mean of the tokens: whatever the frame."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, D)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        for block in range(2):
            normed = self.norms[2 * block](tokens)
            tokens = tokens + self.attention[block](normed, normed, normed, need_weights=False)[0]
            tokens = tokens + self.mlps[block](self.norms[2 * block + 1](tokens))
        embedding: Tensor = self.head(tokens.mean(1))
        return embedding


class Smooth(nn.Module):
    """No kink anywhere, so that finite differences converge."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.LazyLinear(D))

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.layers(x)
        return embedding


def _vision_transformer() -> nn.Module:
    network: nn.Module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=D
    )
    nn.init.normal_(network.get_parameter("heads.head.weight"))  # torchvision's is zero
    return network


def _with(spec: str, size: tuple[int, int]) -> nn.Module:
    return EmbeddingNetwork(backbone(spec, None), size=size, embedding=D)


class Case(NamedTuple):
    size: tuple[int, int]
    make: Callable[[], nn.Module]
    batch: int | None = None


CASES = {
    "small": Case((40, 24), partial(_with, "export.training.networks.small_network:network", (40, 24))),
    "resnet18": Case((48, 36), partial(_with, "resnet18", (48, 36))),
    "efficientnet": Case((48, 40), partial(_with, "benchmarks.support.efficientnet_lite:efficientnet_lite0", (48, 40))),
    "transformer": Case((32, 24), SmallTransformer),
    "torchvision_vit": Case((32, 32), _vision_transformer, batch=BATCH),
}


SLOW = ("resnet18", "transformer")
EXPORTED = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES if name != "efficientnet"
]
"""torch takes 17 seconds to export EfficientNet-Lite0's; `benchmarks.cost.gradients` has its numbers."""


@cache
def network(name: str) -> nn.Module:
    """The network of a case with random weights, and statistics that are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = CASES[name].make()
        if name != "efficientnet":
            with torch.no_grad():
                made.train()(torch.randn(8, 3, *CASES[name].size) * 2 + 0.5)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Bundle, Path]]:
    @cache
    def serve(name: str) -> tuple[Bundle, Path]:
        folder = tmp_path_factory.mktemp(name)
        return bundle_of(network(name), CASES[name].size, folder, batch=CASES[name].batch), folder

    return serve


def bundle_of(
    module: nn.Module,
    size: tuple[int, int],
    folder: Path,
    function: SimilarityFunction = "cosine",
    batch: int | None = None,
) -> Bundle:
    core = to_onnx(trace(module, size, function, batch=batch))
    record = serve_gradient(core, PREPROCESSING, size, folder)
    return Bundle(Network({"similarity.onnx": ""}), Resize(size, "squash"), D, (0, 0, 0), function, gradient=record)


class Drawn(NamedTuple):
    images: NDArray[np.uint8]
    fills: Float32
    masks: Float32
    references: Float32


def draw(size: tuple[int, int], rows: int, seed: int = 0, *, unit: bool = True) -> Drawn:
    rng = np.random.default_rng(seed)
    references = rng.normal(size=(rows, D))
    return Drawn(
        rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8),
        rng.uniform(0, 255, (rows, 1, 1, 3)).astype(np.float32),
        rng.random((rows, *size), dtype=np.float32),
        (references / np.linalg.norm(references, axis=1, keepdims=True) if unit else references).astype(np.float32),
    )


def by_torch(
    module: nn.Module,
    drawn: Drawn,
    noise: NDArray[Any] | float = 0.0,
    function: SimilarityFunction = "cosine",
    dtype: torch.dtype = torch.float32,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The definition: pixels under a mask, normalised, noise, network, similarity, autograd."""
    images, fills, references = (torch.from_numpy(v).to(dtype) for v in (drawn.images, drawn.fills, drawn.references))
    masks = torch.from_numpy(drawn.masks).to(dtype).requires_grad_(True)
    pixels = masks[..., None] * images + (1 - masks[..., None]) * fills
    mean, std = (torch.tensor(v, dtype=dtype) for v in (NORMALISATION.mean, NORMALISATION.std))
    x = (pixels * NORMALISATION.scale - mean) / std + torch.as_tensor(noise, dtype=dtype)
    embedding = module(x.permute(0, 3, 1, 2))
    if function == "cosine":
        embedding = embedding / embedding.norm(dim=1, keepdim=True)
    if function == "euclidean":
        scores = -torch.linalg.vector_norm(embedding - references, dim=1)
    else:
        scores = (embedding * references).sum(1)
    (slope,) = torch.autograd.grad(scores.sum(), masks)
    return scores.detach().numpy(), slope.numpy(), embedding.detach().numpy()


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_in_float64_the_trace_is_torchs_gradient(name: str) -> None:
    case = CASES[name]
    traced = trace(network(name), case.size, "cosine", batch=case.batch, dtype=torch.float64)
    rows = case.batch or 3
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(rows, 3, *case.size))).requires_grad_(True)
    reference = torch.from_numpy(draw(case.size, rows).references.astype(np.float64))
    module = build_double(network(name))
    embedding = nn.functional.normalize(module(x), dim=1)
    scores = (embedding * reference).sum(1)
    (slope,) = torch.autograd.grad(scores.sum(), x)
    found = traced.core(x.detach(), reference)
    for ours, theirs in zip(found, (scores, slope, embedding), strict=True):
        assert relative(ours.detach().numpy(), theirs.detach().numpy()) < 1e-6


def build_double(module: nn.Module) -> nn.Module:
    doubled: nn.Module = copy.deepcopy(module).double()
    return doubled


@pytest.mark.parametrize("name", EXPORTED)
def test_in_float32_the_file_is_torchs_gradient(name: str, served: Any) -> None:
    built, folder = served(name)
    drawn = draw(CASES[name].size, DRAWS, seed=5)
    model = GradientModel(built, folder, "cpu", 1, 16)
    scores, slope, embedding = model.at(drawn.images, drawn.fills)(drawn.masks, drawn.references)
    expected = by_torch(network(name), drawn)
    assert scores == pytest.approx(expected[0], abs=1e-5)
    assert embedding == pytest.approx(expected[2], abs=1e-5)
    errors = np.median(np.abs(slope - expected[1]) / np.abs(expected[1]), axis=(1, 2))
    # A unit that switches at a rounding of its input changes all of a row, as in torch's own float32.
    assert np.median(errors) < 1e-4
    assert (
        min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(slope, expected[1], strict=True))
        > 0.999
    )


@pytest.mark.parametrize("name", EXPORTED)
def test_a_row_is_the_same_in_whatever_batch(name: str, served: Any) -> None:
    built, folder = served(name)
    drawn = draw(CASES[name].size, 7, seed=6)
    shared = Drawn(drawn.images[:1], drawn.fills[:1], drawn.masks, drawn.references)
    whole = GradientModel(built, folder, "cpu", 1, 7).at(shared.images, shared.fills)(drawn.masks, drawn.references)
    for batch in (1, 2, 3, 16):
        at = GradientModel(built, folder, "cpu", 1, batch).at(shared.images, shared.fills)
        for ours, theirs in zip(at(drawn.masks, drawn.references), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(at(drawn.masks[::-1], drawn.references[::-1]), whole, strict=True):
            np.testing.assert_array_equal(ours[::-1], theirs)
        for ours, theirs in zip(at(drawn.masks[4:5], drawn.references[4:5]), whole, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[4])


@pytest.fixture(scope="module")
def smooth() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Smooth()
        with torch.no_grad():
            made(torch.zeros(1, 3, 9, 14))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_noise_and_images_and_fills_of_their_own(
    function: SimilarityFunction, smooth: nn.Module, tmp_path: Path
) -> None:
    size = (9, 14)
    built = bundle_of(smooth, size, tmp_path, function)
    drawn = draw(size, 5, unit=function == "cosine")
    noise = np.random.default_rng(9).normal(0, 0.2, (1, *size, 3)).astype(np.float32)
    fills = np.random.default_rng(8).uniform(0, 255, (5, *size, 3)).astype(np.float32)
    model = GradientModel(built, tmp_path, "cpu", 1, 2)
    for images, fill in (
        (drawn.images, fills),
        (drawn.images[:1], fills),
        (drawn.images, fills[:1]),
        (drawn.images[0], drawn.fills[:1]),
    ):
        every = Drawn(images if images.ndim == 4 else images[None], fill, drawn.masks, drawn.references)
        found = model.at(images, fill)(drawn.masks, drawn.references, noise)
        for ours, theirs in zip(found, by_torch(smooth, every, noise, function), strict=True):
            assert ours.dtype == np.float32
            assert relative(ours, theirs) < 1e-4
        plain = model.at(images, fill)(drawn.masks, drawn.references)
        assert relative(plain[1], found[1]) > 1e-3
        zero = model.at(images, fill)(drawn.masks, drawn.references, np.zeros((1, *size, 3), np.float32))
        np.testing.assert_array_equal(zero[1], plain[1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_finite_differences(function: SimilarityFunction, smooth: nn.Module) -> None:
    size = (9, 14)
    drawn = draw(size, 2, unit=function == "cosine")
    module = build_double(smooth)
    _, slope, _ = by_torch(module, drawn, 0, function, torch.float64)
    traced = trace(smooth, size, function, dtype=torch.float64)

    def core(masks: NDArray[Any]) -> tuple[Tensor, ...]:
        pixels = masks[..., None] * drawn.images + (1 - masks[..., None]) * drawn.fills
        x = (pixels / 255 - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
        found: tuple[Tensor, ...] = traced.core(
            torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.from_numpy(drawn.references).double()
        )
        return found

    for row, y, x in ((0, 0, 0), (0, 5, 3), (1, 8, 12), (1, 2, 11)):
        step = np.zeros(drawn.masks.shape)
        step[row, y, x] = 1e-5
        up, down = core(drawn.masks + step)[0], core(drawn.masks - step)[0]
        assert float(up[row] - down[row]) / 2e-5 == pytest.approx(slope[row, y, x], rel=1e-5, abs=1e-9)
        other = 1 - row
        assert up[other] == down[other]


def test_zero_embeddings_and_distances_have_a_gradient_of_zero() -> None:
    embeddings = torch.zeros(2, 3, requires_grad=True)
    references = torch.tensor([[0.0, 0, 0], [3.0, 4, 0]])
    scores, _ = similarity(embeddings, references, "euclidean")
    (slope,) = torch.autograd.grad(scores.sum(), embeddings)
    assert scores.tolist() == [0, -5]
    assert slope[0].tolist() == [0, 0, 0]
    assert slope[1].tolist() == pytest.approx([0.6, 0.8, 0])
    scores, _ = similarity(embeddings, references, "cosine")
    assert scores.tolist() == [0, 0]
    assert torch.isfinite(torch.autograd.grad(scores.sum(), embeddings)[0]).all()


@pytest.mark.parametrize("function", ["cosine", "euclidean"])
def test_a_query_equal_to_its_reference(function: SimilarityFunction, smooth: nn.Module, tmp_path: Path) -> None:
    built = bundle_of(smooth, (9, 14), tmp_path, function)
    drawn = draw((9, 14), 1)
    at = GradientModel(built, tmp_path, "cpu", 1, 4).at(drawn.images, drawn.fills)
    masks = np.ones_like(drawn.masks)
    _, _, embedding = at(masks, drawn.references)
    scores, slope, _ = at(masks, embedding)
    assert scores == pytest.approx([1 if function == "cosine" else 0], abs=1e-6)
    assert slope == pytest.approx(np.zeros_like(slope), abs=1e-6)
    nothing = at(masks[:0], embedding[:0])
    assert [part.shape for part in nothing] == [(0,), (0, 9, 14), (0, D)]


def test_channels_in_reverse(smooth: nn.Module) -> None:
    """A BGR network sees the same colours: reversing image, fill and noise is reversing the order of its channels."""
    core = to_onnx(trace(smooth, (9, 14), "dot"))
    mean, std = PREPROCESSING.mean, PREPROCESSING.std
    rgb = wrap_gradient(core, preprocessing=PREPROCESSING, size=(9, 14))
    bgr = wrap_gradient(core, preprocessing=Preprocessing("nchw", "bgr", 1 / 255, mean, std), size=(9, 14))
    drawn = draw((9, 14), 3)
    noise = np.random.default_rng(9).normal(0, 0.2, (1, 9, 14, 3)).astype(np.float32)
    names = ("image", "fill", "noise")
    feeds = {
        **dict(zip(names, (drawn.images, drawn.fills, noise), strict=True)),
        "mask": drawn.masks,
        "reference": drawn.references,
    }
    turned = {**feeds, **{name: np.ascontiguousarray(np.asarray(feeds[name])[..., ::-1]) for name in names}}
    expected = runtime.session(rgb.SerializeToString()).run(None, feeds)
    for ours, theirs in zip(runtime.session(bgr.SerializeToString()).run(None, turned), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(BundleError, match="channels first"):
        wrap_gradient(core, preprocessing=Preprocessing("nhwc"), size=(9, 14))


class Layers(nn.Module):
    """Layers side by side between two smooth ones."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleDict(layers)
        self.heads = nn.ModuleDict({name: nn.LazyLinear(D) for name in layers})

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.first(x))
        return torch.cat([self.heads[name](layer(first).flatten(1)) for name, layer in self.layers.items()], 1)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 1], x[:, -1, :], x[:, 2, 1:-2], x[:, 0, -4:], x[:, 3, ::2]], 1)


LAYERS: dict[str, nn.Module] = {
    "padded": nn.Conv2d(4, 4, 3, padding=2),
    "strided": nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=1),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False),
    "depthwise": nn.Conv2d(4, 8, 5, groups=4, stride=2, padding=2),
    "wide_padding": nn.Conv2d(4, 4, 1, padding=1),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1, padding=1),
    "max": nn.MaxPool2d(3, stride=2, padding=1),
    "max_ceil": nn.MaxPool2d(2, stride=3, ceil_mode=True),
    "average": nn.AvgPool2d(3, stride=2, padding=1),
    "average_ceil": nn.AvgPool2d((2, 3), stride=3, padding=1, ceil_mode=True, count_include_pad=False),
    "relu6": nn.Sequential(nn.ReLU6(), nn.ReLU(inplace=True)),
    "swish": nn.Sequential(nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.GELU(), nn.LeakyReLU(0.1)),
    "cut": Cut(),
}


def test_each_kind_of_layer() -> None:
    """In float32, each by itself through its own head: a layer that is wrong shows, however the others drown it."""
    size = (10, 13)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = Layers(LAYERS)
        with torch.no_grad():
            module(torch.zeros(1, 3, *size))
    module.eval().requires_grad_(False)
    core = to_onnx(trace(module, size, "dot"))
    graph = runtime.session(wrap_gradient(core, preprocessing=PREPROCESSING, size=size).SerializeToString())
    drawn = draw(size, len(LAYERS))
    references = np.kron(np.eye(len(LAYERS)), np.linspace(-1, 1, D)[None]).astype(np.float32)
    drawn = drawn._replace(references=references)
    feeds = {"image": drawn.images, "mask": drawn.masks, "fill": drawn.fills, "reference": references}
    found = graph.run(None, {**feeds, "noise": np.zeros((1, 1, 1, 3), np.float32)})
    expected = by_torch(module, drawn, function="dot")
    for row, name in enumerate(LAYERS):
        assert relative(found[1][row], expected[1][row]) < 2e-5, name
        assert np.abs(expected[1][row]).max() > 0, name


SIZE = (16, 12)


class Spectral(nn.Module):
    """An operation that torch differentiates and ONNX has nothing for."""

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(x[:, 0, :D, :D])
        return values


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Noisy(nn.Module):
    """Another result every time: dropout that stays active in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        kept = nn.functional.dropout(x.flatten(1)[:, : 8 * D], 0.5, training=True)
        return kept.reshape(-1, D, 8).sum(2)


def checkpoint(path: Path, factory: str = "export.training.networks.small_network:network") -> Path:
    config = Config("similarity", factory, Resize(SIZE, "pad"), NORMALISATION, embedding=D)
    torch.manual_seed(0)
    save(path, config, build_network(config))
    return path


def test_an_exported_bundle_has_a_gradient(tmp_path: Path) -> None:
    said: list[str] = []
    path = checkpoint(tmp_path / "similarity.pt")
    built = export_command(ExportRequest(path, tmp_path / "bundle", precision="float16"), echo=said.append)
    assert bundles.read(str(tmp_path / "bundle")) == built
    assert built.gradient is not None
    assert "gradient" not in built.missing
    assert built.gradient.precision == "float32"  # of a half-precision bundle too
    assert 0 < (built.gradient.parity or 1) < 1e-4
    assert "gradient" in said[-1]
    content = (tmp_path / "bundle" / "gradient.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[3]).encode() not in content
    drawn = draw(SIZE, 3)
    at = GradientModel(built, tmp_path / "bundle", "cpu", 1, 4).at(drawn.images, drawn.fills)
    assert at(drawn.masks, drawn.references)[1].shape == (3, *SIZE)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Spectral(), "torch cannot .* aten._linalg_eigh"),
        (Undecided(), "torch cannot differentiate"),
        (Noisy(), "its gradient differs from torch's on random images, median relative error"),
    ],
)
def test_a_network_without_a_gradient_is_exported_with_the_reason(
    module: nn.Module, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path / "similarity.pt")
    said: list[str] = []
    monkeypatch.setattr(exporting, "trace_to_onnx", lambda _, *rest: trace_to_onnx(module, *rest))
    built = export_command(ExportRequest(path, tmp_path / "bundle"), echo=said.append)
    assert built.gradient is None
    assert re.search(reason, built.missing["gradient"])
    assert "\n" not in built.missing["gradient"]
    assert built.missing["gradient"] in said[-1]
    assert not (tmp_path / "bundle" / "gradient.onnx").exists()
    with pytest.raises(BundleError, match="this bundle has no gradient, which mask"):
        GradientModel(built, tmp_path / "bundle", "cpu", 1, 4)


def test_bundles_of_onnx_files_and_exports_without(tmp_path: Path) -> None:
    made = build(
        tmp_path / "onnx",
        BundleSpec(SimilarityGraph(networks.network(), Preprocessing()), Resize(networks.SIZE, "squash")),
    )
    assert (made.gradient, made.missing["gradient"]) == (None, NO_GRADIENT)
    path = checkpoint(tmp_path / "similarity.pt")
    built = export_command(ExportRequest(path, tmp_path / "without", gradient=False), echo=lambda _: None)
    assert "--no-gradient" in built.missing["gradient"]


def test_what_does_not_fit_and_what_fails(served: Any) -> None:
    built, folder = served("small")
    size = CASES["small"].size
    drawn = draw(size, 3)
    model = GradientModel(built, folder, "cpu", 1, 2)
    with pytest.raises(ValueError, match="expected an image"):
        model.at(drawn.images[:, 1:], drawn.fills)
    at = model.at(drawn.images, drawn.fills)
    with pytest.raises(ValueError, match="expected masks"):
        at(drawn.masks, drawn.references[:2])
    with pytest.raises(ValueError, match="3 images, 3 fills for 2 masks"):
        at(drawn.masks[:2], drawn.references[:2])
    with pytest.raises(ModelFailed, match="NaN"):
        at(drawn.masks * np.float32(np.nan), drawn.references)
    with pytest.raises(ModelFailed, match="the gradient network failed"):
        at(drawn.masks, drawn.references, np.zeros((1, 2, 2, 3), np.float32))
