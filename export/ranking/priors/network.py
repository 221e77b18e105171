"""A bundle's similarity network cut in two: images to a layer's values, and these to embeddings."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.graphs.cut import Cut, cut, run_tail, run_trunk, whole
from export.graphs.network_file import Layout, load
from export.ranking.priors.progress_lines import progress_lines
from transforms import storage
from transforms.core.errors import NonFiniteEmbedding, PairError
from transforms.core.imaging.images import ImageLimits
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.messages import Echo
from transforms.core.records import Float32
from transforms.serving import bundle as bundles
from transforms.serving import runtime
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader, LoadedImage, try_load
from transforms.serving.models import Serving
from transforms.serving.runtime import resolve_device


@dataclass(frozen=True, eq=False)
class ImageValues:
    """One image: the sha256 of its bytes, its embedding [D], and the layer's values of it, empty where not kept."""

    sha256: str
    embedding: Float32
    values: Float32

    def without_values(self) -> ImageValues:
        """The same, for when the layer's values would fill the memory."""
        return replace(self, values=np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """The two parts of a cut network in open sessions, and what loads the images that go in."""

    cut: Cut
    trunk: Any
    tail: Any
    load: ImageLoader
    batch: int

    def run_images(
        self, addresses: Iterable[str], doing: str, left_out: Counter[str], echo: Echo
    ) -> Iterator[tuple[str, ImageValues]]:
        """Every distinct image of ``addresses`` that can be used; the others are counted by reason.

        Images are held for one batch only. Batches are always full: a row's last bits may depend on their size.
        """
        distinct = list(dict.fromkeys(addresses))
        progress = progress_lines(doing, "images", len(distinct), echo)
        for start in range(0, len(distinct), self.batch):
            some = distinct[start : start + self.batch]
            for address, outcome in self._run_batch(some):
                if isinstance(outcome, PairError):
                    left_out[outcome.reason] += 1
                else:
                    yield address, outcome
            progress.add(len(some))

    def _run_batch(self, addresses: Sequence[str]) -> Iterator[tuple[str, ImageValues | PairError]]:
        """The images that cannot be loaded first, then what the trunk makes of the others."""
        loaded: dict[str, LoadedImage] = {}
        for address in addresses:
            image = try_load(address, self.load)
            if isinstance(image, PairError):
                yield address, image
            else:
                loaded[address] = image
        if not loaded:
            return
        pixels = np.stack([image.pixels for image in loaded.values()])
        results = zip(*run_trunk(self.trunk, self.cut, pixels, self.batch), strict=True)
        for (address, image), (embedding, values) in zip(loaded.items(), results, strict=True):
            if np.isfinite(embedding).all() and np.isfinite(values).all():
                yield address, ImageValues(image.sha256, embedding, values)
            else:
                yield address, NonFiniteEmbedding("the embedding or the layer's values hold NaN or infinity")

    def run_values(self, values: Float32) -> Float32:
        """Embeddings [B, D] of the layer's ``values`` [B, ...]: the tail."""
        return run_tail(self.tail, self.cut, values)


def open_cut(serving: Serving, bundle: Bundle, layer: str | None, access: storage.Access) -> CutNetwork:
    """The similarity network of ``bundle``, which lies where ``serving`` says, cut at ``layer``.

    ``layer`` is None for the last feature map. BundleError where the network cannot be cut there.
    """
    with tempfile.TemporaryDirectory(prefix="whymatch-bundle-") as name:
        private = Path(name)
        bundles.fetch(serving.bundle, private)
        graph = whole(private / bundle.similarity.file)
        features = None if bundle.projection is None else _features_layout(private / bundle.projection.file)
    device = resolve_device(serving.device)

    def opened(model: onnx.ModelProto) -> Any:
        return runtime.session(model.SerializeToString(), device, serving.threads)

    made = cut(graph, bundle.similarity, bundle.resize.size, layer=layer, features=features, open_session=opened)
    loader = ImageLoader(access, ImageLimits(), bundle.resize)
    rows = bundle.similarity.batch or serving.batch or DEFAULT_BATCH[device]
    return CutNetwork(made, opened(made.trunk), opened(made.tail), loader, rows)


def _features_layout(projection: Path) -> Layout:
    """The layout of the output "features": a projection of channels last begins with a Transpose."""
    return "nhwc" if any(node.op_type == "Transpose" for node in load(projection).model.graph.node) else "nchw"
