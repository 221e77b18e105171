"""Random changes of training images, and how they moved, so that maps can move with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from transforms.core.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images. ``shift`` and ``zoom`` are shares of the frame, ``jitter`` of the colour.

    ``jitter`` is off by default: colours are attributes of garments.
    """

    flip: bool = True
    shift: float = 0.05
    zoom: float = 0.1
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "zoom", "jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"augmentation: {name} is a share in [0, 1), got {getattr(self, name)}")


def augment(pixels: Tensor, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Float32 pixels [B, 3, H, W], 0 to 255, each image changed by its own draw; what enters is the border's colour.

    The second value is how the images were moved, [B, 2, 3] as :func:`warp` takes it, or None where they were not.
    """
    count = len(pixels)

    def draw(reach: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * reach

    affine = None
    if how.flip or how.shift or how.zoom:
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if how.flip else torch.ones(count)
        scale = 1 + draw(how.zoom)
        affine = torch.zeros(count, 2, 3)
        affine[:, 0, 0], affine[:, 1, 1] = mirror * scale, scale
        affine[:, :, 2] = 2 * draw(how.shift, 2)  # grid coordinates span [-1, 1]
        pixels = warp(pixels, affine)
    if how.jitter:
        gain = (1 + draw(how.jitter, 3, 1, 1)).to(pixels.device)
        pixels = (pixels * gain).clamp(0, 255)
    return pixels, affine


def warp(planes: Tensor, affine: Tensor) -> Tensor:
    """Planes [B, C, H, W] moved by ``affine`` [B, 2, 3], from output to input coordinates in [-1, 1]; bilinear."""
    grid = functional.affine_grid(affine, list(planes.shape), align_corners=False).to(planes.device)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
