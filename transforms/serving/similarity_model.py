"""The similarity network of a bundle: images, whole or perturbed, to embeddings.

The perturbation is part of the similarity graph (``transforms.serving.bundle``), so a perturbed image never exists
outside of the runtime: an image, a fill and the blocks of a mask bank go in, embeddings come out. A bank lies on the
device and is bound, not copied, for every query; the CPU takes the same path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from transforms.core.errors import BundleError, ModelFailed
from transforms.core.records import Float32, Image
from transforms.core.saliency.contract import Masks
from transforms.serving.bundle import Bundle
from transforms.serving.mask_bank import MaskBank
from transforms.serving.projection_model import no_projection
from transforms.serving.runtime import PROVIDERS, first_line, full_batches, on_device, padded, session


class SimilarityModel:
    """The similarity graph of a bundle: images to embeddings, and one image under many masks to embeddings.

    Args:
      bundle, folder: a bundle, and the local folder that holds its files (``transforms.serving.bundle.fetch``).
      device: "cpu" or "cuda". ``provider`` is the name of the ONNX Runtime provider that runs.
      threads: CPU threads of the session.
      batch: forward passes at once; a bundle of a fixed batch size overrules it.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        self.size = bundle.resize.size
        self.dimension = bundle.embedding_size
        self.device = device
        self.provider = PROVIDERS[device]
        self.fixed = full_batches(bundle.similarity, device, batch)
        self.batch = self.fixed or batch
        self._session = session(folder / bundle.similarity.file, device, threads)
        self._no_features = None if bundle.projection else no_projection(bundle)
        self._keep = np.ones((1, *self.size, 1), np.float32)
        self._no_fill = np.zeros((1, 1, 1, 3), np.float32)

    def bank(self, design: Masks, hold: bool = True) -> MaskBank:
        """The mask bank of ``design`` on this model's device, in this model's batches."""
        return MaskBank(design, self.batch, self.device, hold, pad=self.fixed is not None)

    def embed(self, images: Image) -> Float32:
        """Embeddings float32 [I, D] of ``images`` uint8 [I, H, W, 3]."""
        out = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), self.batch):
            block, count = padded(images[start : start + self.batch], self.fixed)
            out[start : start + count] = self._run(block, ["embedding"])[0][:count]
        return out

    def features(self, images: Image) -> tuple[Float32, Float32]:
        """Embeddings float32 [I, D] of ``images`` uint8 [I, H, W, 3], and what the bundle's projection takes of them.

        The second is the network's last feature map in the network's own layout and precision, in one pass with the
        first, for :class:`transforms.serving.projection_model.ProjectionModel`. BundleError where the bundle has no
        projection.
        """
        if self._no_features is not None:
            raise BundleError(self._no_features)
        rows, maps = [], []
        for start in range(0, len(images), self.batch):
            block, count = padded(images[start : start + self.batch], self.fixed)
            embeddings, features = self._run(block, ["embedding", "features"])
            rows.append(embeddings[:count])
            maps.append(features[:count])
        return np.concatenate(rows), np.concatenate(maps)

    def perturbed(self, image: Image, bank: MaskBank, fill: Float32) -> Float32:
        """Embeddings float32 [N, D] of ``image`` uint8 [H, W, 3] under every mask of ``bank``.

        ``fill`` is float32 [1, 1, 1, 3] (a colour) or [1, H, W, 3] (an image), in pixel units 0 to 255.
        """
        return np.concatenate(list(self.blocks(image, bank, fill)))

    def blocks(self, image: Image, bank: MaskBank, fill: Float32) -> Iterator[Float32]:
        """As :meth:`perturbed`, batch by batch: a caller who has seen enough stops asking."""
        try:
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", on_device(image[None], self.device))
            binding.bind_ortvalue_input("fill", on_device(fill, self.device))
            for masks, count in bank:
                binding.bind_ortvalue_input("mask", masks)
                binding.bind_output("embedding", "cpu")
                self._session.run_with_iobinding(binding)
                yield binding.get_outputs()[0].numpy()[:count]
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed under masks: {first_line(error)}") from None

    def _run(self, images: Image, outputs: list[str]) -> list[Float32]:
        feeds = {"image": images, "mask": self._keep, "fill": self._no_fill}
        try:
            results: list[Float32] = self._session.run(outputs, feeds)
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed: {first_line(error)}") from None
        return results
