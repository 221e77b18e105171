"""The attribute network: trunk → 3×3 convolution → activation maps [B, A, h, w] → average → scores [B, A].

After Plummer et al., "Why do These Match?" (arXiv 1905.10797, section 3.2): the last convolution has one channel for
each attribute, and the score is the average of that channel, so a map says where the score came from, as in CAM.
We deviate in one thing: the attributes of a catalogue are independent of each other across columns, so by default the
score is a sigmoid per attribute, not a softmax over all.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from export.training.networks.backbones import feature_shape


class AttributeNetwork(nn.Module):
    """Normalised images float32 [B, 3, H, W] to the attributes' evidence, cell by cell.

    ``forward`` is for training and returns the logits; :class:`ServedAttributes` is what a bundle holds.
    """

    def __init__(self, trunk: nn.Module, *, size: tuple[int, int], attributes: int, name: str = "backbone") -> None:
        super().__init__()
        channels, _, _ = feature_shape(trunk, size, name=name)
        self.trunk = trunk
        self.evidence = nn.Conv2d(channels, attributes, 3, padding=1)
        nn.init.normal_(self.evidence.weight, std=0.01)

    def start_at(self, rates: Tensor) -> None:
        """Sets the biases so that the first scores are the attributes' ``rates`` [A], each in (0, 1).

        Rare attributes would otherwise spend the first epochs on learning that they are rare (Lin et al., arXiv
        1708.02002, section 3.3).
        """
        if self.evidence.bias is not None:
            with torch.no_grad():
                self.evidence.bias.copy_(torch.logit(rates, eps=1e-4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, A] and evidence [B, A, h, w]; the logits are the evidence's average over the cells."""
        evidence: Tensor = self.evidence(self.trunk(x))
        return evidence.mean(dim=(2, 3)), evidence


class ServedAttributes(nn.Module):
    """The attribute network as bundles hold it: scores [B, A] in (0, 1) and activation maps [B, A, h, w].

    ``activation`` makes scores of the logits: "sigmoid" for a network trained by binary cross-entropy, "softmax" over
    all attributes for one trained by smooth L1 (``export.training.supervision``).
    The maps are the evidence itself, which keeps its sign: above 0 a cell speaks for the attribute, below against it.
    On drawn garments, where the truth is known, a saliency map over an attribute's region found that attribute more
    often by these maps than by their sigmoid.
    """

    def __init__(self, network: AttributeNetwork, activation: Literal["sigmoid", "softmax"] = "sigmoid") -> None:
        super().__init__()
        self.network, self.activation = network, activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, evidence = self.network(x)
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits.softmax(dim=1), evidence
