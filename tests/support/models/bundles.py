"""Small bundles for tests: hand-built networks, no torch."""

from __future__ import annotations

from pathlib import Path

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from export.bundling.preprocessing import Preprocessing
from tests.support.models.networks import SIZE, attribute_network, network
from transforms.core.imaging.images import Resize
from transforms.serving.bundle import Bundle

VOCABULARY = ("category=dress", "colour=red", "pattern=striped")
PREPROCESSING = Preprocessing("nchw", "rgb", 1 / 255, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3))


def small_bundle(folder: Path, *, attributes: bool = True, size: tuple[int, int] = SIZE) -> Bundle:
    """A bundle of the hand-built networks for frames of 12 x 16 pixels, with the three attributes of ``VOCABULARY``."""
    return build(
        folder,
        BundleSpec(
            SimilarityGraph(network(size=size), PREPROCESSING),
            Resize(size, "squash"),
            attributes=AttributeGraph(attribute_network(), VOCABULARY) if attributes else None,
        ),
    )
