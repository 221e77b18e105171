"""The embedding network: backbone → global average → linear → embedding [B, D], and its masks, one for each condition.

Average pooling before one linear layer keeps the embedding a mean of local votes, as in the networks of Plummer et al.
(arXiv 1905.10797, section 4): what a mask hides changes the embedding through the cells it covers.
The L2 norm is not in the module: the loss applies it in training, the bundle's graph in serving. Nor are the masks in
what it computes: one embedding serves all conditions, and is multiplied where two embeddings are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.training.networks.backbones import feature_shape

# The least that a mask's largest entry can be. Which value it is hardly matters: the cosine forgets a mask's scale.
_LEAST = 0.01


class EmbeddingNetwork(nn.Module):
    """Normalised images float32 [B, 3, H, W] to embeddings float32 [B, D], not of unit length.

    ``size`` is the (H, W) that the network will be trained and served at; it fixes nothing but the check that the
    backbone gives a feature map there.
    """

    def __init__(self, backbone: nn.Module, *, size: tuple[int, int], embedding: int, name: str = "backbone") -> None:
        super().__init__()
        channels, _, _ = feature_shape(backbone, size, name=name)
        self.backbone = backbone
        self.head = nn.Linear(channels, embedding)

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.head(self.backbone(x).mean(dim=(2, 3)))
        return embedding


class TypeSpecificNetwork(nn.Module):
    """An embedding network with a mask for each of C conditions, which says what of the embedding counts there.

    Vasileva et al., "Learning Type-Aware Embeddings for Fashion Compatibility" (arXiv 1803.09196): a condition is a
    pair of types, and its mask a learned vector through a ReLU, which starts at N(0.9, 0.7) by torch's own generator as
    in their code. ``forward`` is the embedding network's.
    """

    def __init__(self, embedder: EmbeddingNetwork, conditions: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.mask_weights = nn.Parameter(torch.empty(conditions, embedder.head.out_features).normal_(0.9, 0.7))

    def forward(self, x: Tensor) -> Tensor:
        """The plain embeddings [B, D], under no condition."""
        embedding: Tensor = self.embedder(x)
        return embedding

    def masks(self) -> Tensor:
        """The masks [C, D], none below 0 and none all 0.

        The L1 penalty shrinks a mask, and the loss, blind to its scale, lets it: a mask whose largest weight falls
        below a least value is lifted as a whole to that value, so that it keeps its order and its gradient.
        """
        lift = (_LEAST - self.mask_weights.detach().amax(dim=1, keepdim=True)).clamp(min=0)
        return (self.mask_weights + lift).relu()
