"""From a catalogue to batches: images as they are served, labels, splits, sampling and augmentation.

Images go through ``transforms.core.imaging.images`` exactly as they do in an audit, so that a network is trained on the
pixels that it will be asked about. They are decoded once and held as uint8 in the input frame.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from export.training.splits import SPLITS, with_splits
from transforms import storage
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.images import ImageLimits, Resize, decode, resize
from transforms.core.records import Failure, Image, Product
from transforms.inputs import catalogue as catalogue_rows

Indices: TypeAlias = NDArray[np.int64]
Echo: TypeAlias = Callable[[str], None]

# Above this, the decoded images lie in a temporary file that the system pages in, not in memory.
_IN_MEMORY_BYTES = 2 * 2**30
_DECODE_AT_ONCE = 256


@dataclass(frozen=True)
class Dataset:
    """The products of a catalogue that can be used, with their images.

    ``images`` is uint8 [I, H, W, 3]; product i's split is ``products[i].split``: train, valid or test. ``skipped``
    counts what could not be used, by reason.
    """

    products: tuple[Product, ...]
    images: NDArray[np.uint8]
    skipped: Mapping[str, int]

    def part(self, split: str) -> Indices:
        """The indices of one split."""
        return np.array([i for i, product in enumerate(self.products) if product.split == split], dtype=np.int64)


def load(
    address: str, spec: Resize, *, access: storage.Access | None = None, threads: int = 1, echo: Echo = print
) -> Dataset:
    """Reads a catalogue and decodes its images into the input frame of ``spec``.

    Rows and images that cannot be used are counted by reason and said, never silently left out. ``access`` says what
    the catalogue's image addresses may name; without it, files under the catalogue's folder and object storage.
    UsageError where nothing is left.
    """
    access = access or storage.Access(roots=(storage.resolve(".", address),))
    skipped: Counter[str] = Counter()
    products: list[Product] = []
    for row in catalogue_rows.read(address):
        if isinstance(row, Failure):
            skipped[row.reason] += 1
        elif row.split is not None and row.split.lower() not in SPLITS:
            skipped[f"split {row.split!r}"] += 1
        else:
            products.append(row)
    if not products:
        raise UsageError(f"{storage.redact(address)} has no usable product{_reasons(skipped)}")
    images = _array((len(products), *spec.size, 3))
    kept: list[Product] = []
    started = said = time.monotonic()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for first in range(0, len(products), _DECODE_AT_ONCE):
            chunk = products[first : first + _DECODE_AT_ONCE]
            for product, image in zip(chunk, pool.map(lambda p: _image(p, spec, access), chunk), strict=True):
                if isinstance(image, PairError):
                    skipped[image.reason] += 1
                    continue
                images[len(kept)] = image
                kept.append(product)
            if (now := time.monotonic()) - said > 10:
                done = first + len(chunk)
                left = (now - started) / done * (len(products) - done)
                echo(f"  decoded {done:,} of {len(products):,} images, {left:.0f} s to go")
                said = now
    if not kept:
        raise UsageError(f"no image of {storage.redact(address)} can be used{_reasons(skipped)}")
    if skipped:
        echo(f"{sum(skipped.values()):,} rows left out{_reasons(skipped)}")
    return Dataset(tuple(with_splits(kept)), images[: len(kept)], dict(skipped))


def label_ids(products: Sequence[Product], columns: Sequence[str]) -> tuple[Indices, tuple[tuple[str, ...], ...]]:
    """What makes products similar: an integer per product [I], and the values of ``columns`` behind each integer.

    Two products have one label where all of ``columns`` agree. −1 where a cell is empty: such a product is neither
    similar nor dissimilar to any. UsageError where no product has one of the columns.
    """
    rows = [dict(product.attributes) for product in products]
    present = {column for row in rows for column in row}
    if unknown := [column for column in columns if column not in present]:
        raise UsageError(f"the catalogue has no attribute column {unknown[0]!r}; it has {', '.join(sorted(present))}")
    values = [tuple(row[column] for column in columns) if all(c in row for c in columns) else None for row in rows]
    names = tuple(sorted({value for value in values if value is not None}))
    number = {name: i for i, name in enumerate(names)}
    return np.array([-1 if value is None else number[value] for value in values], dtype=np.int64), names


def label_batches(
    labels: Indices, among: Indices, *, batch: int, per_label: int, rng: np.random.Generator
) -> list[Indices]:
    """One epoch of batches for triplets: every image of ``among`` with a usable label once, in groups of one label.

    A group holds ``per_label`` to 2·per_label − 1 images, or all where the label has fewer. Labels of a single image
    are left out: they have no positive. A last batch of less than half the size is dropped, unless it is the only one.
    """
    groups: list[Indices] = []
    for label in np.unique(labels[among]):
        members = among[labels[among] == label]
        if label >= 0 and len(members) > 1:
            groups += np.array_split(rng.permutation(members), max(1, len(members) // per_label))
    rng.shuffle(groups)
    return _filled(groups, batch)


def plain_batches(among: Indices, *, batch: int, rng: np.random.Generator) -> list[Indices]:
    """One epoch of shuffled batches over ``among``, the last one as in :func:`label_batches`."""
    return _filled([row[None] for row in rng.permutation(among)], batch)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images. ``shift`` and ``zoom`` are shares of the frame, ``jitter`` of the colour.

    ``jitter`` is off by default: colours are attributes of garments.
    """

    flip: bool = True
    shift: float = 0.05
    zoom: float = 0.1
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "zoom", "jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"augmentation: {name} is a share in [0, 1), got {getattr(self, name)}")


def augment(pixels: Tensor, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Float32 pixels [B, 3, H, W], 0 to 255, each image changed by its own draw; what enters is the border's colour.

    The second value is how the images were moved, [B, 2, 3] as :func:`warp` takes it, or None where they were not.
    """
    count = len(pixels)

    def draw(reach: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * reach

    affine = None
    if how.flip or how.shift or how.zoom:
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if how.flip else torch.ones(count)
        scale = 1 + draw(how.zoom)
        affine = torch.zeros(count, 2, 3)
        affine[:, 0, 0], affine[:, 1, 1] = mirror * scale, scale
        affine[:, :, 2] = 2 * draw(how.shift, 2)  # grid coordinates span [-1, 1]
        pixels = warp(pixels, affine)
    if how.jitter:
        gain = (1 + draw(how.jitter, 3, 1, 1)).to(pixels.device)
        pixels = (pixels * gain).clamp(0, 255)
    return pixels, affine


def warp(planes: Tensor, affine: Tensor) -> Tensor:
    """Planes [B, C, H, W] moved by ``affine`` [B, 2, 3], from output to input coordinates in [-1, 1]; bilinear."""
    grid = functional.affine_grid(affine, list(planes.shape), align_corners=False).to(planes.device)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def to_pixels(images: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W], still 0 to 255, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()


def _image(product: Product, spec: Resize, access: storage.Access) -> Image | PairError:
    try:
        return resize(decode(storage.read_image(product.image, access), ImageLimits()), spec)[0]
    except PairError as error:
        return error


def _array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if int(np.prod(shape)) <= _IN_MEMORY_BYTES:
        return np.empty(shape, dtype=np.uint8)
    # The file has no name any more and goes with the array.
    with tempfile.TemporaryFile(prefix="whymatch-images-") as stream:
        return np.memmap(stream, dtype=np.uint8, mode="w+", shape=shape)


def _filled(groups: Sequence[Indices], batch: int) -> list[Indices]:
    batches: list[Indices] = []
    filling: list[Indices] = []
    for group in groups:
        filling.append(group)
        if sum(map(len, filling)) >= batch:
            batches.append(np.concatenate(filling))
            filling = []
    if filling and (not batches or sum(map(len, filling)) * 2 >= batch):
        batches.append(np.concatenate(filling))
    return batches


def _reasons(skipped: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items())) if skipped else ""
