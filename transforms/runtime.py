"""ONNX Runtime behind two small classes. The only file that imports onnxruntime.

The perturbation is part of the similarity graph (``transforms.bundle``), so a perturbed image never exists outside of
the runtime: an image, a fill and the blocks of a mask bank go in, embeddings come out. A bank lies on the device and is
bound, not copied, for every query; the CPU takes the same path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from transforms.bundle import Bundle
from transforms.core.errors import BundleError, DeviceError, MissingDependency, ModelFailed
from transforms.core.saliency.contract import Design
from transforms.core.types import Float32, Image

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependency(
        "ONNX Runtime is not installed: `pip install onnxruntime`, or 'onnxruntime-gpu[cuda,cudnn]' for an NVIDIA GPU "
        "(never both, they install into one folder)."
    ) from error

Device = Literal["cpu", "cuda", "auto"]

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

    design: Design
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
      bundle, folder: a bundle, and the local folder that holds its files (``transforms.bundle.fetch``).
      device: "cpu" or "cuda". ``provider`` is the name of the ONNX Runtime provider that runs.
      threads: CPU threads of the session.
      batch: forward passes at once; a bundle of a fixed batch size overrules it.
    """

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        self.size = bundle.resize.size
        self.dimension = bundle.embedding_size
        self.device = device
        self.provider = PROVIDERS[device]
        # cuDNN may choose another algorithm for another batch size, and with it other last bits
        self.fixed = bundle.similarity.batch or (batch if device == "cuda" else None)
        self.batch = self.fixed or batch
        self._session = session(folder / bundle.similarity.file, device, threads)
        self._keep = np.ones((1, *self.size, 1), np.float32)
        self._no_fill = np.zeros((1, 1, 1, 3), np.float32)

    def bank(self, design: Design, hold: bool = True) -> MaskBank:
        """The mask bank of ``design`` on this model's device, in this model's batches."""
        return MaskBank(design, self.batch, self.device, hold, pad=self.fixed is not None)

    def embed(self, images: Image) -> Float32:
        """Embeddings float32 [I, D] of ``images`` uint8 [I, H, W, 3]."""
        out = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), self.batch):
            block, count = _padded(images[start : start + self.batch], self.fixed)
            out[start : start + count] = self._run(block, self._keep, self._no_fill)[:count]
        return out

    def perturbed(self, image: Image, bank: MaskBank, fill: Float32) -> Float32:
        """Embeddings float32 [N, D] of ``image`` uint8 [H, W, 3] under every mask of ``bank``.

        ``fill`` is float32 [1, 1, 1, 3] (a colour) or [1, H, W, 3] (an image), in pixel units 0 to 255.
        """
        out = np.empty((bank.design.n, self.dimension), np.float32)
        try:
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", self._upload(image[None]))
            binding.bind_ortvalue_input("fill", self._upload(fill))
            done = 0
            for masks, count in bank:
                binding.bind_ortvalue_input("mask", masks)
                binding.bind_output("embedding", "cpu")
                self._session.run_with_iobinding(binding)
                out[done : done + count] = binding.get_outputs()[0].numpy()[:count]
                done += count
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed under masks: {_first_line(error)}") from None
        return out

    def _upload(self, array: np.ndarray[Any, Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)

    def _run(self, images: Image, masks: Float32, fill: Float32) -> Float32:
        feeds = {"image": images, "mask": masks, "fill": fill}
        try:
            embeddings: Float32 = self._session.run(["embedding"], feeds)[0]
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelFailed(f"the similarity network failed: {_first_line(error)}") from None
        return embeddings


class AttributeModel:
    """The attribute graph of a bundle. Arguments as for :class:`SimilarityModel`."""

    def __init__(self, bundle: Bundle, folder: Path, device: str, threads: int, batch: int) -> None:
        if bundle.attributes is None:
            raise BundleError("this bundle has no attribute network")
        self.names = bundle.vocabulary
        self.fixed = bundle.attributes.batch or (batch if device == "cuda" else None)
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


def _padded(images: Image, fixed: int | None) -> tuple[Image, int]:
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
