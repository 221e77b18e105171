"""A small convolutional network for small catalogues and the drawn demo: ``--backbone
export.training.networks.small_network:network``.
"""

from __future__ import annotations

from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Five 3×3 convolutions with batch norm and ReLU, 110,000 parameters: [B, 3, H, W] -> [B, 80, H/8, W/8].

    Three strides of 2 leave a map fine enough to say where something is, and a receptive field of 39 pixels is larger
    than a badge or a pocket and smaller than a garment.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 40, 80)) -> None:
        super().__init__()
        first, second, third = widths
        self.layers = nn.Sequential(
            *_block(3, first, stride=2),
            *_block(first, second, stride=2),
            *_block(second, second, stride=1),
            *_block(second, third, stride=2),
            *_block(third, third, stride=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [B, 3, H, W], normalised, to the feature map [B, C, ⌈H/8⌉, ⌈W/8⌉], at least 0."""
        features: Tensor = self.layers(x)
        return features


def network() -> SmallNetwork:
    """The network with its usual widths, randomly initialised."""
    return SmallNetwork()


def _block(channels_in: int, channels_out: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
