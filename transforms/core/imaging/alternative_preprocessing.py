"""Other settings of what stands in front of a network, each with the flags of ``whymatch bundle`` that bring it.

What is most often wrong in a bundle: the channel order, the normalisation, the resize and its interpolation. Who finds
that a bundle does not give what was served tries these, one and two of different kinds at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from transforms.core.imaging.images import Resize
from transforms.core.records import Float32, Image

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CAFFE = ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
_LITE = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

_NORMALISATIONS = (
    (1.0, _NONE),
    (1 / 255, _NONE),
    (1 / 255, _IMAGENET),
    (1 / 255, _HALF),
    (1 / 255, _CLIP),
    (1.0, _CAFFE),
    (1.0, _LITE),
    (1.0, _IMAGENET),  # whoever forgot to divide by 255
)
"""Scale, mean and standard deviation in RGB, of the networks that one meets."""

_SHORTER = (256 / 224, 232 / 224, 1 / 0.9, 1 / 0.95)
"""The shorter side before a centre crop, of the crop's: torchvision's two, and timm's usual crop_pct."""


@dataclass(frozen=True)
class Normalised:
    """A network's input of a pixel x of 0 to 255: ``(x * scale - mean) / std``, all in the order of ``channels``."""

    channels: Literal["rgb", "bgr"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Normalised | None:
        """What a bundle's record of its ``preprocessing`` says, None where it does not say all of it."""
        try:
            channels, scale = record["channels"], float(record["scale"])
            mean, std = ([float(value) for value in record[name]] for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            return None
        if channels not in ("rgb", "bgr") or not len(mean) == len(std) == 3:
            return None
        if not np.isfinite([scale, *mean, *std]).all() or min(scale, *std) <= 0:
            return None
        return cls(channels, scale, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def pixels_for(self, image: Image, other: Normalised) -> Image | Float32:
        """Pixels [H, W, 3] of which this one's network is fed what ``other`` would feed it of ``image``.

        Uint8 where only the order of the channels differs; else float32, in pixel units, possibly beyond 0 to 255.
        """
        turned = image[..., ::-1] if self.channels != other.channels else image
        if (self.scale, self.mean, self.std) == (other.scale, other.mean, other.std):
            return turned
        # to the order of the network, in which all six numbers are, and back
        fed = (image[..., ::-1] if other.channels == "bgr" else image).astype(np.float64)
        fed = (fed * other.scale - other.mean) / other.std
        fed = (fed * self.std + self.mean) / self.scale
        pixels: Float32 = (fed[..., ::-1] if self.channels == "bgr" else fed).astype(np.float32)
        return pixels


@dataclass(frozen=True)
class Change:
    """One setting that could be another: the ``flags`` that bring it, and those that it has ``now``."""

    flags: str
    now: str
    normalised: Mapping[str, Any] = field(default_factory=dict)
    resize: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What stands in front of a network after ``changes``."""

    changes: tuple[Change, ...]
    normalised: Normalised | None
    resize: Resize

    def __str__(self) -> str:
        """The flags, as in ``--resize crop --shorter 256 in place of --resize squash``."""
        flags = " and ".join(change.flags for change in self.changes)
        return f"{flags} in place of {' and '.join(change.now for change in self.changes)}"


def alternatives(normalised: Normalised | None, resize: Resize, together: int) -> Iterator[Setting]:
    """Every setting that differs in ``together`` kinds (1 or 2); of the pixels nothing where ``normalised`` is None."""
    kinds = [_resizes(resize), _interpolations(resize)]
    if normalised is not None:
        kinds = [_channels(normalised), _normalisations(normalised), *kinds]
    for chosen in combinations(kinds, together):
        for changes in _one_of_each(chosen):
            pixels: dict[str, Any] = {}
            frame: dict[str, Any] = {}
            for change in changes:
                pixels |= change.normalised
                frame |= change.resize
            yield Setting(
                changes, None if normalised is None else replace(normalised, **pixels), replace(resize, **frame)
            )


def _one_of_each(kinds: tuple[list[Change], ...]) -> Iterator[tuple[Change, ...]]:
    if not kinds:
        yield ()
        return
    for change in kinds[0]:
        for others in _one_of_each(kinds[1:]):
            yield (change, *others)


def _channels(now: Normalised) -> list[Change]:
    other = "bgr" if now.channels == "rgb" else "rgb"
    order, turned_order = f"--channels {now.channels}", f"--channels {other}"
    changes = [Change(turned_order, order, {"channels": other})]
    if now.mean != now.mean[::-1] or now.std != now.std[::-1]:
        turned = {"mean": now.mean[::-1], "std": now.std[::-1]}
        values = f"--mean {_list(now.mean)} --std {_list(now.std)}"
        turned_values = f"--mean {_list(now.mean[::-1])} --std {_list(now.std[::-1])}"
        changes.append(Change(turned_values, values, turned))
        changes.append(
            Change(f"{turned_order} {turned_values}", f"{order} {values}", {"channels": other, **turned}),
        )
    return changes


def _normalisations(now: Normalised) -> list[Change]:
    """Each in both orders where these differ: with the order of the channels, that of the numbers is mistaken too."""
    before = _flags(now.scale, now.mean, now.std)
    turn = -1 if now.channels == "bgr" else 1
    orders = [(scale, mean[::step], std[::step]) for step in (turn, -turn) for scale, (mean, std) in _NORMALISATIONS]
    return [
        Change(_flags(*values), before, dict(zip(("scale", "mean", "std"), values, strict=True)))
        for values in dict.fromkeys(orders)
        if values != (now.scale, now.mean, now.std)
    ]


def _flags(scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"--scale {scale:.9g} --mean {_list(mean)} --std {_list(std)}"


def _resizes(now: Resize) -> list[Change]:
    shorter = dict.fromkeys(round(min(now.size) * ratio) for ratio in _SHORTER)
    candidates: list[tuple[str, dict[str, Any]]] = [
        ("--resize squash", {"mode": "squash", "shorter": None}),
        ("--resize crop", {"mode": "crop", "shorter": None}),
        *((f"--resize crop --shorter {side}", {"mode": "crop", "shorter": side}) for side in shorter),
        ("--resize pad", {"mode": "pad", "shorter": None}),
    ]
    before = f"--resize {now.mode}" + (f" --shorter {now.shorter}" if now.shorter else "")
    return [Change(flags, before, {}, values) for flags, values in candidates if replace(now, **values) != now]


def _interpolations(now: Resize) -> list[Change]:
    return [
        Change(f"--interpolation {name}", f"--interpolation {now.interpolation}", {}, {"interpolation": name})
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
        if name != now.interpolation
    ]


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
