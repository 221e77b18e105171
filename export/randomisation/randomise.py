"""Copies of a similarity network with random blocks, for the model randomisation test of Adebayo et al., "Sanity Checks
for Saliency Maps" (NeurIPS 2018, arXiv 1810.03292, section 3.1). onnx and numpy only, no torch.

Weights are N(0, 2 / fan_in), all else is what a fresh network has (``export.graphs.parameters``).

Why He's deviation and not each tensor's own. Without biases a network of ReLUs is positively homogeneous: the scale of
its weights does not change the direction of its embeddings (equal to 6 digits on the demo's network). All 32 blocks of
EfficientNet-Lite0 random, five photographs had cosines of 0.977 to 0.988 with each other in three draws (trained: -0.27
to 0.19), no value between blocks was above 37, and at most 20 % of the activations stood at the 6 of a ReLU6; with each
tensor's own deviation the cosines were the same, and 29 % stood there. ResNet-18 gave 0.992 to 0.998 and values up to
189, a transformer of four layers 0.886 to 0.991 and 25. Cosines near 1 are what random networks without biases give:
their activations share a positive mean. Each residual connection that has lost its normalisation doubles the variance,
which leaves half precision after some 25 of them: ``export.randomisation.cascade`` runs every copy, and refuses what is
not finite, or the same for all images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import onnx

from export.graphs.blocks import Block
from export.graphs.parameters import plain, put, stored
from transforms.core.errors import BundleError
from transforms.core.records import Float64


def randomised(model: onnx.ModelProto, some: Collection[Block], seed: int) -> onnx.ModelProto:
    """A copy of ``model`` in which ``some`` of its blocks are random; local functions are inlined.

    A tensor's values depend on the seed, its name and its shape alone, not on what else is random. BundleError where
    ``some`` are blocks of another network.
    """
    made = plain(model)
    tensors = stored(made)
    for block in some:
        for name in (*block.weights, *(name for name, _ in block.resets)):
            if name not in tensors:
                raise BundleError(f"block {block.name!r} is of another network: this one stores no tensor {name!r}")
        for name, deviation in zip(block.weights, block.deviations, strict=True):
            put(tensors[name], _draw(name, tuple(tensors[name].dims), deviation, seed))
        for name, value in block.resets:
            put(tensors[name], np.full(tuple(tensors[name].dims), value))
    return made


def _draw(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> Float64:
    """Values of ``shape`` that depend on the arguments alone."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{shape}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).normal(0, deviation, shape)
