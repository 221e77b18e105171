"""Networks to a bundle.

All is written to a folder beside the bundle's own, which is renamed at the end: a bundle is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from export.bundling.bundle_spec import BundleSpec
from export.bundling.serve.attributes import serve_attributes
from export.bundling.serve.gradient import serve_gradient
from export.bundling.serve.similarity import serve_similarity
from transforms.core.errors import BundleError, UsageError
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle, Network


def build(out: str | Path, spec: BundleSpec, *, verify: Callable[[Bundle, Path], None] | None = None) -> Bundle:
    """Writes a bundle to the new folder ``out``, or to an empty one, and returns what its bundle.json says.

    The networks are run on random images: bare, in several batch sizes, then as the bundle serves them. A fixed batch
    dimension is made dynamic where that changes nothing (``export.graphs.batching``), else recorded.

    Args:
      verify: is shown the bundle and its folder before it goes to ``out``; what it raises leaves nothing behind.

    Raises:
      UsageError: ``out`` holds something.
      BundleError: a network cannot serve, or not as described; the message says what to do.
    """
    target = Path(out)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(f"{target} is there already: name a new folder for the bundle")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        made = _write_graphs(spec, staging)
        bundles.write(made, staging)
        if verify is not None:
            verify(made, staging)
        staging.chmod(0o755)  # a temporary folder is for its owner only
        os.rename(staging, target)  # onto an empty folder too
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return made


def _write_graphs(spec: BundleSpec, folder: Path) -> Bundle:
    """Writes the ONNX files of the bundle into ``folder``; returns what its bundle.json is to say."""
    size, preprocessing = spec.resize.size, spec.similarity.preprocessing
    similarity = serve_similarity(spec.similarity, size, folder, normalise=spec.similarity_function == "cosine")
    gradient = _write_gradient(spec, folder)
    attributes = spec.attributes
    return Bundle(
        similarity=similarity.network,
        resize=spec.resize,
        embedding_size=similarity.embedding_size,
        fill_mean=preprocessing.fill_mean,
        similarity_function=spec.similarity_function,
        attributes=None if attributes is None else serve_attributes(attributes, preprocessing, size, folder),
        gradient=None if isinstance(gradient, str) else gradient,
        projection=None if isinstance(similarity.projection, str) else similarity.projection,
        missing={
            name: part
            for name, part in (("projection", similarity.projection), ("gradient", gradient))
            if isinstance(part, str)
        },
        vocabulary=() if attributes is None else tuple(attributes.vocabulary),
        priors=None if spec.priors is None else tuple(spec.priors),
        phi=spec.phi,
        conditions=dict(spec.conditions),
        training=spec.training,
        versions={"onnx": metadata.version("onnx"), **spec.versions},
    )


def _write_gradient(spec: BundleSpec, folder: Path) -> Network | str:
    """The record of gradient.onnx in ``folder``, or why there is none."""
    if isinstance(spec.gradient, str):
        return spec.gradient
    try:
        return serve_gradient(spec.gradient, spec.similarity.preprocessing, spec.resize.size, folder)
    except BundleError as error:
        (folder / "gradient.onnx").unlink(missing_ok=True)
        return str(error)
