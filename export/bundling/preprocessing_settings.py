"""What stands in front of a user's network: flags first, then the network's own shape, then the file beside it.

Nothing is guessed: a setting that no source gives is an error that names the flag, and each one knows its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from export.bundling import preprocessor_config
from export.bundling.preprocessing import Channels, Preprocessing
from export.graphs.network_file import Layout, image_input, shape
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Interpolation, Resize, ResizeMode

_FLAGS = {
    "layout": "--layout nchw|nhwc",
    "channels": "--channels rgb|bgr",
    "scale": "--scale NUMBER (what pixels of 0 to 255 are multiplied with first, such as 0.00392156863 for 0 to 1)",
    "mean": "--mean A,B,C (subtracted after the scale, in the network's channel order; 0,0,0 for none)",
    "std": "--std A,B,C (divided by after that; 1,1,1 for none)",
    "size": "--size HxW",
    "resize": "--resize squash|crop|pad",
    "interpolation": "--interpolation nearest|bilinear|bicubic|lanczos",
}


@dataclass(frozen=True)
class PreprocessingFlags:
    """What was asked for in front of a network, None where another source is to say it.

    ``layout`` to ``std`` as in ``export.bundling.preprocessing.Preprocessing``; ``size`` to ``shorter`` as in
    ``transforms.core.imaging.images.Resize``, of which ``resize`` is the mode.
    """

    layout: Layout | None = None
    channels: Channels | None = None
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: tuple[int, int] | None = None
    resize: ResizeMode | None = None
    interpolation: Interpolation | None = None
    shorter: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PreprocessingSettings:
    """The settled preprocessing and resize, and for every setting where it comes from."""

    preprocessing: Preprocessing
    resize: Resize
    sources: Mapping[str, str]

    def lines(self) -> list[str]:
        """One line a setting, to be shown: name, value, source."""
        values = {
            "layout": self.preprocessing.layout,
            "channels": self.preprocessing.channels,
            "scale": f"{self.preprocessing.scale:.9g}",
            "mean": _numbers(self.preprocessing.mean),
            "std": _numbers(self.preprocessing.std),
            "size": "{}x{}".format(*self.resize.size),
            "resize": self.resize.mode,
            "interpolation": self.resize.interpolation,
        }
        if self.resize.mode == "crop":
            values["shorter"] = str(self.resize.shorter or "whatever covers the size")
        lines = [f"  {name:<14}{value:<34}{self.sources[name]}" for name, value in values.items()]
        return [*lines, f"  so that zero is the colour {_numbers(self.preprocessing.fill_mean)} (RGB, 0 to 255)"]


def settle_preprocessing(
    network: onnx.ModelProto, input: str | None, flags: PreprocessingFlags, config: Path | None
) -> PreprocessingSettings:
    """Settles ``flags`` with what ``network`` and the file ``config`` say.

    Raises:
      UsageError: a setting is missing, or a flag contradicts the network's declared input shape.
    """
    values, sources, gaps = _gathered(flags.given, declared(network, input), config)
    if missing := [name for name in _FLAGS if name not in values]:
        beside = f" {config} was read." if config else f" A {preprocessor_config.FILE} beside the network would do too."
        reasons = "".join(f"\n  {_FLAGS[name]}" + (f" ({gaps[name]})" if name in gaps else "") for name in missing)
        raise UsageError(
            f"what stands in front of the network is not fully known; please state{reasons}\n{beside.strip()}"
        )
    preprocessing = Preprocessing(
        layout=values["layout"],
        channels=values["channels"],
        scale=float(values["scale"]),
        mean=values["mean"],
        std=values["std"],
    )
    resize = Resize(
        size=values["size"],
        mode=values["resize"],
        interpolation=values["interpolation"],
        shorter=values.get("shorter"),
    )
    return PreprocessingSettings(preprocessing, resize, sources)


def _gathered(
    flags: Mapping[str, Any], shown: Mapping[str, Any], config: Path | None
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values by setting, their sources, and the reasons of the file for what it does not give."""
    found = preprocessor_config.read(config) if config else preprocessor_config.PreprocessorConfig()
    values, sources = dict(found.values), dict.fromkeys(found.values, str(config))
    for name, value in shown.items():
        if name not in flags and name == "size" and values.get(name, value) != value:
            raise UsageError(f"the network takes {_text(value)}, {config} says {_text(values[name])}: state --size")
        values[name], sources[name] = value, "the network's input shape"
    own_crop = (values.get("size"), values.get("resize"))
    for name, value in flags.items():
        if name in shown and value != shown[name]:
            raise UsageError(f"--{name} is {_text(value)}, but the network's input shape says {_text(shown[name])}")
        values[name], sources[name] = value, f"--{name}"
    if "shorter" not in flags and "shorter" in values and (values["size"], values["resize"]) != own_crop:
        del values["shorter"]  # it belongs to the file's own size
    sources.setdefault("shorter", "the default")
    return values, sources, found.gaps


def with_layout(preprocessing: Preprocessing, layout: Layout | None) -> Preprocessing:
    """``preprocessing`` in another layout, if one is given."""
    return preprocessing if layout is None else replace(preprocessing, layout=layout)


def declared(network: onnx.ModelProto, input: str | None) -> dict[str, Any]:
    """What the declared shape of the input leaves no doubt about: layout, and then size."""
    dims = shape(image_input(network, input))
    if len(dims) != 4 or (dims[1] == 3) == (dims[3] == 3):
        return {}
    height, width = dims[2:] if dims[1] == 3 else dims[1:3]
    shown: dict[str, Any] = {"layout": "nchw" if dims[1] == 3 else "nhwc"}
    if height is not None and width is not None:
        shown["size"] = (height, width)
    return shown


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
