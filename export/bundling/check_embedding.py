"""A bundle's embedding of one image against the embedding that the user's own pipeline gave.

Where they differ, the settings that are most often wrong are tried one and two at a time on the bare network, and the
message names those that would fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from export.bundling.bundle_spec import SimilarityGraph
from export.bundling.preprocessing import Preprocessing
from export.graphs.network_file import image_input, load, pick_output, precision, shape
from transforms import storage
from transforms.core.errors import ImageError, UsageError
from transforms.core.imaging import images
from transforms.core.imaging.alternative_preprocessing import Normalised, alternatives
from transforms.core.imaging.images import Resize
from transforms.core.records import Float32, Float64, Image
from transforms.serving import runtime
from transforms.serving.bundle import Bundle
from transforms.serving.similarity_model import SimilarityModel

TOLERANCE = 1e-3


@dataclass(frozen=True)
class EmbeddingDifference:
    """How far two embeddings are apart, both at length 1: largest absolute difference, cosine, ratio of the lengths."""

    largest: float
    cosine: float
    lengths: float

    def __str__(self) -> str:
        return f"largest difference {self.largest:.2g}, cosine {self.cosine:.6f}"


@dataclass(frozen=True)
class ExpectedEmbedding:
    """What the user's own pipeline makes of an image.

    Attributes:
      image: a file. embedding: an .npy file with its embedding [D].
      tolerance: the largest absolute difference that is none, both embeddings at length 1.
    """

    image: str | Path
    embedding: str | Path
    tolerance: float = TOLERANCE


def check(bundle: Bundle, folder: Path, source: SimilarityGraph, expected: ExpectedEmbedding) -> EmbeddingDifference:
    """Compares the embedding of ``expected.image`` by the bundle in ``folder`` with ``expected.embedding``.

    ``source`` is what the bundle was made of, for the search of what would fit.

    Raises:
      UsageError: the difference is above the tolerance; the message says which settings would fit.
    """
    image, embedding, tolerance = expected.image, expected.embedding, expected.tolerance
    pixels = _decode(image)
    wanted = _read(embedding, bundle.embedding_size)
    model = SimilarityModel(bundle, folder, "cpu", 1, 1)
    ours = model.embed(images.resize(pixels, bundle.resize)[0][None])[0]
    found = difference(ours, wanted)
    same_length = bundle.similarity_function == "cosine" or abs(found.lengths - 1) <= tolerance
    if found.largest <= tolerance and same_length:
        return found
    if found.largest <= tolerance:
        raise UsageError(
            f"--check: the embeddings point the same way, but the bundle's is {found.lengths:.4g} times as long as "
            f"that in {embedding}: one of them is normalised. Check --output and --similarity-function."
        )
    raise UsageError(
        f"--check: the bundle's embedding of {image} is not that in {embedding}: {found}; at most {tolerance:g} is "
        f"allowed. {_advice(source, bundle.resize, pixels, wanted, found, tolerance)}"
    )


def difference(ours: Float32, theirs: Float64) -> EmbeddingDifference:
    """The difference of two embeddings [D]."""
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    a, b = ours / max(lengths[0], 1e-30), theirs / max(lengths[1], 1e-30)
    return EmbeddingDifference(float(np.abs(a - b).max()), float(a @ b), lengths[0] / max(lengths[1], 1e-30))


class _BareNetwork:
    """The user's network without anything of whymatch's around it."""

    def __init__(self, source: SimilarityGraph) -> None:
        model = load(source.network).model
        entry = image_input(model, source.input)
        self._names = entry.name, pick_output(model, source.output).name
        self._batch = (shape(entry) or (1,))[0] or 1
        self._dtype = precision(entry)
        self._session = runtime.session(
            source.network.SerializeToString() if isinstance(source.network, onnx.ModelProto) else source.network
        )

    def embed(self, image: Image, preprocessing: Preprocessing) -> Float32:
        """The embedding [D] of ``image`` uint8 [H,W,3]."""
        fed = np.repeat(preprocessing.apply(image[None]), self._batch, axis=0).astype(self._dtype)
        row = self._session.run([self._names[1]], {self._names[0]: fed})[0][0]
        return np.asarray(row, np.float32).reshape(-1)


def _advice(
    source: SimilarityGraph,
    resize: Resize,
    pixels: Image,
    wanted: Float64,
    found: EmbeddingDifference,
    tolerance: float,
) -> str:
    """What would fit, of all settings that differ from those of ``source`` and ``resize`` in one thing or two."""
    bare, tried = _BareNetwork(source), []
    for names, one_preprocessing, one_resize in _alternatives(source.preprocessing, resize):
        result = difference(bare.embed(images.resize(pixels, one_resize)[0], one_preprocessing), wanted)
        tried.append(
            (
                result.largest > tolerance,
                len(names) if result.largest <= tolerance else 0,
                result.largest,
                names,
                result,
            )
        )
    too_far, _, _, names, nearest = min(tried, key=lambda entry: entry[:3])
    if not too_far:
        return f"It fits with {' and '.join(names)} ({nearest})."
    near = (
        " So small a difference mostly comes from another library's resize or from half precision."
        if found.cosine > 0.999
        else ""
    )
    better = f"; the nearest was {' and '.join(names)} ({nearest})" if nearest.largest < found.largest else ""
    return (
        f"{len(tried)} other settings of channel order, normalisation and resize were tried, one or two at a time, and "
        f"none fits{better}.{near} Check also the output, and that {resize.size[0]}x{resize.size[1]} is height x width."
    )


def _alternatives(preprocessing: Preprocessing, resize: Resize) -> Iterator[tuple[list[str], Preprocessing, Resize]]:
    """Other settings with the flags that bring them, one change first, then every two of different kinds."""
    now = Normalised(preprocessing.channels, preprocessing.scale, preprocessing.mean, preprocessing.std)
    for together in (1, 2):
        for setting in alternatives(now, resize, together):
            flags = [change.flags for change in setting.changes]
            yield flags, replace(preprocessing, **asdict(setting.normalised or now)), setting.resize


def _decode(image: str | Path) -> Image:
    try:
        return images.decode(storage.read_file(str(image)))
    except ImageError as error:
        raise UsageError(f"--check: {image}: {error}") from None


def _read(embedding: str | Path, size: int) -> Float64:
    try:
        values = np.load(embedding, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"--check: {embedding} is no .npy file of numbers: {error}") from None
    if not isinstance(values, np.ndarray) or values.size != size or not np.issubdtype(values.dtype, np.floating):
        told = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "an archive"
        raise UsageError(f"--check: {embedding} holds {told}, expected one embedding of {size} floating point numbers")
    if not np.isfinite(values).all() or not values.any():
        raise UsageError(f"--check: {embedding} holds NaN, infinity or only zeros")
    return values.reshape(-1).astype(np.float64)
