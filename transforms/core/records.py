"""The records that flow through whymatch, and the letters of every array shape.

Shape letters, used in all docstrings and comments::

    I  images in a batch                 A     attributes of the vocabulary
    M  masks in a batch                  H, W  height and width of the model's input frame
    N  masks of a design                 h, w  height and width of an activation map or of a stored map
    R  references of one query           D     length of an embedding
    P  pixels of a frame, H * W          G     cells of a mask's grid, row by row

Records are frozen: a stage makes a new one, it never changes one that it was given. Only what is defined here,
plain tuples, strings and numbers cross a shuffle: addresses and small vectors, never an image or a mask.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import PairError

Image: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB, 0 to 255."""
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Side: TypeAlias = Literal["query", "reference"]
"""One image of a pair."""

SIDES: tuple[Side, ...] = get_args(Side)


def content_id(*parts: str | bytes | None, letter: str, digits: int = 24) -> str:
    """A short id of the length-prefixed content of ``parts``: equal content, equal id, in every run.

    ``None`` and the empty string differ. Ids start with ``letter``, so that no reader takes one for a number.
    """
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            digest.update(b"-;")
            continue
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw) + raw)
    return letter + digest.hexdigest()[:digits]


@dataclass(frozen=True, slots=True)
class Pair:
    """One manifest row to be explained.

    ``query`` and ``reference`` are image addresses; they are empty until the catalogue has resolved the ids.
    ``query_attributes`` and ``reference_attributes`` are the catalogue's word on each product, as names
    ``column=value`` of the bundle's vocabulary; None where no catalogue speaks of the product.
    ``query_regions`` and ``reference_regions`` are what the catalogue says of each photograph's regions: the address of
    a label image, or boxes as JSON text.
    ``stratum`` is the query's, and ``weight`` how many queries of it this one stands for.
    ``source`` says where the row stands (``pairs.csv row 17``), for messages and for a stable order.
    """

    pair_id: str
    query_id: str
    reference_id: str
    query: str = ""
    reference: str = ""
    condition: str | None = None
    rank: int | None = None
    served_score: float | None = None
    served_model: str | None = None
    extra: str | None = None
    source: str = ""
    stratum: str = "all"
    weight: float = 1.0
    query_attributes: tuple[str, ...] | None = None
    reference_attributes: tuple[str, ...] | None = None
    query_regions: str | None = None
    reference_regions: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One manifest row that cannot be explained: a row of the ``failures`` table.

    Ids are None where the row was too broken to have them; ``source`` says where such a row stands, and is None where
    the pair id identifies it, so that the order of a manifest's rows leaves no trace. ``message`` is redacted.
    ``method`` and ``side`` say which explanation is missing, where the run made several of a pair; None: all.
    """

    pair_id: str | None
    query_id: str | None
    reference_id: str | None
    stage: str
    reason: str
    message: str
    retryable: bool
    source: str | None = None
    stratum: str = "all"
    weight: float = 1.0
    method: str | None = None
    side: str | None = None

    @classmethod
    def of(cls, pair: Pair, error: PairError | LoadFailure) -> Failure:
        """The failure of ``pair`` for ``error``."""
        cause = LoadFailure.of(error) if isinstance(error, PairError) else error
        return cls(
            pair_id=pair.pair_id,
            query_id=pair.query_id,
            reference_id=pair.reference_id,
            stage=cause.stage,
            reason=cause.reason,
            message=cause.message,
            retryable=cause.retryable,
            stratum=pair.stratum,
            weight=pair.weight,
        )


@dataclass(frozen=True, slots=True)
class Product:
    """One catalogue row.

    ``image`` is a resolved address, and so is ``regions``, that of its label image. ``boxes`` is JSON text that nobody
    has looked at yet: boxes around its regions. ``attributes`` holds ``(column, value)`` of every non-empty categorical
    cell, in the catalogue's column order.
    """

    id: str
    image: str
    attributes: tuple[tuple[str, str], ...] = ()
    split: str | None = None
    source: str = ""
    regions: str | None = None
    boxes: str | None = None

    def names(self) -> tuple[str, ...]:
        """Its attributes as names: ``column=value``."""
        return tuple(f"{column}={value}" for column, value in self.attributes)


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """What one distinct image is to the model: a small vector each, computed once however many pairs name it.

    ``height`` and ``width`` are the original's after EXIF. ``scores`` is None for a bundle without attributes.
    ``perturbed`` is what ``transforms.core.similarity.reduce_perturbed`` keeps of the embeddings of masked versions:
    their mean, or one for each condition, or these themselves; None where they are not asked for.
    """

    address: str
    sha256: str
    height: int
    width: int
    embedding: Float32 = field(repr=False)  # [D]
    scores: Float32 | None = field(default=None, repr=False)  # [A], 0 to 1
    perturbed: Float32 | None = field(default=None, repr=False)  # [K, D]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why one image could not be embedded; it becomes a :class:`Failure` of every pair that names the image."""

    stage: str
    reason: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: PairError) -> LoadFailure:
        """The failure for ``error``."""
        return cls(error.stage, error.reason, str(error), error.retryable)


@dataclass(frozen=True, slots=True)
class Frame:
    """How an original image lies in the model's input frame; one linear map serves squash, crop and pad.

    The input frame of ``size`` (H, W) shows the rectangle ``box`` = (top, left, height, width) of the original of
    size ``original`` (H0, W0), in original pixels after EXIF. A centre crop's box lies inside of the original; a
    padded image's box reaches beyond it; a squashed image's box is the original.
    Input coordinate y (0 to H) is original coordinate ``top + y * height / H``.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    box: tuple[float, float, float, float]
