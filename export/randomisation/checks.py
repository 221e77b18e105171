"""Whether a random copy of a bundle is of any use: it is run on images of noise. onnx and numpy only, no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from export.graphs import batching as batches
from export.graphs import cut
from export.randomisation.gradient import Untraced
from transforms.core.errors import BundleError
from transforms.core.records import Float32, Image
from transforms.serving import runtime
from transforms.serving.bundle import Bundle

_EMBEDDINGS_AGREE = 1e-3  # of the gradient graph with the similarity graph, of the largest value
_SLOPES_AGREE = 0.05  # of the gradient with difference quotients: there are kinks between their ends
_STEPS = (1e-2, 1e-3, 1e-4)  # of those quotients: the change of the similarity, of its size


def noise(size: tuple[int, int]) -> Image:
    """A few images uint8 [I,H,W,3] of ``size`` (H, W), always the same."""
    return np.random.default_rng(0).integers(0, 256, (batches.PROBES, *size, 3), dtype=np.uint8)


def check_half(network: onnx.ModelProto, described: Bundle) -> None:
    """BundleError where values within a similarity graph of half precision leave it.

    The embedding alone does not tell: on a CPU, ONNX Runtime computes in single precision what nobody asks to see.
    """
    names = cut.CutGraph(network).cuts()
    session = runtime.session(cut.with_outputs(network, names).SerializeToString())
    given = noise(described.resize.size)
    images = np.resize(given, (described.similarity.batch or len(given), *given.shape[1:]))
    for name, value in zip(names, cut.run_network(session, names, images), strict=True):
        if np.issubdtype(np.asarray(value).dtype, np.floating) and not np.isfinite(value).all():
            raise BundleError(
                f"with random weights the values of {name!r} are not finite: without its trained scales the network "
                "leaves half precision. Randomise a bundle of it in float32"
            )


def check_embeddings(session: Any, described: Bundle) -> None:
    """BundleError where the embeddings of a similarity graph are not finite, or do not tell images from each other."""
    found = _embeddings(session, described, noise(described.resize.size), _unmasked(described))
    if not np.isfinite(found).all():
        raise BundleError(
            "with random weights the embeddings are not finite: without its trained scales the network's values "
            "outgrow their precision, so this test cannot be made of it"
        )
    if np.abs(found - found[0]).max() <= 1e-6 * np.abs(found).max():
        raise BundleError(
            "with random weights all images have one embedding: without its trained scales and shifts the network "
            "lets nothing of the image through, so this test says nothing about it"
        )


def check_gradient(session: Any, similarity: Any, described: Bundle, batch: int | None) -> None:
    """Untraced where a gradient graph has other embeddings than ``similarity``, or its gradient is not the slope.

    Args:
      session, similarity: of the gradient graph and the similarity graph, both random.
      batch: the only batch that the gradient graph takes, None for any.
    """
    images = noise(described.resize.size)
    mask = np.random.default_rng(1).uniform(0.4, 0.6, (1, *described.resize.size)).astype(np.float32)
    reference = _embeddings(similarity, described, images[1:2], _unmasked(described))
    gradient = _Gradient(session, images[:1], reference, batch or 1)
    score, slope, embedding = gradient.run(mask)
    expected = _embeddings(similarity, described, images[:1], mask)[0]
    if not np.abs(embedding - expected).max() <= _EMBEDDINGS_AGREE * np.abs(expected).max():
        raise Untraced("its embeddings would not be those of the randomised similarity graph")
    steepness = float(np.linalg.norm(slope.astype(np.float64)))
    if not 0 < steepness < math.inf:
        raise Untraced("its gradient would be 0 or not finite")
    errors = []
    for share in _STEPS:
        step = share * max(abs(float(score)), 1e-3) / steepness
        move = (slope / steepness * step).astype(np.float32)[None]
        change = float(gradient.run(mask + move)[0]) - float(gradient.run(mask - move)[0])
        errors.append(abs(change / (2 * step * steepness) - 1))
    if not min(errors) <= _SLOPES_AGREE:
        raise Untraced(f"its gradient would differ from difference quotients by {min(errors):.0%}")


class _Gradient:
    """A gradient graph's session, for one image [1,H,W,3] and one reference [1,D], in batches of ``rows``."""

    def __init__(self, session: Any, image: Image, reference: Float32, rows: int) -> None:
        self.session, self.rows = session, rows
        black = np.zeros((1, 1, 1, 3), np.float32)
        self.feeds = {"image": image, "fill": black, "noise": black, "reference": np.repeat(reference, rows, axis=0)}

    def run(self, mask: Float32) -> tuple[Float32, Float32, Float32]:
        """Similarity [], its gradient [H,W] in ``mask`` [1,H,W], and the embedding [D]."""
        feeds = {**self.feeds, "mask": np.repeat(mask, self.rows, axis=0)}
        try:
            similarity, gradient, embedding = self.session.run(["similarity", "gradient", "embedding"], feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise Untraced(f"it does not run: {runtime.first_line(error)}") from None
        return similarity[0], gradient[0], embedding[0]


def _unmasked(described: Bundle) -> Float32:
    return np.ones((1, *described.resize.size), np.float32)


def _embeddings(session: Any, described: Bundle, images: Image, mask: Float32) -> Float32:
    """[I,D] of ``images`` under one mask [1,H,W]."""
    found = []
    for block, count in cut.full_batches(images, described.similarity.batch or len(images)):
        feeds = {"image": block, "mask": mask[..., None], "fill": np.zeros((1, 1, 1, 3), np.float32)}
        try:
            found.append(session.run(["embedding"], feeds)[0][:count])
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"its randomised copy fails: {runtime.first_line(error)}") from None
    return np.concatenate(found)
