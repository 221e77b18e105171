"""The networks that a worker process holds, opened once and shared by its threads and steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from transforms.core.imaging.images import require_safe_decoder
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.saliency.contract import Design, Graph, Method, Perturbing
from transforms.serving import bundle as bundles
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.gradient_model import GradientModel
from transforms.serving.mask_bank import MaskBank
from transforms.serving.projection_model import ProjectionModel
from transforms.serving.runtime import Device, resolve_device
from transforms.serving.similarity_model import SimilarityModel
from transforms.serving.superpixels import require_segmentation


@dataclass(frozen=True)
class Serving:
    """How a bundle is served: its address, the device, CPU threads a session, forward passes at once.

    ``device`` "auto" and ``batch`` None are settled on the worker that serves, not where the run is launched.
    ``hold_banks`` keeps mask banks on the device between images. ``graphs`` are opened beside the similarity and the
    attribute network, ``superpixels`` says whether images are cut into them; ``attributes`` False leaves that one out.
    """

    bundle: str
    device: Device = "cpu"
    threads: int = 1
    batch: int | None = None
    hold_banks: bool = True
    graphs: tuple[Graph, ...] = ()
    superpixels: bool = False
    attributes: bool = True

    def with_needs_of(self, methods: Iterable[Method]) -> Serving:
        """The same, with what ``methods`` ask for besides."""
        needs = [method.needs for method in methods]
        graphs = sorted({*self.graphs, *(one.graph for one in needs if one.graph)})
        return replace(
            self, graphs=tuple(graphs), superpixels=self.superpixels or any(one.superpixels for one in needs)
        )


class Models:
    """A bundle's open sessions and its mask banks.

    ``gradient`` and ``projection`` are there where ``serving.graphs`` names them; BundleError where the bundle has
    none.
    """

    gradient: GradientModel
    projection: ProjectionModel

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
            self.attributes = AttributeModel(*opened) if self.bundle.attributes and serving.attributes else None
            if serving.superpixels:
                require_segmentation()
            if "gradient" in serving.graphs:
                self.gradient = GradientModel(*opened)
            if "projection" in serving.graphs:
                self.projection = ProjectionModel(*opened)
        self._designs: dict[tuple[Perturbing, int], Design] = {}
        self._banks: dict[str, MaskBank] = {}

    def design(self, method: Perturbing, sha256: str) -> Design:
        """The design of ``method`` for the image of that ``sha256``, which chooses among the method's banks."""
        number = int(sha256[:8], 16)
        if not method.banks:
            return method.design(self.similarity.size, number)
        key = (method, number % method.banks)
        if key not in self._designs:
            # setdefault: of two threads that come at once, both use the same design and the same bank
            design = self._designs.setdefault(key, method.design(self.similarity.size, key[1]))
            if design.key is not None:
                self._banks.setdefault(design.key, self.similarity.bank(design, self._serving.hold_banks))
        return self._designs[key]

    def bank_of(self, design: Design) -> MaskBank:
        """The mask bank of ``design``: the one that all images of its bank share, else one for this image alone."""
        held = self._banks.get(design.key) if design.key is not None else None
        return held or self.similarity.bank(design, hold=False)
