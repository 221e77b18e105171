"""The networks that a worker process holds, opened once and shared by its threads and steps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from transforms import bundle as bundles
from transforms.core.images import require_safe_decoder
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.saliency.methods import Method
from transforms.runtime import AttributeModel, Device, MaskBank, SimilarityModel, resolve_device


@dataclass(frozen=True)
class Serving:
    """How a bundle is served: its address, the device, CPU threads a session, forward passes at once.

    ``device`` "auto" and ``batch`` None are settled on the worker that serves, not where the run is launched.
    ``hold_banks`` keeps mask banks on the device between queries.
    """

    bundle: str
    device: Device = "cpu"
    threads: int = 1
    batch: int | None = None
    hold_banks: bool = True


class Models:
    """A bundle's open sessions and its mask banks."""

    def __init__(self, serving: Serving) -> None:
        require_safe_decoder()
        self._serving = serving
        # BLAS's threads are set like ONNX Runtime's: their number must not change a result
        self._limits = threadpool_limits(limits=1, user_api="blas")
        device = resolve_device(serving.device)
        with tempfile.TemporaryDirectory(prefix="whymatch-bundle-") as name:
            folder = Path(name)
            self.bundle = bundles.fetch(serving.bundle, folder)
            opened: list[Any] = [self.bundle, folder, device, serving.threads, serving.batch or DEFAULT_BATCH[device]]
            self.similarity = SimilarityModel(*opened)
            self.attributes = AttributeModel(*opened) if self.bundle.attributes else None
        self._banks: dict[str, MaskBank] = {}

    def bank(self, method: Method, sha256: str) -> MaskBank:
        """The mask bank of ``method`` for the image of that ``sha256``, which chooses among the method's banks."""
        design = method.design(self.similarity.size, int(sha256[:8], 16) % method.banks)
        if design.key is None:
            return self.similarity.bank(design, hold=False)
        if design.key not in self._banks:
            # setdefault: of two threads that come at once, both use the same bank
            self._banks.setdefault(design.key, self.similarity.bank(design, self._serving.hold_banks))
        return self._banks[design.key]
