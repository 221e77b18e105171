"""The products of a catalogue with their images, as they are served.

Images go through ``transforms.core.imaging.images`` exactly as they do in an audit, so that a network is trained on the
pixels that it will be asked about. They are decoded once and held as uint8 in the input frame.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.training.splits import SPLITS, with_splits
from transforms import storage
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.images import ImageLimits, Resize, decode, resize
from transforms.core.messages import Echo
from transforms.core.records import Failure, Image, Product
from transforms.inputs import catalogue as catalogue_rows

Indices: TypeAlias = NDArray[np.int64]

# Above this, the decoded images lie in a temporary file that the system pages in, not in memory.
_IN_MEMORY_BYTES = 2 * 2**30
_DECODE_AT_ONCE = 256


@dataclass(frozen=True)
class TrainingDataset:
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


def load_dataset(
    address: str, spec: Resize, *, access: storage.Access | None = None, threads: int = 1, echo: Echo = print
) -> TrainingDataset:
    """Reads a catalogue and decodes its images into the input frame of ``spec``.

    Rows and images that cannot be used are counted by reason and said, never silently left out. ``access`` says what
    the catalogue's image addresses may name; without it, files under the catalogue's folder and object storage.
    UsageError where nothing is left.
    """
    access = access or storage.Access(roots=(storage.resolve(".", address),))
    skipped: Counter[str] = Counter()
    products = _read_products(address, skipped)
    if not products:
        raise UsageError(f"{storage.redact(address)} has no usable product{_by_reason(skipped)}")
    images = _allocate((len(products), *spec.size, 3))
    kept: list[Product] = []
    for product, image in zip(products, _decoded(products, spec, access, threads, echo), strict=True):
        if isinstance(image, PairError):
            skipped[image.reason] += 1
            continue
        images[len(kept)] = image
        kept.append(product)
    if not kept:
        raise UsageError(f"no image of {storage.redact(address)} can be used{_by_reason(skipped)}")
    if skipped:
        echo(f"{sum(skipped.values()):,} rows left out{_by_reason(skipped)}")
    return TrainingDataset(tuple(with_splits(kept)), images[: len(kept)], dict(skipped))


def to_pixels(images: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W], still 0 to 255, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()


def _read_products(address: str, skipped: Counter[str]) -> list[Product]:
    """The rows that name a product of a split that a training knows; the others are counted in ``skipped``."""
    products: list[Product] = []
    for row in catalogue_rows.read(address):
        if isinstance(row, Failure):
            skipped[row.reason] += 1
        elif row.split is not None and row.split.lower() not in SPLITS:
            skipped[f"split {row.split!r}"] += 1
        else:
            products.append(row)
    return products


def _decoded(
    products: Sequence[Product], spec: Resize, access: storage.Access, threads: int, echo: Echo
) -> Iterator[Image | PairError]:
    """Each product's image in the input frame, or why it has none, in order; says now and then how far it is."""
    started = said = time.monotonic()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for first in range(0, len(products), _DECODE_AT_ONCE):
            chunk = products[first : first + _DECODE_AT_ONCE]
            yield from pool.map(lambda product: _decode(product, spec, access), chunk)
            if (now := time.monotonic()) - said > 10:
                done = first + len(chunk)
                left = (now - started) / done * (len(products) - done)
                echo(f"  decoded {done:,} of {len(products):,} images, {left:.0f} s to go")
                said = now


def _decode(product: Product, spec: Resize, access: storage.Access) -> Image | PairError:
    try:
        return resize(decode(storage.read_image(product.image, access), ImageLimits()), spec)[0]
    except PairError as error:
        return error


def _allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if int(np.prod(shape)) <= _IN_MEMORY_BYTES:
        return np.empty(shape, dtype=np.uint8)
    # The file has no name any more and goes with the array.
    with tempfile.TemporaryFile(prefix="whymatch-images-") as stream:
        return np.memmap(stream, dtype=np.uint8, mode="w+", shape=shape)


def _by_reason(skipped: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items())) if skipped else ""
