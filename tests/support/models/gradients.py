"""Gradients of small networks: torch ones, differentiated by torch, and one in numpy that is solved by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from transforms.core.records import Float32, Float64

Function = Literal["cosine", "dot", "euclidean"]
NEUTRAL = 127.5
"""The colour that :func:`normalised` maps to 0."""


def normalised(pixels: Tensor) -> Tensor:
    """Pixels [..., H, W, 3], 0 to 255, as a network's input [..., 3, H, W]."""
    channels_first: Tensor = ((pixels - NEUTRAL) / 60).movedim(-1, -3)
    return channels_first


def similarity(function: Function, embeddings: Tensor, references: Tensor) -> Tensor:
    """Similarity [...] of embeddings and references [..., D]; embeddings are unit already for the cosine."""
    if function == "euclidean":
        distance: Tensor = torch.linalg.vector_norm(embeddings - references, dim=-1)
        return -distance
    return (embeddings * references).sum(-1)


def network(seed: int = 0, *, embedding: int = 5, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A small convolutional network [B, 3, H, W] -> [B, embedding] whose kinks a path of masks crosses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.Flatten(),
            nn.Linear(48, embedding),
        )
    return layers.to(dtype).eval().requires_grad_(False)


def photograph(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A random image uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class TorchGradient:
    """The Gradient of a torch network. ``images`` [I, H, W, 3] and ``fills`` [F, h, w, 3], I and F being 1 or B."""

    images: NDArray[Any]
    fills: NDArray[Any]
    network: Callable[[Tensor], Tensor]
    function: Function = "cosine"
    dtype: torch.dtype = torch.float64

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    def embed(self, mask: Tensor, image: Tensor, fill: Tensor, noise: Tensor) -> Tensor:
        """Embeddings [..., D] of ``image`` [..., H, W, 3] under ``mask`` [..., H, W], as the bundle gives them."""
        x = normalised(fill + mask[..., None] * (image - fill)) + noise.movedim(-1, -3)
        embedding = self.network(x)
        return F.normalize(embedding, dim=-1) if self.function == "cosine" else embedding

    def embeddings(self) -> Float32:
        """Embeddings float32 [I, D] of the images as they are."""
        masks = np.ones(self.images.shape[:3], np.float32)
        images, fills = self._tensors(len(masks))
        return np.asarray(self.embed(self._tensor(masks), images, fills, torch.zeros(1, 1, 1, 3)), np.float32)

    def similarity(self, mask: Tensor, image: Tensor, fill: Tensor, noise: Tensor, reference: Tensor) -> Any:
        """The similarity of one masked image, and its embedding [D]."""
        embedding = self.embed(mask[None], image[None], fill[None], noise[None])[0]
        return similarity(self.function, embedding, reference), embedding

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        added = self._tensor(np.zeros((1, 1, 1, 3)) if noise is None else noise)[0]
        slopes = torch.func.vmap(torch.func.grad_and_value(self.similarity, has_aux=True), in_dims=(0, 0, 0, None, 0))
        images, fills = self._tensors(len(masks))
        slope, (value, embedding) = slopes(self._tensor(masks), images, fills, added, self._tensor(references))
        return (np.asarray(value, np.float32), np.asarray(slope, np.float32), np.asarray(embedding, np.float32))

    def _tensors(self, rows: int) -> tuple[Tensor, Tensor]:
        images, fills = self._tensor(self.images), self._tensor(self.fills)
        return images.expand(rows, *images.shape[1:]), fills.expand(rows, *fills.shape[1:])

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype)


def torch_gradient(
    size: tuple[int, int] = (13, 22),
    *,
    fill: float | NDArray[Any] = 200.0,
    function: Function = "cosine",
    dtype: torch.dtype = torch.float64,
    images: int = 1,
    seed: int = 0,
) -> TorchGradient:
    """The Gradient of :func:`network` for random photographs and a ``fill``: a grey, a colour or an image."""
    fills = np.broadcast_to(np.asarray(fill, np.float64), (1, 1, 1, 3)) if np.ndim(fill) < 2 else np.asarray(fill)
    photographs = np.stack([photograph(size, seed + at) for at in range(images)])
    return TorchGradient(photographs, fills, network(dtype=dtype), function, dtype)


def unit(rows: int, columns: int, seed: int = 0) -> Float32:
    """Random unit vectors float32 [rows, columns]."""
    drawn = np.random.default_rng(seed).normal(size=(rows, columns))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


@dataclass
class HandGradient:
    """Embedding_d = sum over pixels and channels of weights[d] x, squared if ``curved``; similarity is the dot product.

    ``image``, ``fill`` and ``weights[d]`` are [H, W, 3]; x is in units of pixels, and so is the noise. Rows are
    computed one by one, so no bit of one depends on another. ``batches`` and ``noises`` hold what was asked for.
    """

    image: Float64
    fill: Float64
    weights: Float64
    curved: bool = False
    batches: list[int] = field(default_factory=list)
    noises: list[Float32 | None] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        assert masks.dtype == np.float32
        assert masks.shape == (len(references), *self.size)
        assert masks.min() >= 0
        assert masks.max() <= 1
        self.batches.append(len(masks))
        self.noises.append(noise)
        rows = [self._row(mask, reference, noise) for mask, reference in zip(masks, references, strict=True)]
        value, slope, embedding = zip(*rows, strict=True)
        return np.asarray(value, np.float32), np.asarray(slope, np.float32), np.asarray(embedding, np.float32)

    def _row(self, mask: Float32, reference: Float32, noise: Float32 | None) -> tuple[float, Float64, Float64]:
        change = self.image - self.fill
        x = self.fill + mask[..., None] * change + (0 if noise is None else noise[0])
        linear = (self.weights * x).sum(axis=(1, 2, 3))
        embedding = linear**2 if self.curved else linear
        towards = reference * (2 * linear if self.curved else np.ones(len(linear)))
        slope = ((towards[:, None, None, None] * self.weights).sum(axis=0) * change).sum(axis=-1)
        return float((embedding * reference).sum()), slope, embedding


def hand_gradient(size: tuple[int, int], *, curved: bool = True, seed: int = 0) -> HandGradient:
    """A HandGradient of random pixels and weights, for embeddings of 3 values of about 1."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, *size, 3)) / np.sqrt(size[0] * size[1] * 3)
    return HandGradient(rng.normal(size=(*size, 3)), rng.normal(size=(*size, 3)), weights, curved)
