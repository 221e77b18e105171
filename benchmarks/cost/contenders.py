"""The contenders of ``benchmarks.cost.overhead``: each is set up once, then run and timed as often as asked.

All run EfficientNet-Lite0 with a linear head of fixed random weights, on the same image, masks and references. What
is done once a catalogue, an image or a process (reading, decoding, loading, drawing the masks, embedding the
references) is done in the set-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transforms.core.records import EmbeddedImage, Float32, Frame, Image, Pair
from transforms.core.saliency.rise import RiseMethod

SIZE = (112, 112)
DIMENSION = 128
ATTRIBUTES = 64
FILL = "auto"


@dataclass(frozen=True)
class Setting:
    """What is measured: N masks, forward passes at once, CPU threads, and where."""

    masks: int = 500
    batch: int = 16
    threads: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "float16"] = "float32"

    @property
    def method(self) -> RiseMethod:
        """RISE with these masks, one set of them held for all images, as the other contenders hold theirs."""
        return RiseMethod(masks=self.masks, banks=1)

    @property
    def passes(self) -> int:
        """Forward passes of one explanation: the masked ones and the unmasked one."""
        return self.masks + 1


def prepare(folder: Path, setting: Setting) -> None:
    """Writes what the contenders need into ``folder``: the network as ``network.onnx`` and a bundle around it."""
    import onnx

    from export.bundling import bundle_spec
    from export.bundling.build import build
    from export.bundling.from_torch import to_onnx
    from export.bundling.preprocessing import Preprocessing
    from export.training.networks.attribute_network import AttributeNetwork, ServedAttributes
    from export.training.networks.backbones import backbone
    from transforms.core.imaging.images import Resize

    network, preprocessing = _network(), Preprocessing(**asdict(_normalisation()))
    model = to_onnx(network, SIZE, ("embedding",), setting.precision)
    onnx.save(model, folder / "network.onnx")
    attributes = ServedAttributes(AttributeNetwork(backbone(_BACKBONE, None), size=SIZE, attributes=ATTRIBUTES))
    build(
        folder / "bundle",
        bundle_spec.BundleSpec(
            bundle_spec.SimilarityGraph(folder / "network.onnx", preprocessing),
            Resize(SIZE, "squash"),
            attributes=bundle_spec.AttributeGraph(
                to_onnx(attributes, SIZE, ("scores", "maps"), setting.precision),
                [f"attribute={index}" for index in range(ATTRIBUTES)],
                preprocessing=preprocessing,
                scores="scores",
                maps="maps",
            ),
        ),
    )


def floor(folder: Path, setting: Setting) -> Callable[[], None]:
    """(a) ONNX Runtime on the network's own file: N + 1 images, normalised and laid on the device beforehand."""
    import onnxruntime as ort

    from transforms.serving.runtime import session

    opened = session(folder / "network.onnx", setting.device, setting.threads)
    images = _normalised(np.random.default_rng(0).integers(0, 256, (setting.passes, *SIZE, 3), dtype=np.uint8))
    images = images.astype(setting.precision)
    batches = [
        ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images[start : start + setting.batch]), setting.device, 0)
        for start in range(0, setting.passes, setting.batch)
    ]
    del images
    binding, name = opened.io_binding(), opened.get_inputs()[0].name

    def run() -> None:
        for batch in batches:
            binding.bind_ortvalue_input(name, batch)
            binding.bind_output("embedding", "cpu")
            opened.run_with_iobinding(binding)
            binding.get_outputs()[0].numpy()

    return run


def whymatch(folder: Path, setting: Setting, references: int) -> Callable[[], None]:
    """(b) An explanation as a worker makes it, from the decoded query to the rows of its pairs."""
    from transforms.core.imaging.images import ImageLimits
    from transforms.core.saliency.explainer import Explainer
    from transforms.core.target import ExplanationTarget
    from transforms.explaining.explanation_rows import explanation_rows
    from transforms.explaining.prepared_image import PreparedImage
    from transforms.explaining.settings import ExplanationSettings
    from transforms.serving.load_image import ImageLoader, LoadedImage
    from transforms.serving.models import Models, Serving
    from transforms.storage import Access

    models = Models(Serving(str(folder / "bundle"), setting.device, setting.threads, setting.batch))
    explaining = ExplanationSettings((Explainer(setting.method, FILL),))
    load = ImageLoader(Access(()), ImageLimits(), models.bundle.resize)
    query = LoadedImage(_query(), Frame(SIZE, SIZE, (0.0, 0.0, float(SIZE[0]), float(SIZE[1]))), "0" * 64)
    scores = np.full(ATTRIBUTES, 0.5, np.float32)
    matched = [
        (
            ExplanationTarget(Pair(f"p{index}", "q", f"r{index}", "q.jpg", f"r{index}.jpg"), "query"),
            EmbeddedImage(f"r{index}.jpg", "0" * 64, *SIZE, embedding, scores),
        )
        for index, embedding in enumerate(_references(references))
    ]

    def run() -> None:
        prepared = PreparedImage.of(query, explaining, models, load)
        for _ in explanation_rows(prepared, matched):
            pass

    return run


PASSES_A_PAIR = 204
"""Of insertion and deletion: 101 masked images each, the query and the reference."""


def evaluation(folder: Path, setting: Setting, photographs: Path, pairs: int, all_pairs: int) -> Callable[[], None]:
    """Insertion and deletion of ``pairs`` of ``all_pairs`` pairs of photographs of a folder, other ones in every run.

    As a worker measures them, from the files of query and reference to the rows of the table. What a map looks like
    changes no cost: maps are drawn. What the audit's table would say of a pair is found in the set-up.
    """
    from transforms.core.imaging.images import ImageLimits
    from transforms.core.similarity import similarities
    from transforms.core.target import ExplanationTarget
    from transforms.evaluating.evaluate_image import measure
    from transforms.evaluating.measured_image import ImageReaders, Networks
    from transforms.evaluating.remake_maps import PassCounter
    from transforms.evaluating.settings import EvaluationSettings
    from transforms.explaining.settings import ExplanationSettings
    from transforms.serving.load_image import ImageLoader
    from transforms.serving.models import Models, Serving
    from transforms.storage import Access
    from transforms.tables.explained import Explained

    models = Models(Serving(str(folder / "bundle"), setting.device, setting.threads, setting.batch, attributes=False))
    readers = ImageReaders(ImageLoader(Access((str(photographs),)), ImageLimits(), models.bundle.resize))
    measuring = EvaluationSettings("cost", frozenset({"insertion", "deletion"}), ExplanationSettings(()))
    files = sorted(map(str, photographs.iterdir()))[: 2 * all_pairs]
    rng = np.random.default_rng(0)
    explained = []
    for number, (query, reference) in enumerate(zip(files[::2], files[1::2], strict=True)):
        rows = models.similarity.embed(np.stack([readers.load(one).pixels for one in (query, reference)]))
        similarity = float(similarities(rows[1:], rows[:1], models.bundle.similarity_function)[0, 0])
        target = ExplanationTarget(Pair(f"p{number}", query, reference, query, reference), "query")
        explained.append(Explained(target, "rise", "e", similarity, SIZE, rng.random((28, 28), np.float32)))
    done = 0

    def run() -> None:
        nonlocal done
        for _ in range(pairs):
            one, passes = explained[done % len(explained)], PassCounter()
            measured = list(measure(one.target.pair.query, [one], Networks(models), measuring, readers, passes))
            assert [row["value"] is not None for row in measured] == [True] * 4
            assert passes.count == PASSES_A_PAIR
            done += 1

    return run


def torch_loop(folder: Path, setting: Setting, references: int) -> Callable[[], None]:
    """(c) RISE as written by hand: masks held, masked batches through the network, cosines, one matrix product."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(setting.threads)
    dtype = torch.float16 if setting.precision == "float16" else torch.float32
    # channels last is the faster order for this network, by a sixth on a CPU
    to: dict[str, Any] = {"device": setting.device, "dtype": dtype, "memory_format": torch.channels_last}
    network = _network().to(**to)
    normalisation = _normalisation()
    # at half precision the masks are float16 for the network, and float32 for the sum over N of them
    masks = torch.from_numpy(setting.method.design(SIZE, 0).masks(0, setting.masks)).to(setting.device)
    image = normalisation.apply(torch.from_numpy(_query().transpose(2, 0, 1)[None].copy())).to(**to)
    fill = normalisation.apply(torch.full((1, 3, 1, 1), 255.0)).to(**to)
    unit = torch.from_numpy(_references(references)).to(setting.device)

    def run() -> None:
        with torch.inference_mode():
            base = functional.normalize(network(image).float(), dim=1) @ unit.T
            scores = []
            for batch in torch.split(masks, setting.batch):
                mask = batch[:, None].to(dtype)
                embedding = network(image * mask + fill * (1 - mask)).float()
                scores.append(functional.normalize(embedding, dim=1) @ unit.T)
            f = torch.cat(scores).T
            maps = (f - f.mean(dim=1, keepdim=True)) @ masks.flatten(1) / masks.flatten(1).sum(dim=0)
            maps.cpu(), base.cpu()

    return run


_BACKBONE = "benchmarks.support.efficientnet_lite:efficientnet_lite0"


def _network() -> Any:
    import torch

    from export.training.networks.backbones import backbone
    from export.training.networks.similarity_network import EmbeddingNetwork

    torch.manual_seed(0)  # the head's weights are random, and the same for all contenders
    return EmbeddingNetwork(backbone(_BACKBONE, None), size=SIZE, embedding=DIMENSION).eval()


def _normalisation() -> Any:
    from export.training.networks.backbones import Normalisation

    return Normalisation(scale=1.0, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


def _normalised(images: Image) -> Float32:
    """float32 [I, 3, H, W] as EfficientNet-Lite takes it, without importing torch."""
    normalised: Float32 = (images.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127)) / np.float32(128)
    return normalised


def _query() -> Image:
    return np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def _references(count: int) -> Float32:
    """Unit vectors [R, D]."""
    drawn = np.random.default_rng(2).normal(size=(count, DIMENSION))
    unit: Float32 = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit
