"""``whymatch export``: checkpoints to a bundle, and the proof that the bundle computes what torch computes."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import bundle as bundling
from export.attributes import AttributeNetwork, ServedAttributes
from export.backbones import Normalisation
from export.checkpoint import Config, load
from export.data import Echo
from export.prefix import Preprocessing
from transforms import bundle as bundles
from transforms import runtime
from transforms.bundle import Bundle
from transforms.core.errors import BundleError, UsageError
from transforms.core.similarity import SimilarityFunction
from transforms.core.types import Float32

Precision = Literal["float32", "float16"]

# Largest difference of an embedding or a score. Half precision keeps 11 bits, and a deep network adds up its roundings.
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-4, "float16": 1e-2}
_PARITY_IMAGES = 6
_PARITY_MASKS = 6


def export_command(
    *,
    similarity: Path,
    attributes: Path | None = None,
    out: Path,
    phi: tuple[float, float] = (0.5, 0.5),
    similarity_function: SimilarityFunction = "cosine",
    precision: Precision = "float32",
    factories: Sequence[str] = (),
    echo: Echo = print,
) -> Bundle:
    """Writes the bundle of a similarity checkpoint and, if given, an attribute checkpoint to the new folder ``out``.

    The graphs of the finished bundle are compared with torch on random images under random masks and fills; the
    largest difference goes into the bundle's record. ``factories`` names the module:factory backbones that a checkpoint
    may run (``export.checkpoint.load``).
    Raises BundleError where a difference is above ``TOLERANCE``, and UsageError for unfit checkpoints.
    """
    if precision not in TOLERANCE:
        raise UsageError(f"precision is {precision!r}, expected {' or '.join(TOLERANCE)}")
    config, network = load(similarity, "similarity", factories=factories)
    attribute_config, attribute_network = None, None
    if attributes is not None:
        attribute_config, attribute_network = load(attributes, "attributes", factories=factories)
        if attribute_config.resize != config.resize:
            raise UsageError(
                f"both networks of a bundle see the same image: {similarity} was trained on {config.resize}, "
                f"{attributes} on {attribute_config.resize}. Train one of them again."
            )
    training: dict[str, Any] = {"similarity": {"backbone": config.backbone, **config.training}}
    extra: dict[str, Any] = {}
    if attribute_config is not None and attribute_network is not None:
        training["attributes"] = {"backbone": attribute_config.backbone, **attribute_config.training}
        served = ServedAttributes(cast(AttributeNetwork, attribute_network))
        extra = {
            "attributes": to_onnx(served, config.resize.size, ("scores", "maps"), precision),
            "attributes_preprocessing": _preprocessing(attribute_config.normalisation),
            "scores_output": "scores",
            "maps_output": "maps",
            "vocabulary": attribute_config.vocabulary,
        }
        attribute_network = served
    out.parent.mkdir(parents=True, exist_ok=True)
    # The bundle gets its name only when its graphs have proved to be torch's.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        staged = Path(folder) / "bundle"
        built = bundling.build(
            staged,
            similarity=to_onnx(network, config.resize.size, ("embedding",), precision),
            similarity_preprocessing=_preprocessing(config.normalisation),
            resize=config.resize,
            similarity_function=similarity_function,
            phi=phi,
            training=training,
            versions={"torch": torch.__version__},
            **extra,
        )
        built = _with_parity(built, staged, config, network, attribute_config, attribute_network, precision)
        bundles.write(built, staged)
        _move(staged, out)
    echo(_summary(built, out))
    return built


def to_onnx(
    network: nn.Module, size: tuple[int, int], outputs: Sequence[str], precision: Precision = "float32"
) -> onnx.ModelProto:
    """The ONNX graph ``image`` [batch, 3, H, W] to ``outputs`` of a network in evaluation mode, any batch size.

    With "float16" the weights, the input and the outputs are half precision. BundleError where torch cannot export it.
    """
    dtype = torch.float16 if precision == "float16" else torch.float32
    if precision == "float16":
        # Exported from a copy: the caller's network stays what parity is measured against.
        network = _half(network)
    # Two images, because torch takes a dimension of 1 for a constant.
    example = torch.zeros(2, 3, *size, dtype=dtype)
    try:
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise BundleError(
            f"torch cannot export the network: {reason[0] if reason else type(error).__name__}. "
            "A backbone must not branch on its values or on the batch size."
        ) from error
    if program is None:
        raise BundleError("torch exported nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def similarity_parity(
    graph: str | Path | bytes, network: nn.Module, normalisation: Normalisation, size: tuple[int, int], *, unit: bool
) -> float:
    """The largest difference of the served graph's embeddings from torch's, perturbation included.

    Torch computes what the bundle promises from its definition: pixels m·x + (1 − m)·fill, normalised, through the
    network, to unit length where ``unit``. One image under several masks, several images under one, a fill of one
    colour and one of a whole image. Embeddings that are not of unit length are compared relative to the largest value.
    """
    session = runtime.session(graph)
    rng = np.random.default_rng(0)
    images = _images(rng, size)
    masks = rng.random((_PARITY_MASKS, *size, 1), dtype=np.float32)
    masks[1] = rng.random((*size, 1)) < 0.5
    masks[2] = 1
    fills = (
        rng.uniform(0, 255, (1, 1, 1, 3)).astype(np.float32),
        _images(rng, size)[:1].astype(np.float32),
    )
    worst = 0.0
    for some_images, some_masks in ((images[:1], masks), (images, masks[1:2]), (images, masks[: len(images)])):
        for fill in fills:
            served = session.run(None, {"image": some_images, "mask": some_masks, "fill": fill})[0]
            pixels = some_masks * some_images.astype(np.float32) + (1 - some_masks) * fill
            expected = _torch(network, normalisation, pixels)[0]
            if unit:
                expected = functional.normalize(expected, dim=1)
            worst = max(worst, _difference(served, expected.numpy()))
    return worst


def attributes_parity(
    graph: str | Path | bytes, network: ServedAttributes, normalisation: Normalisation, size: tuple[int, int]
) -> float:
    """The largest difference of the served scores and activation maps from torch's."""
    images = _images(np.random.default_rng(1), size)
    served = runtime.session(graph).run(["scores", "maps"], {"image": images})
    expected = _torch(network, normalisation, images.astype(np.float32))
    return max(_difference(ours, theirs.numpy()) for ours, theirs in zip(served, expected, strict=True))


def _with_parity(
    built: Bundle,
    folder: Path,
    config: Config,
    network: nn.Module,
    attribute_config: Config | None,
    attribute_network: nn.Module | None,
    precision: Precision,
) -> Bundle:
    size = config.resize.size
    found = similarity_parity(
        folder / built.similarity.file,
        network,
        config.normalisation,
        size,
        unit=built.similarity_function == "cosine",
    )
    _check(found, "similarity", precision)
    built = replace(built, similarity=replace(built.similarity, parity=found))
    if built.attributes is not None and attribute_config is not None:
        found = attributes_parity(
            folder / built.attributes.file,
            cast(ServedAttributes, attribute_network),
            attribute_config.normalisation,
            size,
        )
        _check(found, "attribute", precision)
        built = replace(built, attributes=replace(built.attributes, parity=found))
    return built


def _check(found: float, name: str, precision: Precision) -> None:
    if not found <= TOLERANCE[precision]:
        raise BundleError(
            f"the {name} graph differs from torch by {found:.2e} on random images, more than "
            f"{TOLERANCE[precision]:.0e}: the bundle was not written. A backbone in which dropout or batch statistics "
            "stay active in evaluation mode gives such differences."
        )


def _images(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random uint8 [I, H, W, 3], half of them noise, half smooth: noise alone leaves deep features near zero."""
    noise = rng.integers(0, 256, (_PARITY_IMAGES, *size, 3), dtype=np.uint8)
    coarse = torch.from_numpy(rng.uniform(0, 255, (_PARITY_IMAGES // 2, 3, 5, 4)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=size, mode="bilinear").permute(0, 2, 3, 1).numpy()
    noise[: len(smooth)] = smooth.astype(np.uint8)
    return noise


def _torch(network: nn.Module, normalisation: Normalisation, pixels: Float32) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        output = network.eval()(normalisation.apply(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    return output if isinstance(output, tuple) else (output,)


def _difference(served: Float32, expected: Float32) -> float:
    if served.shape != expected.shape:
        raise BundleError(f"the graph gives {served.shape}, torch {expected.shape}")
    scale = max(1.0, float(np.abs(expected).max()))
    # A NaN must not pass for a small difference.
    difference = float(np.abs(served - expected).max()) / scale
    return difference if np.isfinite(difference) else float("inf")


def _half(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).half()


def _preprocessing(normalisation: Normalisation) -> Preprocessing:
    return Preprocessing(
        layout="nchw", channels="rgb", scale=normalisation.scale, mean=normalisation.mean, std=normalisation.std
    )


def _move(staged: Path, out: Path) -> None:
    try:
        os.rename(staged, out)  # onto an empty folder too
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name a new folder for the bundle") from None


def _summary(built: Bundle, out: Path) -> str:
    parity = f"parity with torch {built.similarity.parity:.1e}"
    if built.attributes is not None:
        parity += f", attributes {built.attributes.parity:.1e} ({len(built.vocabulary)} of them)"
    size = sum(path.stat().st_size for path in out.iterdir())
    return f"{out}: embedding of {built.embedding_size}, {size / 2**20:.2f} MiB, {parity}"
