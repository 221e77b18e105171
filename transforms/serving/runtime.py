"""ONNX Runtime behind two small classes. The only file that imports onnxruntime.

The perturbation is part of the similarity graph (``transforms.serving.bundle``), so a perturbed image never exists
outside of the runtime: an image, a fill and the blocks of a mask bank go in, embeddings come out. A bank lies on the
device and is bound, not copied, for every query; the CPU takes the same path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import BundleError, DeviceError, MissingDependency, ModelFailed
from transforms.core.records import Float32, Image
from transforms.core.saliency.contract import Masks
from transforms.serving.bundle import Bundle, Network

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependency(
        "ONNX Runtime is not installed: `pip install onnxruntime`, or 'onnxruntime-gpu[cuda,cudnn]' for an NVIDIA GPU "
        "(never both, they install into one folder)."
    ) from error

_Kind = TypeVar("_Kind", bound=np.generic)

Device = Literal["cpu", "cuda", "auto"]

_GRADIENT_ROWS = 16
"""Passes of the gradient at once: a query has few references, and what a full batch lacks is filled up in vain."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """What ``device`` means on this machine; DeviceError where "cuda" is asked for and is not to be had."""
    if device == "cpu":
        return "cpu"
    _preload()
    available = PROVIDERS["cuda"] in ort.get_available_providers()
    if device == "cuda" and not available:
        raise DeviceError(
            f"--device cuda: this ONNX Runtime {ort.__version__} offers {', '.join(ort.get_available_providers())}. "
            "Install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime, or use --device cpu."
        )
    return "cuda" if available and (device == "cuda" or _gpu_present()) else "cpu"


def session(model: str | Path | bytes, device: str = "cpu", threads: int = 1) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``device`` that uses ``threads`` CPU threads.

    Sessions are never pickled: workers open their own. ONNX Runtime falls back to the CPU with no more than a warning,
    so DeviceError is raised where another provider than the one asked for would run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised with its message; a log line would only repeat it
    wanted = PROVIDERS[device]
    if device == "cuda":
        _preload()
    source = model if isinstance(model, bytes) else str(model)
    try:
        opened = ort.InferenceSession(source, options, providers=[wanted])
    except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
        if device == "cuda":
            raise DeviceError(f"--device cuda: the CUDA provider did not start: {error}") from None
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load the network: {error}") from None
    if opened.get_providers()[0] != wanted:
        raise DeviceError(
            f"--device {device}: {wanted} did not start, ONNX Runtime would run {opened.get_providers()[0]} instead. "
            "Check that the driver, CUDA 13 and cuDNN 9 are there, or use --device cpu."
        )
    return opened


@dataclass
class MaskBank:
    """The masks of one design, cut into batches and laid on the device once.

    ``hold`` keeps all blocks [M, H, W, 1] on the device; else they are drawn again for every query, which is slower and
    needs the memory of one block. ``pad`` fills the last block up, for a network that takes full batches only; others
    are spared the passes. A bank may be used by several threads at once.
    """

    design: Masks
    batch: int
    device: str = "cpu"
    hold: bool = True
    pad: bool = False
    _held: list[tuple[Any, int]] | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Iterates over ``(OrtValue float32 [M, H, W, 1], count)``, M <= ``batch``; rows past ``count`` are padding."""
        if not self.hold:
            return self._blocks()
        with self._lock:  # whole or not at all: a query that fails half way leaves no part of a bank to the next
            if self._held is None:
                self._held = list(self._blocks())
            return iter(self._held)

    def _blocks(self) -> Iterator[tuple[Any, int]]:
        for start in range(0, self.design.n, self.batch):
            stop = min(start + self.batch, self.design.n)
            yield self._upload(self.design.masks(start, stop)), stop - start

    def _upload(self, masks: Float32) -> Any:
        missing = self.batch - len(masks)
        if missing and self.pad:
            masks = np.concatenate([masks, np.ones((missing, *masks.shape[1:]), np.float32)])
        array = np.ascontiguousarray(masks[..., None], dtype=np.float32)
        return ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)


class SimilarityModel:
    """The similarity graph of a bundle: images to embeddings, and one image under many masks to embeddings.

    Args:
      bundle, folder: a bundle, and the local folder that holds its files (``transforms.serving.bundle.fetch``).
      device: "cpu" or "cuda". ``provider`` is the name of the ONNX Runtime provider that runs.
      threads: CPU threads of the session.
      batch: forward passes at once; a bundle of a fixed batch size overrules it.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        self.size = bundle.resize.size
        self.dimension = bundle.embedding_size
        self.device = device
        self.provider = PROVIDERS[device]
        self.fixed = _full_batches(bundle.similarity, device, batch)
        self.batch = self.fixed or batch
        self._session = session(folder / bundle.similarity.file, device, threads)
        self._no_features = None if bundle.projection else _no_projection(bundle)
        self._keep = np.ones((1, *self.size, 1), np.float32)
        self._no_fill = np.zeros((1, 1, 1, 3), np.float32)

    def bank(self, design: Masks, hold: bool = True) -> MaskBank:
        """The mask bank of ``design`` on this model's device, in this model's batches."""
        return MaskBank(design, self.batch, self.device, hold, pad=self.fixed is not None)

    def embed(self, images: Image) -> Float32:
        """Embeddings float32 [I, D] of ``images`` uint8 [I, H, W, 3]."""
        out = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), self.batch):
            block, count = _padded(images[start : start + self.batch], self.fixed)
            out[start : start + count] = self._run(block, ["embedding"])[0][:count]
        return out

    def features(self, images: Image) -> tuple[Float32, Float32]:
        """Embeddings float32 [I, D] of ``images`` uint8 [I, H, W, 3], and what :class:`ProjectionModel` takes of them.

        The second is the network's last feature map in the network's own layout and precision, in one pass with the
        first. BundleError where the bundle has no projection.
        """
        if self._no_features is not None:
            raise BundleError(self._no_features)
        rows, maps = [], []
        for start in range(0, len(images), self.batch):
            block, count = _padded(images[start : start + self.batch], self.fixed)
            embeddings, features = self._run(block, ["embedding", "features"])
            rows.append(embeddings[:count])
            maps.append(features[:count])
        return np.concatenate(rows), np.concatenate(maps)

    def perturbed(self, image: Image, bank: MaskBank, fill: Float32) -> Float32:
        """Embeddings float32 [N, D] of ``image`` uint8 [H, W, 3] under every mask of ``bank``.

        ``fill`` is float32 [1, 1, 1, 3] (a colour) or [1, H, W, 3] (an image), in pixel units 0 to 255.
        """
        return np.concatenate(list(self.blocks(image, bank, fill)))

    def blocks(self, image: Image, bank: MaskBank, fill: Float32) -> Iterator[Float32]:
        """As :meth:`perturbed`, batch by batch: a caller who has seen enough stops asking."""
        try:
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", self._upload(image[None]))
            binding.bind_ortvalue_input("fill", self._upload(fill))
            for masks, count in bank:
                binding.bind_ortvalue_input("mask", masks)
                binding.bind_output("embedding", "cpu")
                self._session.run_with_iobinding(binding)
                yield binding.get_outputs()[0].numpy()[:count]
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed under masks: {_first_line(error)}") from None

    def _upload(self, array: np.ndarray[Any, Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)

    def _run(self, images: Image, outputs: list[str]) -> list[Float32]:
        feeds = {"image": images, "mask": self._keep, "fill": self._no_fill}
        try:
            results: list[Float32] = self._session.run(outputs, feeds)
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed: {_first_line(error)}") from None
        return results


class AttributeModel:
    """The attribute graph of a bundle. Arguments as for :class:`SimilarityModel`."""

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.attributes is None:
            raise BundleError("this bundle has no attribute network")
        self.names = bundle.vocabulary
        self.fixed = _full_batches(bundle.attributes, device, batch)
        self.batch = self.fixed or batch
        self._session = session(folder / bundle.attributes.file, device, threads)

    def predict(self, images: Image) -> tuple[Float32, Float32]:
        """Scores float32 [I, A] in [0, 1] and activation maps float32 [I, A, h, w] of ``images`` uint8 [I, H, W, 3]."""
        scores, maps = [], []
        try:
            for start in range(0, len(images), self.batch):
                block, count = _padded(images[start : start + self.batch], self.fixed)
                some_scores, some_maps = self._session.run(["scores", "maps"], {"image": block})
                scores.append(some_scores[:count])
                maps.append(some_maps[:count])
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the attribute network failed: {_first_line(error)}") from None
        if not all(np.isfinite(some).all() for some in (*scores, *maps)):
            raise ModelFailed("the attribute network gave NaN or infinity")
        return np.concatenate(scores), np.concatenate(maps)


class ProjectionModel:
    """The projection of a bundle: feature maps to what each position adds to the embedding before the L2 norm.

    Arguments as for :class:`SimilarityModel`. BundleError, with the reason, where the bundle has none.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.projection is None:
            raise BundleError(_no_projection(bundle))
        self.fixed = _full_batches(bundle.projection, device, batch)
        self.batch = batch
        self._session = session(folder / bundle.projection.file, device, threads)

    def local(self, features: Float32) -> tuple[Float32, Float32]:
        """Local parts float32 [I, D, h, w] and bias float32 [D] for ``features`` of :meth:`SimilarityModel.features`.

        The sum of an image's local parts over positions, plus the bias, is its embedding before the L2 norm.
        """
        parts = []
        try:
            for start in range(0, len(features), self.batch):
                block, count = _padded(features[start : start + self.batch], self.fixed)
                some, bias = self._session.run(["local", "bias"], {"features": block})
                parts.append(some[:count])
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the projection failed: {_first_line(error)}") from None
        if not all(np.isfinite(part).all() for part in parts):
            raise ModelFailed("the network's feature map, or its projection, holds NaN or infinity")
        return np.concatenate(parts), bias[0]


class GradientModel:
    """The gradient graph of a bundle: how the similarity changes with the mask.

    Arguments as for :class:`SimilarityModel`. BundleError, with the reason, where the bundle has none.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.gradient is None:
            raise BundleError(_no_gradient(bundle))
        self.size = bundle.resize.size
        self.dimension = bundle.embedding_size
        rows = min(batch, _GRADIENT_ROWS)
        self.fixed = _full_batches(bundle.gradient, device, rows)
        self.batch = self.fixed or rows
        self._session = session(folder / bundle.gradient.file, device, threads)
        if bundle.conditions and not any(
            one.name == "condition" for one in self._session.get_overridable_initializers()
        ):
            raise BundleError(
                "the bundle's similarity has conditions, and its gradient graph takes none; export the bundle again"
            )

    def at(self, image: Image, fill: Float32, condition: Float32 | None = None) -> GradientAt:
        """The gradient for ``image`` uint8 [H, W, 3] and ``fill`` float32 [1, 1, 1, 3] or [1, H, W, 3], pixel units.

        Rows of masks may have images and fills of their own: ``image`` [B, H, W, 3], ``fill`` [B, h, w, 3]. What is
        compared is the embedding under the ``condition`` of that mask [D]; references are given as it compares them.
        """
        images = image if image.ndim == 4 else image[None]
        if images.shape[1:] != (*self.size, 3) or fill.ndim != 4 or fill.shape[1:] not in ((1, 1, 3), (*self.size, 3)):
            raise ValueError(
                f"expected an image [H, W, 3] or [B, H, W, 3] and a fill [1 or B, 1 or H, 1 or W, 3] of the frame "
                f"{self.size}, got {image.shape} and {fill.shape}"
            )
        return GradientAt(self, images, fill, condition)

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[Float32]:
        """Similarity, gradient and embedding of one batch of exactly as many rows as the graph takes."""
        try:
            results: list[Float32] = self._session.run(["similarity", "gradient", "embedding"], feeds)
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the gradient network failed: {_first_line(error)}") from None
        return results


@dataclass(frozen=True)
class GradientAt:
    """The :class:`~transforms.core.saliency.contract.Gradient` of ``images`` [I, H, W, 3] and ``fills`` [F, h, w, 3].

    I and F are 1, for all rows, or the number of rows. ``condition`` is a mask [D], None for the embedding as it is.
    """

    model: GradientModel
    images: Image
    fills: Float32
    condition: Float32 | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.model.size

    def __call__(
        self, masks: Float32, references: Float32, noise: Float32 | None = None
    ) -> tuple[Float32, Float32, Float32]:
        """Similarity [B], gradient [B, H, W], embedding [B, D]; ModelFailed where the network fails or gives NaN."""
        rows = len(masks)
        if masks.shape[1:] != self.size or references.shape != (rows, self.model.dimension):
            raise ValueError(
                f"expected masks [B, {self.size[0]}, {self.size[1]}] and references [B, {self.model.dimension}], "
                f"got {masks.shape} and {references.shape}"
            )
        if not {len(self.images), len(self.fills)} <= {1, rows}:
            raise ValueError(f"{len(self.images)} images, {len(self.fills)} fills for {rows} masks: give 1 or {rows}")
        noise = np.zeros((1, 1, 1, 3), np.float32) if noise is None else np.asarray(noise, np.float32)
        found = (
            np.empty(rows, np.float32),
            np.empty((rows, *self.size), np.float32),
            np.empty((rows, self.model.dimension), np.float32),
        )
        for start in range(0, rows, self.model.batch):
            part = slice(start, start + self.model.batch)
            feeds: dict[str, NDArray[Any]] = {
                "image": self._rows(self.images, part),
                "mask": self._rows(np.asarray(masks, np.float32), part, shared=False),
                "fill": self._rows(np.asarray(self.fills, np.float32), part),
                "noise": noise,
                "reference": self._rows(np.asarray(references, np.float32), part, shared=False),
            }
            if self.condition is not None:
                feeds["condition"] = self.condition[None]
            for whole, some in zip(found, self.model.run(feeds), strict=True):
                whole[part] = some[: rows - start]
        if not all(np.isfinite(part).all() for part in found):
            raise ModelFailed("the gradient network gave NaN or infinity")
        return found

    def _rows(self, values: NDArray[_Kind], part: slice, shared: bool = True) -> NDArray[_Kind]:
        """The rows of a batch, filled up to a fixed size; what is shared by all rows as it is."""
        if shared and len(values) == 1:
            return values
        return _padded(values[part], self.model.fixed)[0]


def _no_gradient(bundle: Bundle) -> str:
    reason = bundle.missing.get("gradient", "the bundle does not say why")
    return (
        f"this bundle has no gradient, which mask, gradient_x_input and integrated_gradients need: {reason}. "
        "Choose another method for this one, such as rise."
    )


def _no_projection(bundle: Bundle) -> str:
    reason = bundle.missing.get("projection", "the bundle does not say why")
    return (
        f"this bundle has no projection, which decomposition needs: {reason}. Decomposition explains networks that end "
        "in an average pooling and linear layers; choose another method for this one, such as rise."
    )


def _full_batches(network: Network, device: str, batch: int) -> int | None:
    """The one batch size that ``network`` is run in, or None where any will do.

    cuDNN may choose another algorithm for another batch size, and with it other last bits; so does ONNX Runtime on the
    CPU for some networks, and the bundle says of which.
    """
    return network.batch or (batch if device == "cuda" or not network.batch_invariant else None)


def _padded(images: NDArray[_Kind], fixed: int | None) -> tuple[NDArray[_Kind], int]:
    """``images`` repeated up to a fixed batch size, and how many of them are real."""
    count = len(images)
    if fixed is None or count == fixed:
        return images, count
    return np.concatenate([images, np.repeat(images[-1:], fixed - count, axis=0)]), count


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _preload() -> None:
    """Lets ONNX Runtime find the CUDA and cuDNN libraries that pip installed beside it."""
    if hasattr(ort, "preload_dlls") and PROVIDERS["cuda"] in ort.get_available_providers():
        ort.preload_dlls()


def _gpu_present() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
