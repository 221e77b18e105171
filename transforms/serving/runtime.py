"""ONNX Runtime: devices, sessions, and the batches that a network is run in. The only file that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import BundleError, DeviceError, MissingDependency
from transforms.serving.bundle import Network

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependency(
        "ONNX Runtime is not installed: `pip install onnxruntime`, or 'onnxruntime-gpu[cuda,cudnn]' for an NVIDIA GPU "
        "(never both, they install into one folder)."
    ) from error

_Kind = TypeVar("_Kind", bound=np.generic)

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


def on_device(array: NDArray[Any], device: str) -> Any:
    """``array`` as an OrtValue on ``device``, which sessions take without another copy."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)


def full_batches(network: Network, device: str, batch: int) -> int | None:
    """The one batch size that ``network`` is run in, or None where any will do.

    cuDNN may choose another algorithm for another batch size, and with it other last bits; so does ONNX Runtime on the
    CPU for some networks, and the bundle says of which.
    """
    return network.batch or (batch if device == "cuda" or not network.batch_invariant else None)


def padded(images: NDArray[_Kind], fixed: int | None) -> tuple[NDArray[_Kind], int]:
    """``images`` repeated up to a fixed batch size, and how many of them are real."""
    count = len(images)
    if fixed is None or count == fixed:
        return images, count
    return np.concatenate([images, np.repeat(images[-1:], fixed - count, axis=0)]), count


def first_line(error: Exception) -> str:
    """What ``error`` says, as far as it fits into a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _preload() -> None:
    """Lets ONNX Runtime find the CUDA and cuDNN libraries that pip installed beside it."""
    if hasattr(ort, "preload_dlls") and PROVIDERS["cuda"] in ort.get_available_providers():
        ort.preload_dlls()


def _gpu_present() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
