"""The losses of an attribute network in SANE: that of its attributes, and its supervision by saliency maps.

B. Plummer et al., "Why do These Match? Explaining the Behavior of Image Similarity Models", ECCV 2020 (arXiv
1905.10797), section 3.2: what made a similarity model match an image with others should be what its attributes are seen
by, so the activation map of one of its attributes is drawn to each of its saliency maps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from export.training.data.augmentation import warp


def saliency_loss(
    evidence: Tensor,
    maps: Tensor,
    real: Tensor,
    has: Tensor,
    *,
    affine: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """L_hm (equation 2): how far, on average, each saliency map is from the nearest activation map of the image's own.

    Both are made distributions over the positions by a softmax; the distance is the L2 norm of their difference. A map
    of an image without a known attribute does not count; with no map at all the loss is 0.

    Args:
      evidence: activation maps [B, A, h, w] before the softmax.
      maps: saliency maps [B, K, s, t]; ``real`` bool [B, K] says which are there. Averaged over cells to h x w.
      has: bool [B, A], the attributes of each image.
      affine: how augmentation moved the images (``export.training.data.augmentation.warp``): the maps move with them.
      temperature: None takes the maps as they are, as the paper's code does. A number brings each map to mean 0 and
        standard deviation 1 / ``temperature`` first: a map of cosines is nearly flat after a softmax.
    """
    if affine is not None:
        maps = warp(maps, affine)
    small = functional.interpolate(maps, size=evidence.shape[2:], mode="area").flatten(2)  # [B, K, P]
    if temperature is not None:
        centred = small - small.mean(dim=2, keepdim=True)
        spread = centred.square().mean(dim=2, keepdim=True).sqrt()
        small = torch.where(spread > 1e-12, centred / (spread * temperature).clamp(min=1e-12), 0.0)
    wanted = small.softmax(dim=2)
    given = evidence.flatten(2).softmax(dim=2)  # [B, A, P]
    inner = wanted @ given.transpose(1, 2)  # [B, K, A]
    squares = wanted.square().sum(2)[:, :, None] + given.square().sum(2)[:, None, :] - 2 * inner
    # the root's slope is infinite at 0, where the two are equal
    distances = squares.clamp(min=1e-12).sqrt().masked_fill(~has[:, None, :], torch.inf)
    counted = real & has.any(dim=1, keepdim=True)
    nearest = distances.amin(dim=2)[counted]
    return nearest.mean() if nearest.numel() else evidence.sum() * 0


def attribute_smooth_l1(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """L_att (equation 1): smooth L1 between softmax(logits) and uniform mass over the image's attributes.

    The mean over images and attributes of 0.5 d^2 where |d| < 1, else |d| - 0.5, as in the paper's code. ``logits``,
    ``targets`` (0 or 1) and ``known`` (bool) are [B, A]. What is not known of an image is left out of its softmax, and
    an image of which no attribute is known to be there does not count; none at all gives 0.
    """
    positive = (targets > 0) & known
    counted = positive.any(dim=1)
    mass = positive.float() / positive.sum(dim=1, keepdim=True).clamp(min=1)
    given = logits.masked_fill(~known, -torch.inf).softmax(dim=1)
    losses = functional.smooth_l1_loss(given, mass, reduction="none")[known & counted[:, None]]
    return losses.mean() if losses.numel() else logits.sum() * 0
