"""What a bundle is made of: networks as their owner has them, what stands in front, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from export.bundling.prefix import Activation
from export.bundling.preprocessing import Preprocessing
from transforms.core.attributes.ranking import Phi
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize
from transforms.core.similarity import SimilarityFunction

NO_GRADIENT = (
    "the bundle was made of an ONNX file, which holds no gradient; whymatch export makes one from a checkpoint of torch"
)


@dataclass(frozen=True)
class SimilarityGraph:
    """An embedding network as its owner has it: an ONNX file (or model), and what stands in front of it.

    Attributes:
      network: a path, or a model that holds all of its data.
      preprocessing: what stands in front of it.
      input, output: names, None where there is only one. The output is [B,D] or [B,D,1,1].
      parity: as in ``transforms.serving.bundle.Network``.
    """

    network: str | Path | onnx.ModelProto
    preprocessing: Preprocessing
    input: str | None = None
    output: str | None = None
    parity: float | None = None


@dataclass(frozen=True)
class AttributeGraph:
    """An attribute network as its owner has it: scores [B,A] and activation maps [B,A,h,w] or [B,h,w,A].

    Attributes:
      network: a path, or a model that holds all of its data.
      vocabulary: the attributes' names, in the order of the scores. UsageError where there is none.
      preprocessing: what stands in front of it; None for that of the similarity network.
      input: a name, None where there is only one.
      scores, maps: names of outputs, None where the number of dimensions tells them apart.
      activation: what turns the scores into 0 to 1, "none" where they are already.
      parity: as in ``transforms.serving.bundle.Network``.
    """

    network: str | Path | onnx.ModelProto
    vocabulary: Sequence[str]
    preprocessing: Preprocessing | None = None
    input: str | None = None
    scores: str | None = None
    maps: str | None = None
    activation: Activation = "none"
    parity: float | None = None

    def __post_init__(self) -> None:
        check_names(network=True, names=len(self.vocabulary))


def check_names(*, network: bool, names: int) -> None:
    """UsageError where there is an attribute network without ``names``, or names without a network."""
    if network != (names > 0):
        raise UsageError(
            f"{'an' if network else 'no'} attribute network and {names} attribute names: give both, the names in the "
            "order of the network's scores, or neither for a bundle of maps only"
        )


@dataclass(frozen=True)
class BundleSpec:
    """What :func:`export.bundling.build.build` makes a bundle of.

    Attributes:
      similarity: the embedding network.
      resize: how images come to the size of both networks' input.
      similarity_function: "cosine" ends the graph in the L2 norm.
      attributes: the attribute network; None for a bundle of maps only.
      gradient: the traced gradient of the similarity (``export.bundling.gradient``), or why there is none.
      priors, phi, conditions, training, versions: as in ``transforms.serving.bundle.Bundle``, which validates them.
    """

    similarity: SimilarityGraph
    resize: Resize
    similarity_function: SimilarityFunction = "cosine"
    attributes: AttributeGraph | None = None
    gradient: onnx.ModelProto | str = NO_GRADIENT
    priors: Sequence[float] | None = None
    phi: Phi = (0.5, 0.5, 0.0)
    conditions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
