"""The embedding network: backbone → global average → linear → embedding [B, D].

Average pooling before one linear layer keeps the embedding a mean of local votes, as in the networks of Plummer et al.
(arXiv 1905.10797, section 4): what a mask hides changes the embedding through the cells it covers.
The L2 norm is not in the module: the loss applies it in training, the bundle's graph in serving.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.backbones import feature_shape


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
