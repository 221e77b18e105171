"""One network, many ways into a bundle, the same saliency maps; and the map of a cropped image lies where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest

from export.bundling.from_onnx import BundleRequest, bundle_command
from export.bundling.preprocessing_settings import PreprocessingFlags
from tests.support.models.networks import network
from transforms.core.imaging import images
from transforms.core.imaging.images import Resize
from transforms.core.records import EmbeddedImage, Frame, Pair
from transforms.core.saliency.contract import Method
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.storage import Access

METHODS = [RiseMethod(masks=60, cells=4), SlidingWindowMethod(window=5, stride=2)]
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two images of 60 x 80 pixels, with structure."""
    rng = np.random.default_rng(3)
    for name in ("query.png", "reference.png"):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        PIL.Image.fromarray(small).resize((80, 60), PIL.Image.Resampling.BICUBIC).save(tmp_path / name)
    return tmp_path


def saliency(bundle: Path, photographs: Path, method: Method) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """The stored map, at the frame's own size, and the row of the pair, as a worker makes them."""
    models = Models(Serving(str(bundle)))
    load = ImageLoader(Access(roots=(str(photographs),)), images.ImageLimits(), models.bundle.resize)
    query, reference = (load(str(photographs / name)) for name in ("query.png", "reference.png"))
    explaining = ExplanationSettings((Explainer(method, "#40a060"),), map_size=models.bundle.resize.size)
    prepared = PreparedImage.of(query, explaining, models, load)
    embedding = models.similarity.embed(reference.pixels[None])[0]
    embedded = EmbeddedImage("reference.png", reference.sha256, *reference.frame.original, embedding)
    pair = Pair("p", "q", "r", "query.png", "reference.png")
    (row,) = explanation_rows(prepared, [(ExplanationTarget(pair, "query"), embedded)])
    assert isinstance(row, dict)
    return row["map"].reshape(row["map_height"], row["map_width"]), row


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_layouts_and_channel_orders_give_the_same_maps(
    photographs: Path, resize: Any, method: Method, tmp_path: Path
) -> None:
    maps = []
    for layout in ("nchw", "nhwc"):
        for channels in ("rgb", "bgr"):
            file = tmp_path / f"{layout}-{channels}.onnx"
            onnx.save(network(layout=layout, channels=channels), file)
            step = 1 if channels == "rgb" else -1
            out = tmp_path / f"bundle-{layout}-{channels}"
            flags = PreprocessingFlags(
                layout, channels, 1 / 255, MEAN[::step], STD[::step], resize=resize, interpolation="bilinear"  # type: ignore[arg-type]
            )  # fmt: skip
            bundle_command(BundleRequest(file, out, preprocessing=flags), echo=lambda _: None)
            maps.append(saliency(out, photographs, method)[0])
    assert maps[0].shape == (12, 16)
    assert np.ptp(maps[0]) > 1e-3
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_torch_and_its_own_onnx_files_give_the_same_maps(photographs: Path, method: Method, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra export")
    from export.bundling.from_torch import ExportRequest, export_command, to_onnx
    from export.training.networks.backbones import Normalisation
    from export.training.networks.checkpoint import Config, build_network, save

    size = (24, 40)
    torch.manual_seed(0)
    config = Config(
        "similarity",
        "export.training.networks.small_network:network",
        Resize(size, "crop"),
        Normalisation(1 / 255, MEAN, STD),
        embedding=8,
    )
    trained = build_network(config).eval()
    save(tmp_path / "similarity.pt", config, trained)
    export_command(ExportRequest(tmp_path / "similarity.pt", tmp_path / "from-torch"), echo=lambda _: None)

    class ChannelsLastBgr(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained

        def forward(self, pixels: Any) -> Any:
            return self.inner(pixels.permute(0, 3, 1, 2).flip(1))

    onnx.save(to_onnx(trained, size, ("embedding",)), tmp_path / "nchw.onnx")
    torch.onnx.export(
        ChannelsLastBgr().eval(), (torch.zeros(2, *size, 3),), tmp_path / "nhwc.onnx", dynamo=True, verbose=False,
        input_names=["image"], output_names=["embedding"], dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    expected, row = saliency(tmp_path / "from-torch", photographs, method)
    assert np.ptp(expected) > 1e-4
    assert (row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"]) == (6, 0, 48, 80)
    for layout, channels, step in (("nchw", "rgb", 1), ("nhwc", "bgr", -1)):
        out = tmp_path / f"from-{layout}"
        flags = PreprocessingFlags(
            layout, channels, 1 / 255, MEAN[::step], STD[::step], resize="crop", interpolation="bilinear"  # type: ignore[arg-type]
        )  # fmt: skip
        bundle_command(BundleRequest(tmp_path / f"{layout}.onnx", out, preprocessing=flags), echo=lambda _: None)
        np.testing.assert_allclose(saliency(out, photographs, method)[0], expected, atol=1e-5)


def test_a_cropped_image_is_explained_where_its_content_lies(tmp_path: Path) -> None:
    """A query that matches its reference by one red patch: the peak, mapped back, lies on the patch."""
    ground = np.full((60, 80, 3), 120, np.uint8)
    query = ground.copy()
    query[34:46, 44:56] = (255, 0, 0)
    red = np.full((60, 80, 3), (255, 0, 0), np.uint8)
    for name, image in (("query.png", query), ("reference.png", red)):
        PIL.Image.fromarray(image).save(tmp_path / name)
    file = tmp_path / "network.onnx"
    onnx.save(_mean_colour(), file)
    flags = PreprocessingFlags("nchw", "rgb", 1 / 255, (0.47, 0.47, 0.47), (1, 1, 1), (12, 12), "crop", "bilinear")
    bundle_command(BundleRequest(file, tmp_path / "bundle", preprocessing=flags), echo=lambda _: None)
    found, row = saliency(tmp_path / "bundle", tmp_path, SlidingWindowMethod(window=2, stride=1))
    frame = Frame((60, 80), (12, 12), (row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"]))
    assert frame.box == (0, 10, 60, 60)
    original = images.restore(found, frame)
    peak = np.unravel_index(np.nanargmax(original), original.shape)
    assert 34 <= peak[0] < 46
    assert 44 <= peak[1] < 56
    assert np.isnan(original[:, :10]).all()
    assert np.isnan(original[:, 70:]).all()


def _mean_colour() -> onnx.ModelProto:
    """A network whose embedding is the image's mean colour, after the normalisation."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["output"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
