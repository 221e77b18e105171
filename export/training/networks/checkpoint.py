"""Checkpoints of both trainings: tensors and plain values, read without running code from them.

A checkpoint is ``torch.save`` of ``{"config": {...}, "state": {name: tensor}}``. The config says how to build the
network again, and what its images went through: enough for ``export``, which adds no option of its own to it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from export.training.networks.attribute_network import AttributeNetwork
from export.training.networks.backbones import Normalisation, backbone
from export.training.networks.similarity_network import EmbeddingNetwork, TypeSpecificNetwork
from export.training.networks.weights import load_plain
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize

FORMAT = 1
# Factories of whymatch itself; a checkpoint may name them, since their code is not the checkpoint's choice.
_OWN = "export."


@dataclass(frozen=True)
class Config:
    """How a network was built and fed.

    ``embedding`` is D of a similarity network, 0 for attributes; ``vocabulary`` names the attributes, empty for
    similarity; ``conditions`` names the masks of a similarity network in their order, empty for one without.
    ``training`` is the record of the training, JSON values only.
    """

    kind: Literal["similarity", "attributes"]
    backbone: str
    resize: Resize
    normalisation: Normalisation
    embedding: int = 0
    vocabulary: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


def build_network(config: Config, weights: str | None = None) -> nn.Module:
    """A new network for the config: an EmbeddingNetwork, a TypeSpecificNetwork with conditions, an AttributeNetwork."""
    trunk = backbone(config.backbone, weights)
    size = config.resize.size
    if config.kind == "similarity":
        embedder = EmbeddingNetwork(trunk, size=size, embedding=config.embedding, name=config.backbone)
        return TypeSpecificNetwork(embedder, len(config.conditions)) if config.conditions else embedder
    return AttributeNetwork(trunk, size=size, attributes=len(config.vocabulary), name=config.backbone)


def save(path: Path, config: Config, network: nn.Module) -> None:
    """Writes the checkpoint; whoever reads ``path`` meanwhile sees the old file or the new one."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = {"format": FORMAT, "config": _plain(asdict(config)), "state": state}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(content, stream)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path, kind: str, *, factories: Sequence[str] = ()) -> tuple[Config, nn.Module]:
    """The config and the network, in evaluation mode, of a checkpoint that ``whymatch train`` wrote.

    A checkpoint cannot choose which code runs: where its backbone is a ``module:factory`` that is not whymatch's own,
    ``factories`` must name it too. Raises UsageError for anything that is not such a checkpoint.
    """
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {str(path)!r}; whymatch train {kind} writes one")
    content = load_plain(path)
    config = _config(content, path)
    if config.kind != kind:
        raise UsageError(f"{path} holds a network for {config.kind}, expected one for {kind}")
    spec = config.backbone
    if ":" in spec and not spec.startswith(_OWN) and spec not in factories:
        raise UsageError(
            f"{path} was trained with the factory {spec!r}, which is code outside of whymatch; "
            f"say --factory {spec} if you trust it"
        )
    network = build_network(config)
    try:
        network.load_state_dict(content["state"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} does not fit its own description ({spec}): {str(error)[:300]}. "
            "Was it written by another version of the backbone? Train again."
        ) from None
    return config, network.eval()


def _config(content: Any, path: Path) -> Config:
    if not isinstance(content, dict) or "config" not in content or "state" not in content:
        raise UsageError(f"{path} is no checkpoint of whymatch train: it needs 'config' and 'state'")
    if content.get("format") != FORMAT:
        raise UsageError(f"{path} has format {content.get('format')!r}, expected {FORMAT}; train again")
    try:
        raw = dict(content["config"])
        resize = raw["resize"]
        raw["resize"] = Resize(**{**resize, "size": tuple(resize["size"]), "pad_color": tuple(resize["pad_color"])})
        normalisation = raw["normalisation"]
        raw["normalisation"] = Normalisation(
            float(normalisation["scale"]), tuple(normalisation["mean"]), tuple(normalisation["std"])
        )
        raw["vocabulary"] = tuple(raw["vocabulary"])
        raw["conditions"] = tuple(raw.get("conditions", ()))  # checkpoints of earlier versions have none
        if len(set(raw["conditions"])) < len(raw["conditions"]):
            raise ValueError("two conditions of one name")
        return Config(**raw)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} has an incomplete description: {error!r}; train again") from None


def _plain(value: Any) -> Any:
    # weights_only loading takes dicts, lists, strings, numbers and None; everything else becomes one of these.
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint's config holds plain values only, not {type(value).__name__}")
