"""The projection of a bundle: what each position of a feature map adds to the embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transforms.core.errors import BundleError, ModelFailed
from transforms.core.records import Float32
from transforms.serving.bundle import Bundle
from transforms.serving.runtime import first_line, full_batches, padded, session


class ProjectionModel:
    """The projection of a bundle: feature maps to what each position adds to the embedding before the L2 norm.

    Arguments as for :class:`~transforms.serving.similarity_model.SimilarityModel`.
    BundleError, with the reason, where the bundle has none.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.projection is None:
            raise BundleError(no_projection(bundle))
        self.fixed = full_batches(bundle.projection, device, batch)
        self.batch = batch
        self._session = session(folder / bundle.projection.file, device, threads)

    def local(self, features: Float32) -> tuple[Float32, Float32]:
        """Local parts float32 [I, D, h, w] and bias float32 [D] for ``features`` of ``SimilarityModel.features``.

        The sum of an image's local parts over positions, plus the bias, is its embedding before the L2 norm.
        """
        parts = []
        try:
            for start in range(0, len(features), self.batch):
                block, count = padded(features[start : start + self.batch], self.fixed)
                some, bias = self._session.run(["local", "bias"], {"features": block})
                parts.append(some[:count])
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the projection failed: {first_line(error)}") from None
        if not all(np.isfinite(part).all() for part in parts):
            raise ModelFailed("the network's feature map, or its projection, holds NaN or infinity")
        return np.concatenate(parts), bias[0]


def no_projection(bundle: Bundle) -> str:
    """Why ``bundle`` has no projection, and what to do without."""
    reason = bundle.missing.get("projection", "the bundle does not say why")
    return (
        f"this bundle has no projection, which decomposition needs: {reason}. Decomposition explains networks that end "
        "in an average pooling and linear layers; choose another method for this one, such as rise."
    )
