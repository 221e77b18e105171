"""The gradient graphs of randomised networks: that of torch, that of the similarity graph, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from export.bundling.from_torch import to_onnx
from export.bundling.gradient import trace_to_onnx
from export.bundling.preprocessing import Preprocessing
from export.randomisation.cascade import RandomisedBundle, cascade
from export.randomisation.gradient import Trace, Untraced, randomised_gradient
from tests.support.models.assembled import Array, assembled, embeddings, node, noise, values
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import SIZE, D
from transforms.core.imaging.images import Resize
from transforms.serving import bundle
from transforms.serving.runtime import session

DEMO = Path(__file__).parents[3] / "pipeline" / "demo" / "bundles"
H, W = SIZE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandomisedBundle, ...]:
    return cascade(DEMO / "category", tmp_path_factory.mktemp("demo") / "out", stages=3, seed=0)


@pytest.mark.usefixtures("one_torch_thread")
def test_the_gradient_of_a_random_stage_is_that_of_torch(demo: tuple[RandomisedBundle, ...]) -> None:
    for stage in demo:
        described = bundle.read(str(stage.folder))
        assert described.gradient is not None
        assert described.missing == {}
        height, width = described.resize.size
        rng = np.random.default_rng(21)
        image = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        fill = rng.uniform(0, 255, (1, 1, 1, 3)).astype(np.float32)
        masks = rng.random((2, height, width), dtype=np.float32)
        references = embeddings(stage.folder, rows=2)
        graph = session(stage.folder / described.gradient.file)
        feeds = {"image": image, "mask": masks, "fill": fill, "noise": np.zeros((1, 1, 1, 3), np.float32)}
        similarity, gradient, embedding = graph.run(None, {**feeds, "reference": references})
        served_graph = session(stage.folder / described.similarity.file)
        expected = served_graph.run(["embedding"], {"image": image, "mask": masks[..., None], "fill": fill})[0]
        np.testing.assert_allclose(embedding, expected, atol=2e-6)
        np.testing.assert_allclose(similarity, (expected * references).sum(1), atol=2e-6)
        slopes = torch_slopes(
            described, values(onnx.load(stage.folder / described.similarity.file)), image, fill, masks, references
        )
        np.testing.assert_allclose(gradient, slopes, atol=2e-4 * np.abs(slopes).max())


def torch_slopes(
    described: bundle.Bundle, stored: dict[str, Array], image: Array, fill: Array, masks: Array, references: Array
) -> Array:
    """d similarity / d mask [B,H,W] of the demo's network with the weights ``stored``, in double precision."""
    weights = {name: torch.tensor(value).double() for name, value in stored.items() if value.dtype == np.float32}
    used = Preprocessing(
        **{key: described.similarity.preprocessing[key] for key in ("layout", "channels", "scale", "mean", "std")}
    )
    mean, std = torch.tensor(used.mean).double(), torch.tensor(used.std).double()
    mask = torch.tensor(masks).double().requires_grad_()
    pixels = torch.tensor(fill).double() + mask[..., None] * torch.tensor(image - fill.astype(np.float64))
    x = ((pixels * used.scale - mean) / std).permute(0, 3, 1, 2)
    for layer, stride in ((0, 2), (3, 2), (6, 1), (9, 2), (12, 1)):
        name = f"backbone.layers.{layer}.weight"
        x = F.relu(F.conv2d(x, weights[name], weights[f"{name}_bias"], stride=stride, padding=1))
    embedding = F.normalize(F.linear(x.mean((2, 3)), weights["head.weight"], weights["head.bias"]))
    (embedding * torch.tensor(references).double()).sum().backward()  # type: ignore[no-untyped-call]
    assert mask.grad is not None
    return mask.grad.numpy()


class Inverted(nn.Module):
    """Normalised convolutions whose ReLU6 knows scale, one of them depthwise, one with a bias, one skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU6())
        self.inner = nn.Sequential(
            nn.Conv2d(6, 10, 1, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU6(),
            nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU6(),
            nn.Conv2d(10, 6, 1, bias=False),
            nn.BatchNorm2d(6),
        )
        self.last = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU6())
        self.head = nn.Linear(8, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        embedding: Tensor = self.head(self.last(x + self.inner(x)).mean((2, 3)))
        return embedding


@pytest.mark.usefixtures("one_torch_thread")
def test_a_gradient_with_normalisations_of_its_own_is_that_of_the_folded_network(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Inverted()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                ends = ((layer.weight, 0.5, 4), (layer.bias, -1, 1), (layer.running_mean, -1, 1))
                for tensor, low, high in (*ends, (layer.running_var, 0.2, 3)):
                    assert tensor is not None
                    nn.init.uniform_(tensor, low, high)
    module.eval()
    made = tmp_path / "made"
    build(
        made,
        BundleSpec(
            SimilarityGraph(to_onnx(module, SIZE, ("embedding",)), PREPROCESSING),
            Resize(SIZE, "squash"),
            gradient=trace_to_onnx(module, SIZE, "cosine"),
        ),
    )
    stages = cascade(made, tmp_path / "out", stages=None, seed=0)
    assert [stage.block for stage in stages] == ["head", "last.0", "inner.6", "first.0"]
    for stage in stages:
        described = bundle.read(str(stage.folder))
        assert described.missing == {}
        assert described.gradient is not None
        rng = np.random.default_rng(5)
        image = rng.integers(0, 256, (1, H, W, 3), dtype=np.uint8)
        mask, move = rng.random((2, 1, H, W), dtype=np.float32)
        black = np.zeros((1, 1, 1, 3), np.float32)
        feeds = {"image": image, "fill": black}
        reference = embeddings(stage.folder, rows=1)
        graph = session(stage.folder / described.gradient.file)
        rows = described.gradient.batch or 1
        repeated = {"mask": np.repeat(mask, rows, 0), "reference": np.repeat(reference, rows, 0), "noise": black}
        _, slope, found = graph.run(None, {**feeds, **repeated, "image": np.repeat(image, rows, 0)})
        similarity = session(stage.folder / described.similarity.file)
        step = 1e-3
        masks = np.concatenate([mask, mask + step * move, mask - step * move])[..., None]
        at, ahead, behind = similarity.run(["embedding"], {**feeds, "mask": masks})[0]
        np.testing.assert_allclose(found[0], at, atol=1e-5)
        expected = float((ahead - behind) @ reference[0]) / (2 * step)
        largest = float(np.abs(slope[0] * move).sum())
        assert float((slope[0] * move).sum()) == pytest.approx(expected, abs=3e-3 * largest)


@pytest.mark.parametrize(
    ("tensor", "factor", "reason"),
    [
        ("_param_constant9", 1.01, "could not be traced to the similarity graph"),
        ("unsqueeze_5", 1.5, "could not be traced to the similarity graph"),
        ("scalar_tensor_default_1", 0.5, "difference quotients"),
    ],
)
def test_a_gradient_that_is_not_the_networks_is_left_out(
    tmp_path: Path, tensor: str, factor: float, reason: str
) -> None:
    described = bundle.read(str(DEMO / "category"))
    assert described.gradient is not None
    assert described.projection is not None
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("similarity.onnx", "projection.onnx"):
        (odd / name).write_bytes((DEMO / "category" / name).read_bytes())
    graph = onnx.load(DEMO / "category" / "gradient.onnx")
    target = next(stored for stored in graph.graph.initializer if stored.name == tensor)
    value = numpy_helper.to_array(target).copy()
    value.flat[0] *= factor
    target.CopyFrom(numpy_helper.from_array(value, tensor))
    onnx.save(graph, odd / "gradient.onnx")
    files = {"gradient.onnx": bundle.file_sha256(odd / "gradient.onnx")}
    gradient = replace(described.gradient, files=files)
    bundle.write(replace(described, gradient=gradient, attributes=None, vocabulary=(), priors=None), odd)
    for stage in cascade(odd, tmp_path / "out", stages=3, seed=0):
        made = bundle.read(str(stage.folder))
        assert made.gradient is None
        assert reason in made.missing["gradient"]
        assert made.missing["gradient"].startswith("the randomised copy of this bundle has no gradient graph, since ")
        assert not (stage.folder / "gradient.onnx").exists()


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 5))
def test_a_rearranged_tensor_is_found_and_rearranged_alike(
    groups: int, rows: int, columns: int, mirrored: bool, seed: int
) -> None:
    """The weights of a transposed convolution, as ``export.bundling.gradient`` turns them, against torch's own
    operations.
    """
    rng = np.random.default_rng(seed)
    before, after = (rng.normal(size=(groups * rows, columns, 2, 3)).astype(np.float32) for _ in range(2))

    def turned(value: Array) -> Array:
        weight = torch.tensor(value)
        weight = weight.flip([2, 3]) if mirrored else weight
        parts = weight.reshape(groups, rows, columns, 2, 3).transpose(1, 2)
        return parts.reshape(groups * columns, rows, 2, 3).numpy()

    trace = Trace({"turned": turned(before)}, [(before, after)], [groups])
    np.testing.assert_array_equal(trace.found["turned"], turned(after))


def test_a_tensor_of_two_origins_is_not_guessed() -> None:
    same = noise(4, 2)
    with pytest.raises(Untraced, match="either of two"):
        Trace({"turned": same.T.copy()}, [(same, noise(4, 2, seed=1)), (same, noise(4, 2, seed=2))], [])


@pytest.mark.parametrize("view", [None, "Identity", "Transpose"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_factor_in_front_of_a_layer_and_its_weights_fold_into_one_weight(view: str | None, turned: bool) -> None:
    """The backward pass of a dense layer of 4 to 6 behind which stood a normalisation of ``slope``."""
    weight, slope, fresh = noise(6, 4), np.abs(noise(1, 6)) + 1, noise(6, 4, seed=1)
    shown = {None: "weight", "Identity": "same", "Transpose": "turned"}[view]
    nodes = [node("Mul", ["x", "slope"], ["scaled"])]
    if view is not None:
        nodes.append(node(view, ["weight"], [shown]))
    nodes.append(node("Gemm", ["scaled", shown], ["y"], transB=int(view == "Transpose")))
    gradient = assembled(nodes, {"weight": weight, "slope": slope})

    def folded(value: Array) -> onnx.ModelProto:
        return assembled([node("Gemm", ["x", "w"], ["y"])], {"w": value.T.copy() if turned else value})

    made = values(randomised_gradient(gradient, folded(weight * slope.T), folded(fresh)))
    np.testing.assert_array_equal(made["weight"], fresh)
    np.testing.assert_array_equal(made["slope"], np.ones((1, 6)))
    trained = values(randomised_gradient(gradient, folded(weight * slope.T), folded(weight * slope.T)))
    np.testing.assert_array_equal(trained["weight"], weight)
    np.testing.assert_array_equal(trained["slope"], slope)
