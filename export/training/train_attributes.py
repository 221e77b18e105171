"""``whymatch train attributes``: an attribute network from a catalogue, with or without saliency maps.

It writes a checkpoint, ``attributes.pt``, and beside it a record of the training as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.training.attribute_objective import attribute_objective
from export.training.data.batches import plain_batches
from export.training.data.dataset import Indices, TrainingDataset, load_dataset
from export.training.data.labels import attribute_targets
from export.training.data.saliency_maps import SaliencyMaps, read_saliency, require_audits
from export.training.fitting.prediction import predict
from export.training.fitting.reproducibility import reproducible
from export.training.fitting.task import TrainingTask
from export.training.networks.attribute_network import AttributeNetwork
from export.training.networks.backbones import Normalisation, backbone, normalisation_of
from export.training.record import Trained
from export.training.session import TrainingSession, open_session
from export.training.settings import AttributeTraining
from transforms.core.attributes.names import column_of
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.metrics.retrieval import attribute_precision
from transforms.inputs import catalogue as catalogue_rows

Judged: TypeAlias = tuple[dict[str, float], NDArray[np.float64]]
"""The figures of a part, and each attribute's average precision [A], NaN where it has no positive or no negative."""


def train_attributes(settings: AttributeTraining, echo: Echo = print) -> Trained:
    """Trains an attribute network; an empty cell of the catalogue says nothing of its column's attributes.

    Validated by mean average precision on the valid split, or on the training images where there is none. UsageError
    where no attribute has enough training images, and for audits that cannot supervise.
    """
    if settings.saliency is not None:
        require_audits(settings.saliency.tables)
    with reproducible(settings.recipe):
        prepared = _prepare(settings, echo)
        dataset = prepared.dataset
        train, valid, test = (dataset.part(split) for split in ("train", "valid", "test"))
        if not len(valid):
            echo("the catalogue has no valid split: validating on the training images")
            valid = train
        echo(f"{len(prepared.names)} attributes, {len(train):,} images train")
        session = _open_session(settings, prepared, echo)
        if (done := session.finished()) is not None:
            return done
        objective = attribute_objective(settings, prepared.targets, prepared.known, train, prepared.maps)
        judge = partial(_judge, settings, prepared)
        task = TrainingTask(
            network=prepared.network,
            trunk=prepared.network.trunk,
            batches=lambda rng: plain_batches(train, batch=settings.recipe.batch, rng=rng),
            loss=objective.loss,
            validate=lambda: judge(valid)[0],
            metric="map",
        )
        curve = session.fit(task)
        judged = {name: judge(part) for name, part in (("valid", valid), ("test", test)) if len(part)}
    figures = {name: summary for name, (summary, _) in judged.items()}
    precision = {name: _by_name(prepared.names, values) for name, (_, values) in judged.items()}
    extra = {"left_out": dict(prepared.left_out), "average_precision": precision}
    return session.leave(prepared.network, curve, figures, {"vocabulary": prepared.names}, extra)


@dataclass(frozen=True)
class _Prepared:
    """An attribute training before its first step.

    ``names`` are the A attributes, ``left_out`` the counts of those that too few training images have. ``targets``
    bool [I, A] says which products have which, ``known`` bool [I, A] of which that is known.
    """

    network: AttributeNetwork
    dataset: TrainingDataset
    normalisation: Normalisation
    names: tuple[str, ...]
    left_out: Mapping[str, int]
    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]
    maps: SaliencyMaps | None


def _prepare(settings: AttributeTraining, echo: Echo) -> _Prepared:
    """The catalogue, its attributes, the maps that supervise and the network, its biases at the attributes' rates."""
    trunk = backbone(settings.backbone, settings.weights)
    threads, saliency = settings.recipe.threads or 2, settings.saliency
    dataset = load_dataset(settings.catalogue, settings.resize, access=settings.access, threads=threads, echo=echo)
    train = dataset.part("train")
    vocabulary = catalogue_rows.vocabulary(
        [dataset.products[i] for i in train], columns=settings.columns, min_count=settings.min_count
    )
    names, left_out = vocabulary.names, vocabulary.left_out
    _print_left_out(left_out, settings.min_count, echo)
    if not names:
        raise UsageError(
            f"no attribute has {settings.min_count} training images; lower --min-count or name other columns"
        )
    targets, known = attribute_targets(dataset.products, names)
    maps = None
    if saliency is not None:
        maps = read_saliency(saliency.tables, dataset.products, settings.resize, limit=saliency.limit, echo=echo)
    network = AttributeNetwork(trunk, size=settings.resize.size, attributes=len(names), name=settings.backbone)
    network.start_at(_rates(targets[train], known[train]))
    normalisation = settings.normalisation or normalisation_of(trunk)
    return _Prepared(network, dataset, normalisation, names, left_out, targets, known, maps)


def _rates(targets: NDArray[np.bool_], known: NDArray[np.bool_]) -> Tensor:
    """How often each attribute is there where that is known, float32 [A]."""
    return torch.from_numpy(targets).float().sum(0) / torch.from_numpy(known).sum(0).clamp(min=1)


def _open_session(settings: AttributeTraining, prepared: _Prepared, echo: Echo) -> TrainingSession:
    names, maps, saliency = prepared.names, prepared.maps, settings.saliency
    own: dict[str, Any] = {
        "columns": list(dict.fromkeys(map(column_of, names))),
        "min_count": settings.min_count,
        "attribute_loss": settings.attribute_loss,
        "positive_weight": settings.positive_weight,
    }
    decisive: dict[str, Any] = {"names": names, "targets": prepared.targets, "known": prepared.known}
    if maps is not None and saliency is not None:
        own["saliency"] = {"weight": saliency.weight, "temperature": saliency.temperature, **maps.source}
        # The maps themselves count, not the folders that they were read from.
        decisive |= {"maps": maps.maps, "first": maps.first, "saliency": replace(saliency, tables=("",))}
    return open_session("attributes", settings, prepared.dataset, prepared.normalisation, own, decisive, echo)


def _judge(settings: AttributeTraining, prepared: _Prepared, part: Indices) -> Judged:
    """How well the network as it stands tells the attributes of the products ``part``."""
    device = settings.recipe.device
    logits = predict(prepared.network, prepared.dataset, part, prepared.normalisation, device)
    return attribute_precision(logits.numpy(), prepared.targets[part], prepared.known[part])


def _by_name(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    rounded = [None if np.isnan(value) else round(float(value), 4) for value in values]
    return dict(zip(names, rounded, strict=True))


def _print_left_out(left_out: Mapping[str, int], min_count: int, echo: Echo) -> None:
    if left_out:
        shown = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items(), key=lambda x: -x[1])[:5])
        echo(f"{len(left_out):,} attributes with fewer than {min_count} training images are left out: {shown}, …")
