"""Bytes to pixels under limits, pixels to the model's input frame, and the way back.

Everything that decides what an image *is* stands here, so that training and serving agree: which formats are read,
EXIF orientation, transparency, CMYK, 16 bit, palettes and animations. Colour profiles are not applied.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageFile, UnidentifiedImageError

from transforms.core.errors import (
    DamagedImage,
    ImageError,
    ImageTooLarge,
    UsageError,
)
from transforms.core.imaging.headers import essential, webp_size
from transforms.core.imaging.sniffing import FORMATS, not_identified, refuse_what_is_no_image
from transforms.core.records import Float32, Frame, Image

# Once, at import: warnings.catch_warnings() swaps state of the whole process, for which decoding threads would race.
warnings.filterwarnings("error", category=PIL.Image.DecompressionBombWarning)
# One file with damaged EXIF can bring 65,535 different warnings into the log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

ResizeMode = Literal["squash", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: dict[str, PIL.Image.Resampling] = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSE: dict[int, PIL.Image.Transpose] = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_LARGEST_INTERMEDIATE = 64_000_000  # pixels; a crop of a 1 x 20,000 image would first enlarge it to 10^9


@dataclass(frozen=True)
class ImageLimits:
    """What the header of an image may declare. A side is limited too: a 1 x 64,000,000 image is no photograph.

    While it is decoded, a pixel takes up to 15 bytes: 1 GB for an image at the limit.
    """

    max_pixels: int = 64_000_000
    max_side: int = 20_000

    def __post_init__(self) -> None:
        most = PIL.Image.MAX_IMAGE_PIXELS or 2**31
        if not 1 <= self.max_pixels <= most or not 1 <= self.max_side <= 65_535:
            raise UsageError(
                f"the image limits are {self.max_pixels:,} pixels and {self.max_side:,} a side; "
                f"expected at most {most:,} (Pillow's own limit) and 65,535"
            )


@dataclass(frozen=True)
class Resize:
    """How an image is brought to the model's input ``size`` (H, W).

    "squash" stretches it. "crop" scales it until the shorter side is ``shorter`` pixels long (None: until it covers the
    size) and cuts the centre out: with ``shorter`` it is torchvision's Resize(shorter) + CenterCrop(size) on PIL
    images, to the bit, black where the crop reaches beyond the image. "pad" scales it until it fits and fills the rest
    with ``pad_color`` (RGB). All filters are Pillow's, with antialias.
    """

    size: tuple[int, int]
    mode: ResizeMode
    interpolation: Interpolation = "bilinear"
    shorter: int | None = None
    pad_color: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "pad_color", tuple(self.pad_color))
        if len(self.size) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in self.size):
            raise UsageError(f"resize size is {self.size}; expected (height, width), each from 1 to 8192 pixels")
        if self.mode not in get_args(ResizeMode):
            raise UsageError(f"resize mode is {self.mode!r}; expected one of {', '.join(get_args(ResizeMode))}")
        if self.interpolation not in _FILTERS:
            raise UsageError(f"interpolation is {self.interpolation!r}; expected one of {', '.join(_FILTERS)}")
        if self.shorter is not None and (self.mode != "crop" or not 1 <= self.shorter <= 8192):
            raise UsageError(
                f"shorter is {self.shorter} with mode {self.mode!r}; it belongs to 'crop' and is from 1 to 8192 pixels"
            )
        if len(self.pad_color) != 3 or not all(0 <= value <= 255 for value in self.pad_color):
            raise UsageError(f"pad_color is {self.pad_color}; expected three values from 0 to 255 (RGB)")


def sha256(data: bytes) -> str:
    """The identity of an image: the sha256 of its bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def require_safe_decoder() -> None:
    """UsageError where Pillow is older than 13.0.0, or where something told it to accept truncated files."""
    if int(PIL.__version__.split(".")[0]) < 13:
        raise UsageError(
            f"Pillow {PIL.__version__} is installed; releases before 13.0.0 have critical bugs in their decoders, and "
            "whymatch decodes images that it does not trust. Run: pip install --no-deps pillow==13.0.0"
        )
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so half an image would pass as a whole one. "
            "Remove the line that sets it."
        )


def decode(data: bytes, limits: ImageLimits = ImageLimits()) -> Image:
    """The image in ``data`` as RGB, uint8 [H0, W0, 3]; raises a subclass of ImageError, never anything else.

    JPEG, PNG, WEBP and GIF are read; the first frame of an animation. The image is turned as EXIF says (H0 and W0 are
    those after it), transparency lies on white, CMYK becomes RGB, and of 16 bits the upper eight are kept. The
    declared size is checked against ``limits`` before a pixel is decoded or memory for one is taken.
    """
    refuse_what_is_no_image(data)
    try:
        return _decode(data, limits)
    except ImageError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        # Pillow's own limit, above ours, where Pillow looks first.
        allowed = f"{limits.max_pixels:,} pixels and {limits.max_side:,} a side"
        raise ImageTooLarge(f"the image declares far more than the allowed {allowed}. Store a smaller copy.") from None
    except MemoryError:
        raise ImageTooLarge("there is not enough memory to decode the image. Store a smaller copy.") from None
    except UnidentifiedImageError:
        raise not_identified(data) from None
    except Exception as error:
        # Beside OSError, SyntaxError and ValueError, hostile bytes bring up any error in a decoder: struct.error,
        # IndexError, EOFError, zlib.error. None of them may stop a run.
        raise DamagedImage(f"the image's data is broken or cut short: {_brief(error)}. Upload it again.") from None


def resize(image: Image, spec: Resize) -> tuple[Image, Frame]:
    """``image`` [H0, W0, 3] in the input frame [H, W, 3], with the Frame that maps coordinates back."""
    original = (image.shape[0], image.shape[1])
    scaled, (top, left) = _placement(original, spec)
    frame = frame_of(original, spec)
    source = PIL.Image.fromarray(np.ascontiguousarray(image))
    if scaled[0] * scaled[1] > _LARGEST_INTERMEDIATE:
        return _resize_window(source, frame, spec), frame
    resample = _FILTERS[spec.interpolation]
    small = source.resize((scaled[1], scaled[0]), resample)
    if scaled == spec.size:
        return np.array(small), frame
    window = PIL.Image.new("RGB", (spec.size[1], spec.size[0]), spec.pad_color if spec.mode == "pad" else (0, 0, 0))
    window.paste(small, (-left, -top))
    return np.array(window), frame


def frame_of(original: tuple[int, int], spec: Resize) -> Frame:
    """Where the input frame of ``spec`` lies in an image of the size ``original`` (H0, W0)."""
    scaled, (top, left) = _placement(original, spec)
    # One input pixel is `unit` original pixels; the two axes differ by the rounding of the scaled size.
    unit = (original[0] / scaled[0], original[1] / scaled[1])
    box = (top * unit[0], left * unit[1], spec.size[0] * unit[0], spec.size[1] * unit[1])
    return Frame(original=original, size=spec.size, box=box)


def restore(saliency: NDArray[np.floating[Any]], frame: Frame) -> Float32:
    """A map [h, w] over the whole input frame, in the original's pixels: float32 [H0, W0].

    The map's values are samples at the centres of its cells; between them it is linear, and constant from the
    outermost centres to the edge. Pixels whose centre lies outside of the box that the model saw are NaN.
    """
    if saliency.ndim != 2 or 0 in saliency.shape:
        raise ValueError(f"a saliency map has the shape [h, w]; this one has {saliency.shape}")
    top, left, height, width = frame.box
    rows = _samples(frame.original[0], top, height, saliency.shape[0])
    columns = _samples(frame.original[1], left, width, saliency.shape[1])
    values = np.asarray(saliency, np.float64)
    by_row = values[rows.below] * (1 - rows.share[:, None]) + values[rows.above] * rows.share[:, None]  # [H0, w]
    out = by_row[:, columns.below] * (1 - columns.share) + by_row[:, columns.above] * columns.share  # [H0, W0]
    out[~rows.inside] = np.nan
    out[:, ~columns.inside] = np.nan
    return out.astype(np.float32)


@dataclass(frozen=True)
class _Samples:
    """Where the centres of the original's pixels fall between the centres of a map's cells, along one axis."""

    below: NDArray[np.intp]
    above: NDArray[np.intp]
    share: NDArray[np.float64]  # of the cell above, 0 to 1
    inside: NDArray[np.bool_]


def _samples(pixels: int, start: float, length: float, cells: int) -> _Samples:
    position = (np.arange(pixels) + 0.5 - start) / length  # 0 to 1 within the box
    cell = np.clip(position * cells - 0.5, 0, cells - 1)
    below = np.floor(cell).astype(np.intp)
    above = np.minimum(below + 1, cells - 1)
    return _Samples(below, above, cell - below, (position >= 0) & (position <= 1))


def _placement(original: tuple[int, int], spec: Resize) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to scale to, and where in it the input frame begins (top, left); negative: padding."""
    (height, width), (rows, columns) = original, spec.size
    if spec.mode == "squash":
        return spec.size, (0, 0)
    if spec.mode == "pad":
        scale = min(rows / height, columns / width)
        scaled = (min(rows, max(1, round(height * scale))), min(columns, max(1, round(width * scale))))
        return scaled, (-((rows - scaled[0]) // 2), -((columns - scaled[1]) // 2))
    if spec.shorter is not None:
        # The expressions, their truncation and their rounding are torchvision's.
        longer = int(spec.shorter * max(height, width) / min(height, width))
        scaled = (longer, spec.shorter) if width <= height else (spec.shorter, longer)
        return scaled, (_crop_start(scaled[0], rows), _crop_start(scaled[1], columns))
    if rows * width >= columns * height:
        scaled = (rows, max(columns, int(rows * width / height)))
    else:
        scaled = (max(rows, int(columns * height / width)), columns)
    return scaled, (_crop_start(scaled[0], rows), _crop_start(scaled[1], columns))


def _crop_start(length: int, window: int) -> int:
    if window > length:
        return -((window - length) // 2)
    return round((length - window) / 2)


def _resize_window(source: PIL.Image.Image, frame: Frame, spec: Resize) -> Image:
    """What a crop of an extremely long image shows, without the scaled image; may differ from it by rounding."""
    top, left, height, width = frame.box
    y0, y1 = max(0.0, top), min(float(source.height), top + height)
    x0, x1 = max(0.0, left), min(float(source.width), left + width)
    rows = slice(round((y0 - top) * spec.size[0] / height), round((y1 - top) * spec.size[0] / height))
    columns = slice(round((x0 - left) * spec.size[1] / width), round((x1 - left) * spec.size[1] / width))
    out = np.zeros((*spec.size, 3), np.uint8)
    part = source.resize(
        (columns.stop - columns.start, rows.stop - rows.start), _FILTERS[spec.interpolation], box=(x0, y0, x1, y1)
    )
    out[rows, columns] = np.array(part)
    return out


def _decode(data: bytes, limits: ImageLimits) -> Image:
    _check_size(webp_size(data), limits)
    with PIL.Image.open(io.BytesIO(essential(data)), formats=FORMATS) as image:
        _check_size((image.height, image.width), limits)
        image.load()
        _check_size((image.height, image.width), limits)
        if 0 in image.size:
            raise DamagedImage(f"the image declares {image.height} x {image.width} pixels")
        turn = _TRANSPOSE.get(_orientation(image))
        upright = _on_white(image)
        return np.array(upright if turn is None else upright.transpose(turn))


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    height, width = size
    if height * width > limits.max_pixels or max(size) > limits.max_side:
        raise ImageTooLarge(
            f"the image declares {height} x {width} pixels (height x width); allowed are {limits.max_pixels:,} pixels "
            f"and {limits.max_side:,} a side. Store a smaller copy."
        )


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where the tag is absent or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    except Exception:  # damaged metadata is common and says nothing about the pixels
        return 1


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """A decoded image of any mode that the four formats yield, as RGB with transparency on white."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "RGB" and isinstance(key := image.info.get("transparency"), tuple) and max(key) > 255:
        # A 16 bit RGB file: Pillow has kept the upper bytes of the pixels, but the whole of the transparent colour.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = PIL.Image.new("RGB", image.size, (255, 255, 255))
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """16 bit grey as 8 bit: the upper byte, as Pillow does for 16 bit RGB; its convert() would clip to white."""
    values = np.clip(np.asarray(image).astype(np.int32), 0, 65535)
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return PIL.Image.fromarray(grey)


def _brief(error: Exception) -> str:
    """A decoder's message on one line; it may quote bytes of the file."""
    return ascii(str(error))[1:-1][:160] or type(error).__name__
