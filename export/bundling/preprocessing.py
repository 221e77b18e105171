"""What a network expects of the pixels that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from export.graphs.network_file import Layout
from transforms.core.errors import UsageError
from transforms.core.records import Float32, Image

Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects in front of it: ``(x * scale - mean) / std`` of pixels x in 0 to 255.

    ``mean`` and ``std`` are in the order of ``channels``, the order in which the network takes them (a BGR network's
    mean begins with blue), and apply after ``scale``, which is 1/255 for networks that take 0 to 1.
    """

    layout: Layout = "nchw"
    channels: Channels = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("layout", self.layout, ("nchw", "nhwc")),
            ("channels", self.channels, ("rgb", "bgr")),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}, expected {' or '.join(allowed)}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"scale is {self.scale}, expected a positive number, such as {1 / 255:.8f} for 0 to 1")
        if len(self.mean) != 3 or not np.isfinite(self.mean).all():
            raise UsageError(f"mean is {self.mean}, expected three numbers, one a channel")
        if len(self.std) != 3 or not (np.isfinite(self.std).all() and min(self.std) > 0):
            raise UsageError(f"std is {self.std}, expected three positive numbers, one a channel")

    @property
    def fill_mean(self) -> tuple[float, float, float]:
        """The colour that the network sees as zero: the mean in RGB pixel units, cut to 0 to 255."""
        colour = [min(max(value / self.scale, 0.0), 255.0) for value in self.mean]
        red, green, blue = colour if self.channels == "rgb" else colour[::-1]
        return (red, green, blue)

    def apply(self, images: Image | Float32) -> Float32:
        """What the network is to be fed, float32 in its layout, for ``images`` [I,H,W,3] RGB, 0 to 255.

        Written down as a user's own pipeline would, with no trick of the graph in it: the graph is checked against it.
        """
        pixels = images[..., ::-1] if self.channels == "bgr" else images
        normalised = (pixels * np.float64(self.scale) - np.array(self.mean)) / np.array(self.std)
        ordered = normalised.transpose(0, 3, 1, 2) if self.layout == "nchw" else normalised
        return np.ascontiguousarray(ordered, dtype=np.float32)
