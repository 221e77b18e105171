"""What a network makes of a data set's images."""

from __future__ import annotations

import torch
from torch import nn

from export.training.data.dataset import Indices, TrainingDataset, to_pixels
from export.training.networks.backbones import Normalisation

_BATCH = 128


def predict(
    network: nn.Module, dataset: TrainingDataset, indices: Indices, normalisation: Normalisation, device: str = "cpu"
) -> torch.Tensor:
    """The network's output, the first one where there are several, for images of the data set, without augmentation."""
    network.eval()
    outputs = []
    with torch.inference_mode():
        for first in range(0, len(indices), _BATCH):
            images = dataset.images[indices[first : first + _BATCH]]
            output = network(normalisation.apply(to_pixels(images, device)))
            outputs.append((output[0] if isinstance(output, tuple) else output).cpu())
    return torch.cat(outputs)
