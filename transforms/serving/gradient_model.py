"""The gradient network of a bundle: how the similarity changes with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import BundleError, ModelFailed
from transforms.core.records import Float32, Image
from transforms.serving.bundle import Bundle
from transforms.serving.runtime import first_line, full_batches, padded, session

_Kind = TypeVar("_Kind", bound=np.generic)

_GRADIENT_ROWS = 16
"""Passes of the gradient at once: a query has few references, and what a full batch lacks is filled up in vain."""


class GradientModel:
    """The gradient graph of a bundle: how the similarity changes with the mask.

    Arguments as for :class:`~transforms.serving.similarity_model.SimilarityModel`.
    BundleError, with the reason, where the bundle has none.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.gradient is None:
            raise BundleError(_no_gradient(bundle))
        self.size = bundle.resize.size
        self.dimension = bundle.embedding_size
        rows = min(batch, _GRADIENT_ROWS)
        self.fixed = full_batches(bundle.gradient, device, rows)
        self.batch = self.fixed or rows
        self._session = session(folder / bundle.gradient.file, device, threads)
        if bundle.conditions and not any(
            one.name == "condition" for one in self._session.get_overridable_initializers()
        ):
            raise BundleError(
                "the bundle's similarity has conditions, and its gradient graph takes none; export the bundle again"
            )

    def at(self, image: Image, fill: Float32, condition: Float32 | None = None) -> GradientAt:
        """The gradient for ``image`` uint8 [H, W, 3] and ``fill`` float32 [1, 1, 1, 3] or [1, H, W, 3], pixel units.

        Rows of masks may have images and fills of their own: ``image`` [B, H, W, 3], ``fill`` [B, h, w, 3]. What is
        compared is the embedding under the ``condition`` of that mask [D]; references are given as it compares them.
        """
        images = image if image.ndim == 4 else image[None]
        if images.shape[1:] != (*self.size, 3) or fill.ndim != 4 or fill.shape[1:] not in ((1, 1, 3), (*self.size, 3)):
            raise ValueError(
                f"expected an image [H, W, 3] or [B, H, W, 3] and a fill [1 or B, 1 or H, 1 or W, 3] of the frame "
                f"{self.size}, got {image.shape} and {fill.shape}"
            )
        return GradientAt(self, images, fill, condition)

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[Float32]:
        """Similarity, gradient and embedding of one batch of exactly as many rows as the graph takes."""
        try:
            results: list[Float32] = self._session.run(["similarity", "gradient", "embedding"], feeds)
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the gradient network failed: {first_line(error)}") from None
        return results


@dataclass(frozen=True)
class GradientAt:
    """The :class:`~transforms.core.saliency.contract.Gradient` of ``images`` [I, H, W, 3] and ``fills`` [F, h, w, 3].

    I and F are 1, for all rows, or the number of rows. ``condition`` is a mask [D], None for the embedding as it is.
    """

    model: GradientModel
    images: Image
    fills: Float32
    condition: Float32 | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.model.size

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        """Similarity [B], gradient [B, H, W], embedding [B, D]; ModelFailed where the network fails or gives NaN."""
        rows = len(masks)
        if masks.shape[1:] != self.size or references.shape != (rows, self.model.dimension):
            raise ValueError(
                f"expected masks [B, {self.size[0]}, {self.size[1]}] and references [B, {self.model.dimension}], "
                f"got {masks.shape} and {references.shape}"
            )
        if not {len(self.images), len(self.fills)} <= {1, rows}:
            raise ValueError(f"{len(self.images)} images, {len(self.fills)} fills for {rows} masks: give 1 or {rows}")
        noise = np.zeros((1, 1, 1, 3), np.float32) if noise is None else np.asarray(noise, np.float32)
        found = (
            np.empty(rows, np.float32),
            np.empty((rows, *self.size), np.float32),
            np.empty((rows, self.model.dimension), np.float32),
        )
        for start in range(0, rows, self.model.batch):
            part = slice(start, start + self.model.batch)
            feeds: dict[str, NDArray[Any]] = {
                "image": self._rows(self.images, part),
                "mask": self._rows(np.asarray(masks, np.float32), part, shared=False),
                "fill": self._rows(np.asarray(self.fills, np.float32), part),
                "noise": noise,
                "reference": self._rows(np.asarray(references, np.float32), part, shared=False),
            }
            if self.condition is not None:
                feeds["condition"] = self.condition[None]
            for whole, some in zip(found, self.model.run(feeds), strict=True):
                whole[part] = some[: rows - start]
        if not all(np.isfinite(part).all() for part in found):
            raise ModelFailed("the gradient network gave NaN or infinity")
        return found

    def _rows(self, values: NDArray[_Kind], part: slice, shared: bool = True) -> NDArray[_Kind]:
        """The rows of a batch, filled up to a fixed size; what is shared by all rows as it is."""
        if shared and len(values) == 1:
            return values
        return padded(values[part], self.model.fixed)[0]


def _no_gradient(bundle: Bundle) -> str:
    reason = bundle.missing.get("gradient", "the bundle does not say why")
    return (
        f"this bundle has no gradient, which mask, gradient_x_input and integrated_gradients need: {reason}. "
        "Choose another method for this one, such as rise."
    )
