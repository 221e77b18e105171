"""The attribute network of a bundle: images to scores and activation maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transforms.core.errors import BundleError, ModelFailed
from transforms.core.records import Float32, Image
from transforms.serving.bundle import Bundle
from transforms.serving.runtime import first_line, full_batches, padded, session


class AttributeModel:
    """The attribute graph of a bundle.

    Arguments as for :class:`~transforms.serving.similarity_model.SimilarityModel`.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.attributes is None:
            raise BundleError("this bundle has no attribute network")
        self.names = bundle.vocabulary
        self.fixed = full_batches(bundle.attributes, device, batch)
        self.batch = self.fixed or batch
        self._session = session(folder / bundle.attributes.file, device, threads)

    def predict(self, images: Image) -> tuple[Float32, Float32]:
        """Scores float32 [I, A] in [0, 1] and activation maps float32 [I, A, h, w] of ``images`` uint8 [I, H, W, 3]."""
        scores, maps = [], []
        try:
            for start in range(0, len(images), self.batch):
                block, count = padded(images[start : start + self.batch], self.fixed)
                some_scores, some_maps = self._session.run(["scores", "maps"], {"image": block})
                scores.append(some_scores[:count])
                maps.append(some_maps[:count])
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the attribute network failed: {first_line(error)}") from None
        if not all(np.isfinite(some).all() for some in (*scores, *maps)):
            raise ModelFailed("the attribute network gave NaN or infinity")
        return np.concatenate(scores), np.concatenate(maps)
