"""From an untrusted address to an image in the model's input frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from transforms import storage
from transforms.core.errors import PairError
from transforms.core.imaging import images
from transforms.core.records import Frame, Image


@dataclass(frozen=True)
class LoadedImage:
    """``pixels`` uint8 [H, W, 3] in the model's frame, how they lie in the original, and the sha256 of its bytes."""

    pixels: Image
    frame: Frame
    sha256: str


Load = Callable[[str], LoadedImage]
"""Reads the image at an address; raises PairError, and nothing else, for bad input."""


def try_load(address: str, load: Load) -> LoadedImage | PairError:
    """The image at ``address``, or the error of one that cannot be loaded."""
    try:
        return load(address)
    except PairError as error:
        return error


@dataclass(frozen=True)
class ImageLoader:
    """Reads, decodes and resizes images under limits; calling it raises PairError, and nothing else, for bad input."""

    access: storage.Access
    limits: images.ImageLimits
    resize: images.Resize

    def __call__(self, address: str) -> LoadedImage:
        data = storage.read_image(address, self.access)
        pixels, frame = images.resize(images.decode(data, self.limits), self.resize)
        return LoadedImage(pixels, frame, images.sha256(data))


@dataclass(frozen=True)
class Remembered:
    """A loader that decodes each image once. It keeps them all: for the images of some hundred pairs, not of a run."""

    load: Load
    _seen: dict[str, LoadedImage] = field(default_factory=dict, repr=False)

    def __call__(self, address: str) -> LoadedImage:
        if address not in self._seen:
            self._seen[address] = self.load(address)
        return self._seen[address]
