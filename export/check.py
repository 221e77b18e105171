"""A bundle's embedding of one image against the embedding that the user's own pipeline gave.

Where they differ, the settings that are most often wrong are tried one and two at a time on the bare network, and the
message names those that would fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from export.network import image_input, load, pick_output, precision, shape
from export.preprocessing import Preprocessing
from transforms import runtime, storage
from transforms.bundle import Bundle
from transforms.core import images
from transforms.core.errors import ImageError, UsageError
from transforms.core.images import Resize
from transforms.core.types import Float32, Float64, Image

TOLERANCE = 1e-3

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Difference:
    """How far two embeddings are apart, both at length 1: largest absolute difference, cosine, ratio of the lengths."""

    largest: float
    cosine: float
    lengths: float

    def __str__(self) -> str:
        return f"largest difference {self.largest:.2g}, cosine {self.cosine:.6f}"


def check(
    bundle: Bundle,
    folder: Path,
    *,
    network: str | Path,
    preprocessing: Preprocessing,
    input: str | None,
    output: str | None,
    image: str | Path,
    embedding: str | Path,
    tolerance: float = TOLERANCE,
) -> Difference:
    """Compares the embedding of the file ``image`` by the bundle in ``folder`` with the .npy file ``embedding``.

    ``network`` is the user's own ONNX file, for the search of what would fit.

    Raises:
      UsageError: the difference is above ``tolerance``; the message says which settings would fit.
    """
    pixels = _decode(image)
    wanted = _read(embedding, bundle.embedding_size)
    model = runtime.SimilarityModel(bundle, folder, "cpu", 1, 1)
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
    bare = _BareNetwork(network, input, output)
    raise UsageError(
        f"--check: the bundle's embedding of {image} is not that in {embedding}: {found}; at most {tolerance:g} is "
        f"allowed. {_advice(bare, pixels, wanted, preprocessing, bundle.resize, found, tolerance)}"
    )


def difference(ours: Float32, theirs: Float64) -> Difference:
    """The difference of two embeddings [D]."""
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    a, b = ours / max(lengths[0], 1e-30), theirs / max(lengths[1], 1e-30)
    return Difference(float(np.abs(a - b).max()), float(a @ b), lengths[0] / max(lengths[1], 1e-30))


class _BareNetwork:
    """The user's network without anything of whymatch's around it."""

    def __init__(self, network: str | Path, input: str | None, output: str | None) -> None:
        model = load(network).model
        entry = image_input(model, input)
        self._names = entry.name, pick_output(model, output).name
        self._batch = (shape(entry) or (1,))[0] or 1
        self._dtype = precision(entry)
        self._session = runtime.session(network)

    def embed(self, image: Image, preprocessing: Preprocessing) -> Float32:
        """The embedding [D] of ``image`` uint8 [H,W,3]."""
        fed = np.repeat(preprocessing.apply(image[None]), self._batch, axis=0).astype(self._dtype)
        row = self._session.run([self._names[1]], {self._names[0]: fed})[0][0]
        return np.asarray(row, np.float32).reshape(-1)


def _advice(
    bare: _BareNetwork,
    pixels: Image,
    wanted: Float64,
    preprocessing: Preprocessing,
    resize: Resize,
    found: Difference,
    tolerance: float,
) -> str:
    tried = []
    for names, one_preprocessing, one_resize in _alternatives(preprocessing, resize):
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
    kinds: list[list[tuple[str, dict[str, Any], dict[str, Any]]]] = [
        _channel_changes(preprocessing),
        _normalisation_changes(preprocessing),
        _resize_changes(resize),
        [
            (f"--interpolation {name}", {}, {"interpolation": name})
            for name in ("nearest", "bilinear", "bicubic", "lanczos")
            if name != resize.interpolation
        ],
    ]
    single = [[change] for kind in kinds for change in kind]
    double = [[one, two] for first, second in combinations(kinds, 2) for one in first for two in second]
    for changes in (*single, *double):
        of_pixels: dict[str, Any] = {}
        of_size: dict[str, Any] = {}
        for _, some, others in changes:
            of_pixels |= some
            of_size |= others
        yield [name for name, _, _ in changes], replace(preprocessing, **of_pixels), replace(resize, **of_size)


def _channel_changes(now: Preprocessing) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    other = "bgr" if now.channels == "rgb" else "rgb"
    changes: list[tuple[str, dict[str, Any], dict[str, Any]]] = [(f"--channels {other}", {"channels": other}, {})]
    if now.mean != now.mean[::-1] or now.std != now.std[::-1]:
        turned = {"mean": now.mean[::-1], "std": now.std[::-1]}
        flags = f"--mean {_list(now.mean[::-1])} --std {_list(now.std[::-1])}"
        changes += [(flags, turned, {}), (f"--channels {other} {flags}", {"channels": other, **turned}, {})]
    return changes


def _normalisation_changes(now: Preprocessing) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    none, half = ((0.0,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3)
    caffe = ((123.68, 116.779, 103.939), (1.0,) * 3)
    candidates = [(1.0, none), (1 / 255, none), (1 / 255, _IMAGENET), (1 / 255, half), (1 / 255, _CLIP), (1.0, caffe)]
    changes: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for scale, (mean, std) in candidates:
        if now.channels == "bgr":
            mean, std = mean[::-1], std[::-1]
        if (scale, mean, std) != (now.scale, now.mean, now.std):
            name = f"--scale {scale:.9g} --mean {_list(mean)} --std {_list(std)}"
            changes.append((name, {"scale": scale, "mean": mean, "std": std}, {}))
    return changes


def _resize_changes(now: Resize) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    wide = round(min(now.size) * 256 / 224)
    candidates: list[tuple[str, dict[str, Any]]] = [
        ("--resize squash", {"mode": "squash", "shorter": None}),
        ("--resize crop", {"mode": "crop", "shorter": None}),
        (f"--resize crop --shorter {wide}", {"mode": "crop", "shorter": wide}),
        ("--resize pad", {"mode": "pad", "shorter": None}),
    ]
    return [(name, {}, change) for name, change in candidates if replace(now, **change) != now]


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


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
