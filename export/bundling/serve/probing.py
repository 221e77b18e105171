"""Networks run on random images: bare, and as they will be served, which must come to the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.graphs import batching
from export.graphs.network_file import TOLERANCE
from transforms.core.errors import BundleError
from transforms.core.records import Float32, Image
from transforms.serving import runtime


@dataclass(frozen=True)
class Opener:
    """Opens sessions of models whose external data lies in ``folder``."""

    folder: Path

    def __call__(self, model: onnx.ModelProto) -> Any:
        path = self.folder / "probe.onnx"
        try:
            path.write_bytes(model.SerializeToString())
            return runtime.session(path)
        finally:
            path.unlink(missing_ok=True)


def random_images(size: tuple[int, int]) -> Image:
    """The same images of noise, uint8 [PROBES,H,W,3], for every network of that ``size``."""
    return np.random.default_rng(0).integers(0, 256, (batching.PROBES, *size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class ServedGraph:
    """An open session of a wrapped network: the only ``batch`` that it takes (None: any), ``outputs`` to ask for, and
    what it is fed beside images.
    """

    session: Any
    batch: int | None
    outputs: Sequence[str]
    others: Mapping[str, Float32]

    def run(self, images: Image) -> list[Float32]:
        """The outputs for ``images`` uint8 [I,H,W,3], in batches of its own."""
        return self._run(images, self.batch or len(images))

    def _run(self, images: Image, step: int) -> list[Float32]:
        rows = []
        for start in range(0, len(images), step):
            block = images[start : start + step]
            padded = np.concatenate([block, np.repeat(block[-1:], step - len(block), axis=0)])
            results = self.session.run(list(self.outputs), {"image": padded, **self.others})
            rows.append([result[: len(block)] for result in results])
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def batch_invariant(self, images: Image) -> bool:
        """Whether a row has the same bits in whatever batch; a network of one fixed batch never meets another."""
        if self.batch is not None:
            return True
        whole = self.run(images)
        return all(
            np.array_equal(some, all_of_them)
            for step in (1, 2)
            for some, all_of_them in zip(self._run(images, step), whole, strict=True)
        )


def compare(what: str, found: Float32, expected: Float32, kind: str) -> None:
    """BundleError where ``found`` is not ``expected``, within the tolerance of the precision ``kind``."""
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not worst <= TOLERANCE[kind] * max(float(np.abs(expected).max()), 1e-6):
        raise BundleError(
            f"the bundle's {what} {found.shape} differs from the network's own {expected.shape} by {worst:.3g}: "
            "please report this network, whymatch cannot serve it"
        )
