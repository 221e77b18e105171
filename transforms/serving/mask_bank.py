"""The masks of a design on the device that a network runs on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from transforms.core.records import Float32
from transforms.core.saliency.contract import Masks
from transforms.serving.runtime import on_device


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
        return on_device(np.asarray(masks[..., None], np.float32), self.device)
