"""``preprocessor_config.json``, in which Hugging Face's image processors keep what stands in front of a network.

What the file says is taken, with the defaults that its processor class documents; what it leaves open, or says of a
resize that whymatch does not have, is a *gap* with its reason, to be filled by a flag. Nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transforms import storage
from transforms.core.errors import UsageError

FILE = "preprocessor_config.json"

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
_SHORTEST_EDGE = frozenset(("CLIP", "ChineseCLIP", "Bit", "ConvNext", "MobileNetV1", "MobileNetV2", "MobileViT"))
_SQUARE = frozenset(("ViT", "DeiT", "Beit", "EfficientNet", "Siglip"))
_CROPS = frozenset(("CLIP", "ChineseCLIP", "Bit", "DeiT", "Beit", "MobileNetV1", "MobileNetV2", "MobileViT"))
_NO_NORMALISATION = frozenset(("MobileViT",))
"""What the classes take for granted: a whole-number size is the shorter side, or both; they cut the centre out."""


@dataclass
class PreprocessorConfig:
    """``values`` holds settings under the names of the flags, ``gaps`` the reason why one is not there."""

    values: dict[str, Any] = field(default_factory=dict)
    gaps: dict[str, str] = field(default_factory=dict)


def read(path: str | Path) -> PreprocessorConfig:
    """What the file at ``path`` says; UsageError where it is none."""
    try:
        config = json.loads(storage.read_file(str(path), max_bytes=2**20))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds a {type(config).__name__}, expected an object as image processors write it")
    return parse({name: value for name, value in config.items() if value is not None})


def parse(config: Mapping[str, Any]) -> PreprocessorConfig:
    """The settings in a file's content."""
    found = PreprocessorConfig()
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    for suffix in _SUFFIXES:
        kind = kind.removesuffix(suffix)
    known = kind in _SHORTEST_EDGE | _SQUARE
    found.values["layout"] = "nhwc" if config.get("data_format") == "channels_last" else "nchw"
    found.values["channels"] = "bgr" if config.get("do_flip_channel_order", kind == "MobileViT") else "rgb"
    _normalisation(config, kind, known, found)
    _size(config, kind, found)
    if (number := config.get("resample")) in _RESAMPLE:
        found.values["interpolation"] = _RESAMPLE[number]
    else:
        found.gaps["interpolation"] = "it has no resample" if number is None else f"whymatch has no resample {number}"
    return found


def _normalisation(config: Mapping[str, Any], kind: str, known: bool, found: PreprocessorConfig) -> None:
    """scale, mean and std: rescale, then normalise, each where the file says so."""
    if config.get("do_rescale", "rescale_factor" in config or known or None) is None:
        found.gaps["scale"] = "it says neither do_rescale nor rescale_factor"
    else:
        found.values["scale"] = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    if not config.get("do_normalize", kind not in _NO_NORMALISATION):
        found.values.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    else:
        for name in ("mean", "std"):
            value = config.get(f"image_{name}")
            if value is None:
                found.gaps[name] = f"it has no image_{name}"
            else:
                found.values[name] = _three(value, f"image_{name}")
    if kind == "EfficientNet":
        _efficientnet(config, found)


def _efficientnet(config: Mapping[str, Any], found: PreprocessorConfig) -> None:
    """Its processor may shift what it has rescaled to -1 to 1, and divides by the deviation a second time."""
    if config.get("rescale_offset", False) and "scale" in found.values:
        if abs(found.values["scale"] * 127.5 - 1) < 1e-6:
            found.values["mean"] = tuple(value + 1.0 for value in found.values.get("mean", (0.0, 0.0, 0.0)))
        else:
            del found.values["scale"]
            found.gaps["scale"] = "its rescale_offset means different things for a rescale_factor other than 1/127.5"
    if config.get("include_top", True) and "std" in found.values and "image_std" in config:
        again = _three(config["image_std"], "image_std")
        found.values["std"] = tuple(first * second for first, second in zip(found.values["std"], again, strict=True))


def _size(config: Mapping[str, Any], kind: str, found: PreprocessorConfig) -> None:
    """size, resize and shorter."""
    try:
        found.values.update(_resize(config, kind))
    except _Unclear as gap:
        found.gaps.update(size=str(gap), resize=str(gap))


class _Unclear(Exception):
    """The file gives no resize that whymatch has; the message says why."""


def _resize(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """size and resize, and shorter where the centre is cut out."""
    crop, cuts = config.get("crop_size"), _cuts_centre(config, kind)
    target = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    size = _named_sides(config.get("size"), kind)
    sides = size if isinstance(size, dict) else {}
    if set(sides) == {"height", "width"}:
        if cuts and target is not None and _sides(target) != _sides(sides):
            raise _Unclear(
                f"it squashes to {_sides(sides)} and then cuts {_sides(target)} out, which whymatch does not"
            )
        return {"size": _sides(sides), "resize": "squash"}
    if set(sides) == {"shortest_edge"} and kind == "ConvNext":
        return _convnext(int(sides["shortest_edge"]), config)
    if set(sides) == {"shortest_edge"} and cuts and target is not None:
        return {"size": _sides(target), "resize": "crop", "shorter": int(sides["shortest_edge"])}
    raise _Unclear(f"its size {size} and crop_size {crop} give no single input size")


def _cuts_centre(config: Mapping[str, Any], kind: str) -> Any:
    """Whether the centre is cut out, as the file or its class says, None where neither does."""
    cuts = config.get("do_center_crop", kind in _CROPS if kind in _SHORTEST_EDGE | _SQUARE else None)
    if not config.get("do_resize", True):
        raise _Unclear("it resizes nothing (do_resize is false)")
    if config.get("do_pad"):
        raise _Unclear("it pads (do_pad), which image processors do in several ways")
    if cuts is None and config.get("crop_size") is not None:
        raise _Unclear("it has a crop_size but no do_center_crop")
    return cuts


def _named_sides(size: Any, kind: str) -> Any:
    """``size`` with the names that the class gives a whole number."""
    if not isinstance(size, int):
        return size
    if kind not in _SHORTEST_EDGE | _SQUARE:
        raise _Unclear(f"its size {size} may be the shorter side or both")
    return {"shortest_edge": size} if kind in _SHORTEST_EDGE else {"height": size, "width": size}


def _convnext(edge: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Its processor squashes to large sizes, and cuts smaller ones out of a frame that is larger by crop_pct."""
    if edge >= 384:
        return {"size": (edge, edge), "resize": "squash"}
    return {"size": (edge, edge), "resize": "crop", "shorter": int(edge / config.get("crop_pct", 224 / 256))}


def _sides(value: Mapping[str, Any]) -> tuple[int, int]:
    try:
        return int(value["height"]), int(value["width"])
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{FILE} has a size {value!r}, expected height and width") from None


def _three(value: Any, name: str) -> tuple[float, float, float]:
    """A number for all channels, or three of them."""
    numbers = value if isinstance(value, list) else [value] * 3
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise UsageError(f"{FILE} has {name} {value!r}, expected a number or three, one a channel")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
