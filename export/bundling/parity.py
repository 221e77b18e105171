"""The proof that a bundle's graphs compute what torch computes: the largest difference on random images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.bundling.gradient import similarity
from export.training.networks.attribute_network import ServedAttributes
from export.training.networks.backbones import Normalisation
from transforms.core.errors import BundleError
from transforms.core.records import Float32
from transforms.serving import runtime
from transforms.serving.bundle import Bundle
from transforms.serving.gradient_model import GradientModel

_IMAGES = 6
_MASKS = 6
_GRADIENTS = 8


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
    masks = rng.random((_MASKS, *size, 1), dtype=np.float32)
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


def gradient_parity(
    built: Bundle, folder: Path, network: nn.Module, normalisation: Normalisation
) -> tuple[float, float]:
    """Median relative error of the served gradient against torch.autograd's, and the smallest correlation of a row.

    As many images under masks, fills and references of their own as ``_GRADIENTS``, of a bundle with conditions under
    one condition after the other. Where torch's gradient of a row is 0 throughout, so must be the served one. Values
    where torch's is 0 count by their size against the row's largest.
    """
    size = built.resize.size
    rng = np.random.default_rng(2)
    images = np.concatenate([_images(rng, size) for _ in range(-(-_GRADIENTS // _IMAGES))])[:_GRADIENTS]
    masks = rng.random((_GRADIENTS, *size), dtype=np.float32)
    fills = rng.uniform(0, 255, (_GRADIENTS, 1, 1, 3)).astype(np.float32)
    unit = built.similarity_function == "cosine"
    references = _torch(network, normalisation, _images(rng, size)[::-1].astype(np.float32))[0].clone()
    references = references[torch.arange(_GRADIENTS) % len(references)]
    if unit:
        references = functional.normalize(references, dim=1)
    conditions: list[Tensor | None] = [torch.tensor(mask) for mask in built.conditions.values()]
    conditions = conditions[:_GRADIENTS] or [None]
    model = GradientModel(built, folder, "cpu", 1, _GRADIENTS)
    served, expected = np.empty_like(masks), np.empty_like(masks)
    for number, condition in enumerate(conditions):
        rows = slice(number, None, len(conditions))
        if condition is not None:
            compared = references[rows] * condition
            references[rows] = functional.normalize(compared, dim=1) if unit else compared
        mask = None if condition is None else condition.numpy()
        served[rows] = model.at(images[rows], fills[rows], mask)(masks[rows], references[rows].numpy())[1]
    given = torch.from_numpy(masks).requires_grad_(True)
    for row in range(_GRADIENTS):
        part = slice(row, row + 1)
        condition = conditions[row % len(conditions)]
        pixels = given[part, ..., None] * torch.from_numpy(images[part].astype(np.float32) - fills[part])
        x = normalisation.apply((pixels + torch.from_numpy(fills[part])).permute(0, 3, 1, 2))
        scores, _ = similarity(network.eval()(x), references[part], built.similarity_function, condition)
        expected[row] = torch.autograd.grad(scores.sum(), given)[0][row].numpy()
    errors = np.abs(served - expected)
    largest = np.abs(expected).max(axis=(1, 2), keepdims=True)
    against = np.where(expected == 0, np.where(largest == 0, 1, largest), np.abs(expected))
    correlation = min(_correlation(ours, theirs) for ours, theirs in zip(served, expected, strict=True))
    return float(np.median(errors / against)), correlation


def _correlation(ours: Float32, theirs: Float32) -> float:
    """Pearson's; of two constant maps 1 where they are equal, else 0."""
    first, second = (values.astype(np.float64).ravel() - values.mean(dtype=np.float64) for values in (ours, theirs))
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / length if length else float(np.array_equal(ours, theirs))


def _images(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random uint8 [I, H, W, 3], half of them noise, half smooth: noise alone leaves deep features near zero."""
    noise = rng.integers(0, 256, (_IMAGES, *size, 3), dtype=np.uint8)
    coarse = torch.from_numpy(rng.uniform(0, 255, (_IMAGES // 2, 3, 5, 4)).astype(np.float32))
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
