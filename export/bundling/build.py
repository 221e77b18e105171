"""Networks to a bundle.

All is written to a folder beside the bundle's own, which is renamed at the end: a bundle is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from export.bundling.prefix import Activation
from export.bundling.preprocessing import Preprocessing
from export.bundling.served_graphs import (
    AttributeNetwork,
    SimilarityNetwork,
    serve_attributes,
    serve_gradient,
    serve_similarity,
)
from transforms.core.attributes.ranking import Phi
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging.images import Resize
from transforms.core.similarity import SimilarityFunction
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle

NO_GRADIENT = (
    "the bundle was made of an ONNX file, which holds no gradient; whymatch export makes one from a checkpoint of torch"
)


def build(
    out: str | Path,
    *,
    similarity: str | Path | onnx.ModelProto,
    similarity_preprocessing: Preprocessing,
    resize: Resize,
    input: str | None = None,
    output: str | None = None,
    similarity_function: SimilarityFunction = "cosine",
    attributes: str | Path | onnx.ModelProto | None = None,
    attributes_preprocessing: Preprocessing | None = None,
    attributes_input: str | None = None,
    scores_output: str | None = None,
    maps_output: str | None = None,
    activation: Activation = "none",
    gradient: onnx.ModelProto | str = NO_GRADIENT,
    vocabulary: Sequence[str] = (),
    priors: Sequence[float] | None = None,
    phi: Phi = (0.5, 0.5, 0.0),
    conditions: Mapping[str, tuple[float, ...]] | None = None,
    training: Mapping[str, Any] | None = None,
    parity: float | None = None,
    attributes_parity: float | None = None,
    versions: Mapping[str, str] | None = None,
    verify: Callable[[Bundle, Path], None] | None = None,
) -> Bundle:
    """Writes a bundle to the new folder ``out``, or to an empty one, and returns what its bundle.json says.

    The networks are run on random images: bare, in several batch sizes, then as the bundle serves them. A fixed batch
    dimension is made dynamic where that changes nothing (``export.graphs.batching``), else recorded.

    Args:
      similarity: the embedding network, output [B,D] or [B,D,1,1]; a path, or a model that holds all of its data.
      similarity_preprocessing, resize: what stands in front of it.
      input, output: names, None where there is only one.
      similarity_function: "cosine" ends the graph in the L2 norm.
      attributes: the attribute network, of scores [B,A] and activation maps [B,A,h,w] or [B,h,w,A], or None.
      attributes_preprocessing: None for that of the similarity network.
      scores_output, maps_output: names, None where the number of dimensions tells them apart.
      activation: what turns the scores into 0 to 1, "none" where they are already.
      gradient: the traced gradient of the similarity (``export.bundling.gradient``), or why there is none.
      vocabulary, priors, phi, conditions, training, parity, versions: as in ``transforms.serving.bundle``.
      verify: is shown the bundle and its folder before it goes to ``out``; what it raises leaves nothing behind.

    Raises:
      UsageError: ``out`` holds something.
      BundleError: a network cannot serve, or not as described; the message says what to do.
    """
    target = Path(out)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(f"{target} is there already: name a new folder for the bundle")
    if (attributes is None) != (not vocabulary):
        raise UsageError(
            f"{'no' if attributes is None else 'an'} attribute network and {len(vocabulary)} attribute names: give "
            "both, the names in the order of the network's scores, or neither for a bundle of maps only"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        given = SimilarityNetwork(similarity, similarity_preprocessing, input, output, parity)
        normalise = similarity_function == "cosine"
        served, embedding_size, projection = serve_similarity(given, resize.size, staging, normalise=normalise)
        missing = {"projection": projection} if isinstance(projection, str) else {}
        served_gradient = None
        if not isinstance(gradient, str):
            try:
                served_gradient = serve_gradient(gradient, similarity_preprocessing, resize.size, staging)
            except BundleError as error:
                (staging / "gradient.onnx").unlink(missing_ok=True)
                gradient = str(error)
        if isinstance(gradient, str):
            missing["gradient"] = gradient
        served_attributes = None
        if attributes is not None:
            served_attributes = serve_attributes(
                AttributeNetwork(
                    network=attributes,
                    preprocessing=attributes_preprocessing or similarity_preprocessing,
                    vocabulary=tuple(vocabulary),
                    input=attributes_input,
                    scores=scores_output,
                    maps=maps_output,
                    activation=activation,
                    parity=attributes_parity,
                ),
                resize.size,
                staging,
            )
        made = Bundle(
            similarity=served,
            resize=resize,
            embedding_size=embedding_size,
            fill_mean=similarity_preprocessing.fill_mean,
            similarity_function=similarity_function,
            attributes=served_attributes,
            gradient=served_gradient,
            projection=None if isinstance(projection, str) else projection,
            missing=missing,
            vocabulary=tuple(vocabulary),
            priors=None if priors is None else tuple(priors),
            phi=phi,
            conditions=dict(conditions or {}),
            training=training or {},
            versions={"onnx": metadata.version("onnx"), **(versions or {})},
        )
        bundles.write(made, staging)
        if verify is not None:
            verify(made, staging)
        staging.chmod(0o755)  # a temporary folder is for its owner only
        os.rename(staging, target)  # onto an empty folder too
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return made
