"""Images as a caller has them, under the one interface by which whymatch reads photographs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging import images
from transforms.core.records import Image, content_id
from transforms.serving.load_image import LoadedImage

ImageSource = str | os.PathLike[str] | bytes | Image | PIL.Image.Image
"""An image: its address (a local path, s3:// or gs://), its file's bytes, pixels uint8 [H, W, 3], or Pillow's."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_CONVERTED = {mode: "RGB" for mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX")} | {"PA": "RGBA", "RGBa": "RGBA"}
"""Pillow's modes that PNG does not have, and what they are without a loss. Of I and F nobody knows what is white."""


@dataclass(eq=False)
class Photographs:
    """Images by name: an address names itself, an image in memory the content that it has.

    What the caller names is trusted, as a command's ``--image-root`` is; limits on bytes and pixels hold as always.
    """

    limits: images.ImageLimits = field(default_factory=images.ImageLimits)
    _data: dict[str, bytes] = field(default_factory=dict, repr=False)

    def add(self, source: ImageSource) -> str:
        """The name of ``source``; UsageError for what is no image."""
        if isinstance(source, (str, os.PathLike)):
            return _address(os.fspath(source))
        data = source if isinstance(source, bytes) else _encoded(source)
        name = content_id(data, letter="memory-")
        self._data[name] = data
        return name

    def add_all(self, sources: ImageSource | Iterable[ImageSource]) -> list[str]:
        """The names of one image or of several."""
        if isinstance(sources, (str, os.PathLike, bytes, np.ndarray, PIL.Image.Image)):
            return [self.add(sources)]
        return [self.add(source) for source in sources]

    def only(self, *names: str) -> Photographs:
        """The images of these names alone, so that who keeps them keeps no others."""
        return Photographs(self.limits, {name: self._data[name] for name in names if name in self._data})

    def read(self, name: str) -> bytes:
        """The bytes of the image ``name``; PairError where it cannot be read."""
        if name in self._data:
            return self._data[name]
        roots = () if "://" in name else (str(Path(name).parent),)
        return storage.read_image(name, storage.Access(roots))

    def load(self, name: str, resize: images.Resize) -> LoadedImage:
        """The image ``name`` in the model's frame; PairError where it cannot be read or decoded."""
        data = self.read(name)
        pixels, frame = images.resize(images.decode(data, self.limits), resize)
        return LoadedImage(pixels, frame, images.sha256(data))


def _address(name: str) -> str:
    if not name:
        raise UsageError("an image's address is empty")
    return name if "://" in name else os.path.abspath(name)


def _encoded(source: Image | PIL.Image.Image) -> bytes:
    """``source`` as a PNG: what is in memory goes the way of every file."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise UsageError(f"an image is uint8 [H, W, 3] (RGB, 0 to 255), not {source.dtype} {list(source.shape)}")
        source = PIL.Image.fromarray(source)
    if not isinstance(source, PIL.Image.Image):
        raise UsageError(
            f"an image is an address, bytes, pixels uint8 [H, W, 3] or Pillow's, not {type(source).__name__}"
        )
    if source.mode not in (*_PNG_MODES, *_CONVERTED):
        raise UsageError(
            f"an image of Pillow's mode {source.mode} cannot be used, as it does not say what is white: "
            "convert it to L or RGB"
        )
    stream = io.BytesIO()
    try:
        (source.convert(_CONVERTED[source.mode]) if source.mode in _CONVERTED else source).save(stream, "PNG")
    except (OSError, ValueError) as error:  # ValueError: of no pixel
        raise UsageError(f"the image cannot be used: {error}") from None
    return stream.getvalue()
