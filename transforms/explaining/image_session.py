"""An image that is explained, on a worker: decoded, embedded, and what its methods share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transforms.core.explanation import ExplainedImage
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.maps import background_of
from transforms.core.records import Float32, Image, content_id
from transforms.core.saliency.contract import Design, Gradient, Perturbing
from transforms.core.similarity import SimilarityFunction, conditioned
from transforms.serving.embed import finite
from transforms.serving.load_image import LoadedImage
from transforms.serving.models import Models
from transforms.serving.superpixels import superpixels


class ImageSession:
    """What all methods of one image share, whatever they fill with and under whatever condition it is compared.

    ``passes`` counts the forward passes so far. Embeddings are those of the network, before any condition's mask: one
    set of passes serves all conditions.
    """

    def __init__(self, image: LoadedImage, models: Models) -> None:
        self.image, self.models = image, models
        self.passes = 0
        self._designs: dict[Perturbing, Design] = {}
        self._perturbed: dict[tuple[str | int, str], tuple[Design, Float32]] = {}

    @cached_property
    def base(self) -> Float32:
        """The embedding float32 [1, D] of the whole image."""
        self.passes += 1
        return finite(self.models.similarity.embed(self.image.pixels[None]))

    @cached_property
    def explained(self) -> ExplainedImage:
        """The image's background, and the attribute network's word on it."""
        background = background_of(self.image.pixels)
        if self.models.attributes is None:
            return ExplainedImage(background)
        scores, maps = self.models.attributes.predict(self.image.pixels[None])
        return ExplainedImage(background, scores[0], maps[0])

    @cached_property
    def local(self) -> tuple[Float32, Float32]:
        """What each position adds to the embedding, [D, h, w], and the bias [D]."""
        self.passes += 1
        _, features = self.models.similarity.features(self.image.pixels[None])
        local, bias = self.models.projection.local(features)
        return finite(local[0]), bias

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The image's superpixels."""
        return superpixels(self.image.pixels)

    def mask(self, condition: str | None) -> Float32 | None:
        """The mask float32 [D] of the condition of that name, None for None."""
        return None if condition is None else np.array(self.models.bundle.conditions[condition], np.float32)

    def design(self, method: Perturbing) -> Design:
        """The design of ``method`` for this image, the same object whenever it is asked for."""
        if method not in self._designs:
            self._designs[method] = self.models.design(method, self.image.sha256)
        return self._designs[method]

    def gradient(self, pixels: Image, fill: Float32, condition: str | None) -> Gradient:
        """The slope of the similarity under ``condition``, for ``pixels`` and ``fill``; its passes are counted."""
        return _Counted(self.models.gradient.at(pixels, fill, self.mask(condition)), self)

    def perturbed(self, design: Design, kind: str, stopping_rule: Callable[[Float32], int | None] | None) -> Float32:
        """Embeddings [n', D] under the masks of ``design``; of equal masks and fills there is one set of passes.

        Of a design without a key, which may equal no other, there is one for the object; it is kept with its design,
        so that no other can take its place in memory.
        """
        key = (id(design) if design.key is None else design.key, kind)
        if stopping_rule is None and key in self._perturbed:
            return self._perturbed[key][1]
        fill = make_fill(kind, self.image.pixels, self.models.bundle.fill_mean)
        done: list[Float32] = []
        stop = None
        for block in self.models.similarity.blocks(self.image.pixels, self.models.bank_of(design), fill):
            self.passes += len(block)
            done.append(finite(block))
            if stopping_rule is not None and (stop := stopping_rule(np.concatenate(done))) is not None:
                break
        embeddings = np.concatenate(done)[:stop]
        if stopping_rule is None:
            self._perturbed[key] = design, embeddings
        return embeddings


class SessionView:
    """``transforms.core.saliency.contract.ImageView``: a view of an image under one fill and one condition.

    Without a ``condition`` embeddings are the network's own.
    """

    def __init__(self, session: ImageSession, fill: str, condition: str | None = None) -> None:
        self._session, self._fill, self._condition = session, fill, condition
        self._mask = session.mask(condition)

    @property
    def size(self) -> tuple[int, int]:
        return self._session.models.similarity.size

    @property
    def pixels(self) -> Image:
        return self._session.image.pixels

    @property
    def function(self) -> SimilarityFunction:
        return self._session.models.bundle.similarity_function

    @property
    def base(self) -> Float32:
        return conditioned(self._session.base, self._mask, self.function)

    def seed(self, seed: int) -> int:
        return int(content_id(str(seed), self._session.image.sha256, letter="")[:12], 16)

    def design(self, method: Perturbing) -> Design:
        return self._session.design(method)

    def perturbed(self, design: Design, stopping_rule: Callable[[Float32], int | None] | None = None) -> Float32:
        return conditioned(self._session.perturbed(design, self._fill, stopping_rule), self._mask, self.function)

    def superpixels(self) -> NDArray[np.int64]:
        return self._session.labels

    def gradient(self) -> Gradient:
        pixels = self._session.image.pixels
        fill = make_fill(self._fill, pixels, self._session.models.bundle.fill_mean)
        return self._session.gradient(pixels, fill, self._condition)

    def local(self) -> tuple[Float32, Float32]:
        local, bias = self._session.local
        return (local, bias) if self._mask is None else (local * self._mask[:, None, None], bias * self._mask)


class _Counted:
    def __init__(self, gradient: Gradient, session: ImageSession) -> None:
        self._gradient, self._session = gradient, session

    @property
    def size(self) -> tuple[int, int]:
        return self._gradient.size

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        self._session.passes += len(masks)
        return self._gradient(masks, references, noise)
