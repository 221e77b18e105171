"""A backbone with dropout, by ``tests.support.models.dropout_network:with_dropout``."""

from __future__ import annotations

from torch import nn

from export.training.networks.small_network import SmallNetwork


def with_dropout() -> nn.Module:
    """A backbone that draws from torch's own generator in training."""
    small = SmallNetwork()
    small.layers.append(nn.Dropout2d(0.3))
    return small
