"""A small vision transformer, trained from nothing: what whymatch meets where a network is not convolutional.

    whymatch train similarity --backbone benchmarks.support.networks:small_transformer --size 112x112 …

A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, with the normalisation before each part (eq. 2, 3).
Deviation: a convolutional stem in place of the linear patch embedding, as in T. Xiao et al., "Early Convolutions Help
Transformers See Better", NeurIPS 2021: 2,000 photographs are too few to learn patches from nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 16
"""Pixels a side of what one token stands for: the stem's four strides of 2."""


class Block(nn.Module):
    """Self-attention of ``heads`` heads and a two-layer perceptron, each added to its input: [B, T, D] -> [B, T, D]."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.out = nn.Linear(dimension, dimension)
        self.mlp = nn.Sequential(nn.Linear(dimension, 4 * dimension), nn.GELU(), nn.Linear(4 * dimension, dimension))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm_attention(x))
        mixed: Tensor = x + self.mlp(self.norm_mlp(x))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        # [B, T, 3 D] -> three of [B, heads, T, D / heads]
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return joined


class SmallTransformer(nn.Module):
    """A stem of four strided convolutions, learned positions, ``blocks`` blocks and a last norm: 1.04 million weights.

    Its positions are those of frames of ``size`` (H, W), whole multiples of 16; other frames are a ValueError.
    """

    def __init__(
        self, size: tuple[int, int] = (112, 112), *, dimension: int = 128, heads: int = 4, blocks: int = 4
    ) -> None:
        super().__init__()
        if size[0] % PATCH or size[1] % PATCH or min(size) < PATCH:
            raise ValueError(f"the frame's sides are multiples of {PATCH}, not {size[0]} x {size[1]}")
        self.grid = (size[0] // PATCH, size[1] // PATCH)
        self.stem = nn.Sequential(
            *_strided(3, dimension // 4),
            *_strided(dimension // 4, dimension // 2),
            *_strided(dimension // 2, dimension),
            nn.Conv2d(dimension, dimension, 3, stride=2, padding=1),
        )
        self.positions = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], dimension) * 0.02)
        self.blocks = nn.Sequential(*(Block(dimension, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dimension)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised images float32 [B, 3, H, W] to the tokens as a feature map [B, 128, H/16, W/16]."""
        embedded = self.stem(x)
        if embedded.shape[2:] != self.grid:
            raise ValueError(
                f"this transformer's positions are for {self.grid[0] * PATCH} x {self.grid[1] * PATCH} pixels, "
                f"not {x.shape[2]} x {x.shape[3]}"
            )
        tokens = embedded.flatten(2).transpose(1, 2) + self.positions
        features: Tensor = self.norm(self.blocks(tokens)).transpose(1, 2).unflatten(2, self.grid)
        return features


def small_transformer() -> SmallTransformer:
    """The transformer for frames of 112 x 112, randomly initialised."""
    return SmallTransformer()


def _strided(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
    ]
