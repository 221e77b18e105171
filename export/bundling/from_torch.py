"""``whymatch export``: checkpoints to a bundle, and the proof that the bundle computes what torch computes."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import onnx
import torch
from torch import nn

from export.bundling import bundle_spec
from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from export.bundling.gradient import trace_to_onnx
from export.bundling.parity import attributes_parity, gradient_parity, similarity_parity
from export.bundling.preprocessing import Preprocessing
from export.training.networks.attribute_network import AttributeNetwork, ServedAttributes
from export.training.networks.backbones import Normalisation
from export.training.networks.checkpoint import Config, load
from export.training.networks.similarity_network import TypeSpecificNetwork
from transforms.core.attributes.ranking import Phi, Ranking
from transforms.core.errors import BundleError, UsageError
from transforms.core.messages import Echo
from transforms.core.similarity import SimilarityFunction
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle

Precision = Literal["float32", "float16"]

# Largest difference of an embedding or a score. Half precision keeps 11 bits, and a deep network adds up its roundings.
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-4, "float16": 1e-2}
# Of the gradient: single values differ more, in torch's own float32 too, where a unit is just about to switch.
GRADIENT_TOLERANCE, GRADIENT_CORRELATION = 1e-4, 0.999

_LEFT_OUT = "it was left out of the export (--no-gradient)"


@dataclass(frozen=True)
class ExportRequest:
    """What ``whymatch export`` is asked for; UsageError for what cannot be.

    Attributes:
      similarity, attributes: checkpoints; without attributes the bundle makes maps only.
      out: the new folder of the bundle.
      phi: weights of the ranking, as in ``transforms.core.attributes.ranking.Ranking``.
      similarity_function: of embeddings.
      precision: of the networks; the gradient is always float32.
      gradient: whether it comes along.
      factories: the module:factory backbones that a checkpoint may run (``export.training.networks.checkpoint.load``).
    """

    similarity: Path
    out: Path
    attributes: Path | None = None
    phi: Phi = (0.5, 0.5, 0.0)
    similarity_function: SimilarityFunction = "cosine"
    precision: Precision = "float32"
    gradient: bool = True
    factories: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.precision not in TOLERANCE:
            raise UsageError(f"precision is {self.precision!r}, expected {' or '.join(TOLERANCE)}")
        try:
            Ranking(self.phi)
        except ValueError as error:
            raise UsageError(f"--phi: {error}") from None


def export_command(request: ExportRequest, *, echo: Echo = print) -> Bundle:
    """Makes the bundle of a similarity checkpoint and, if given, an attribute checkpoint.

    The graphs of the finished bundle are compared with torch on random images under random masks and fills; the
    largest difference goes into the bundle's record. Where torch cannot trace the gradient of the similarity, or it
    differs from torch's, the bundle says why it has none. Of a network with conditions the graphs are those of its
    plain embedding; the masks stand in ``Bundle.conditions``.
    Raises BundleError where a difference is above ``TOLERANCE``, and UsageError for unfit checkpoints.
    """
    out = request.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: name a new folder for the bundle")
    trained = _load_checkpoints(request)
    spec = _spec(request, trained)
    out.parent.mkdir(parents=True, exist_ok=True)
    # The bundle gets its name only when its graphs have proved to be torch's.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        staged = Path(folder) / "bundle"
        built = build(staged, spec)
        built = _with_gradient_parity(built, staged, trained.network, trained.config.normalisation)
        built = _with_parity(built, staged, trained, request.precision)
        bundles.write(built, staged)
        _move(staged, out)
    echo(_summary(built, out))
    return built


@dataclass(frozen=True)
class _TrainedAttributes:
    """An attribute network as it was trained, and what it serves."""

    config: Config
    network: ServedAttributes


@dataclass(frozen=True)
class _Trained:
    """The networks of the checkpoints; that of the similarity without its conditions, whose masks stand beside it."""

    config: Config
    network: nn.Module
    conditions: Mapping[str, tuple[float, ...]]
    attributes: _TrainedAttributes | None


def _load_checkpoints(request: ExportRequest) -> _Trained:
    config, network = load(request.similarity, "similarity", factories=request.factories)
    conditions: dict[str, tuple[float, ...]] = {}
    if isinstance(network, TypeSpecificNetwork):
        masks = network.masks().detach().tolist()
        conditions = {name: tuple(mask) for name, mask in zip(config.conditions, masks, strict=True)}
        network = network.embedder
    if request.attributes is None:
        return _Trained(config, network, conditions, None)
    own, attributes = load(request.attributes, "attributes", factories=request.factories)
    if own.resize != config.resize:
        raise UsageError(
            f"both networks of a bundle see the same image: {request.similarity} was trained on {config.resize}, "
            f"{request.attributes} on {own.resize}. Train one of them again."
        )
    softmax = own.training.get("attribute_loss") == "smooth-l1"
    served = ServedAttributes(cast(AttributeNetwork, attributes), "softmax" if softmax else "sigmoid")
    return _Trained(config, network, conditions, _TrainedAttributes(own, served))


def _spec(request: ExportRequest, trained: _Trained) -> BundleSpec:
    """What the bundle is made of; exports the networks and traces the gradient."""
    config, network = trained.config, trained.network
    size = config.resize.size
    training: dict[str, Any] = {"similarity": {"backbone": config.backbone, **config.training}}
    attributes = None
    if trained.attributes is not None:
        own = trained.attributes.config
        training["attributes"] = {"backbone": own.backbone, **own.training}
        attributes = bundle_spec.AttributeGraph(
            to_onnx(trained.attributes.network, size, ("scores", "maps"), request.precision),
            own.vocabulary,
            _preprocessing(own.normalisation),
            scores="scores",
            maps="maps",
        )
    similarity = to_onnx(network, size, ("embedding",), request.precision)
    function, conditions = request.similarity_function, trained.conditions
    return BundleSpec(
        similarity=SimilarityGraph(similarity, _preprocessing(config.normalisation)),
        resize=config.resize,
        similarity_function=function,
        attributes=attributes,
        gradient=_gradient(network, size, function, bool(conditions)) if request.gradient else _LEFT_OUT,
        phi=request.phi,
        conditions=conditions,
        training=training,
        versions={"torch": torch.__version__},
    )


def to_onnx(
    network: nn.Module, size: tuple[int, int], outputs: Sequence[str], precision: Precision = "float32"
) -> onnx.ModelProto:
    """The ONNX graph ``image`` [batch, 3, H, W] to ``outputs`` of a network in evaluation mode, any batch size.

    With "float16" the weights, the input and the outputs are half precision. BundleError where torch cannot export it.
    """
    dtype = torch.float16 if precision == "float16" else torch.float32
    if precision == "float16":
        # Exported from a copy: the caller's network stays what parity is measured against.
        network = _half(network)
    # Two images, because torch takes a dimension of 1 for a constant.
    example = torch.zeros(2, 3, *size, dtype=dtype)
    try:
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise BundleError(
            f"torch cannot export the network: {reason[0] if reason else type(error).__name__}. "
            "A backbone must not branch on its values or on the batch size."
        ) from error
    if program is None:
        raise BundleError("torch exported nothing")
    model: onnx.ModelProto = program.model_proto
    _forget_origin(model)
    return model


def _with_parity(built: Bundle, folder: Path, trained: _Trained, precision: Precision) -> Bundle:
    """Records how far the graphs are from torch; BundleError where they are too far."""
    size = trained.config.resize.size
    found = similarity_parity(
        folder / built.similarity.file,
        trained.network,
        trained.config.normalisation,
        size,
        unit=built.similarity_function == "cosine",
    )
    _check(found, "similarity", precision)
    built = replace(built, similarity=replace(built.similarity, parity=found))
    own = trained.attributes
    if built.attributes is not None and own is not None:
        found = attributes_parity(folder / built.attributes.file, own.network, own.config.normalisation, size)
        _check(found, "attribute", precision)
        built = replace(built, attributes=replace(built.attributes, parity=found))
    return built


def _gradient(
    network: nn.Module, size: tuple[int, int], function: SimilarityFunction, conditional: bool
) -> onnx.ModelProto | str:
    """The traced gradient, or why there is none."""
    try:
        model = trace_to_onnx(network, size, function, conditional)
    except BundleError as error:
        return str(error)
    _forget_origin(model)
    return model


def _with_gradient_parity(built: Bundle, folder: Path, network: nn.Module, normalisation: Normalisation) -> Bundle:
    """Records the gradient's median relative error, or takes out a gradient that is not torch's."""
    if built.gradient is None:
        return built
    error, correlation = gradient_parity(built, folder, network, normalisation)
    if error <= GRADIENT_TOLERANCE and correlation >= GRADIENT_CORRELATION:
        return replace(built, gradient=replace(built.gradient, parity=error))
    (folder / built.gradient.file).unlink()
    why = (
        f"its gradient differs from torch's on random images, median relative error {error:.1e} (at most "
        f"{GRADIENT_TOLERANCE:.0e}), correlation {correlation:.4f} (at least {GRADIENT_CORRELATION})"
    )
    return replace(built, gradient=None, missing={**built.missing, "gradient": why})


def _check(found: float, name: str, precision: Precision) -> None:
    if not found <= TOLERANCE[precision]:
        raise BundleError(
            f"the {name} graph differs from torch by {found:.2e} on random images, more than "
            f"{TOLERANCE[precision]:.0e}: the bundle was not written. A backbone in which dropout or batch statistics "
            "stay active in evaluation mode gives such differences."
        )


def _forget_origin(model: onnx.ModelProto) -> None:
    """Takes out the stack traces that torch notes on every node: they hold this machine's paths, and half the size."""
    parts = [model, model.graph, *model.graph.node, *model.graph.initializer]
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for part in [*parts, *values]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _half(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).half()


def _preprocessing(normalisation: Normalisation) -> Preprocessing:
    return Preprocessing(
        layout="nchw", channels="rgb", scale=normalisation.scale, mean=normalisation.mean, std=normalisation.std
    )


def _move(staged: Path, out: Path) -> None:
    try:
        os.rename(staged, out)  # onto an empty folder too
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name a new folder for the bundle") from None


def _summary(built: Bundle, out: Path) -> str:
    parity = f"parity with torch {built.similarity.parity:.1e}"
    if built.attributes is not None:
        parity += f", attributes {built.attributes.parity:.1e} ({len(built.vocabulary)} of them)"
    if built.gradient is not None:
        parity += f", gradient {built.gradient.parity:.1e}"
    else:
        parity += f"; no gradient: {built.missing['gradient']}"
    size = sum(path.stat().st_size for path in out.iterdir())
    masks = f" with {len(built.conditions):,} conditions" if built.conditions else ""
    return f"{out}: embedding of {built.embedding_size}{masks}, {size / 2**20:.2f} MiB, {parity}"
