"""``whymatch train similarity``: an embedding network from a catalogue, by triplets.

It writes a checkpoint, ``similarity.pt``, and beside it a record of the training as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from export.training.conditions import Conditions, find_conditions
from export.training.data.dataset import Indices, TrainingDataset, load_dataset
from export.training.data.labels import label_ids
from export.training.fitting.prediction import predict
from export.training.fitting.reproducibility import reproducible
from export.training.fitting.task import TrainingTask
from export.training.networks.backbones import Normalisation, backbone, normalisation_of
from export.training.networks.similarity_network import EmbeddingNetwork, TypeSpecificNetwork
from export.training.record import Trained
from export.training.session import TrainingSession, open_session
from export.training.settings import SimilarityTraining
from export.training.similarity_objectives import ConditionalSimilarity, PlainSimilarity, SimilarityObjective
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.records import Float32


def train_similarity(settings: SimilarityTraining, echo: Echo = print) -> Trained:
    """Trains an embedding network by triplet loss with online mining over cosine distances.

    Validated by retrieval among the valid split, or among the training images where that has nothing to find.
    UsageError where fewer than two labels have two images.
    """
    with reproducible(settings.recipe):
        prepared = _prepare(settings, echo)
        objective, dataset = prepared.objective, prepared.dataset
        valid = dataset.part("valid")
        if not objective.evaluate(valid)["queries"]:
            echo("the valid split has no two products of one label: validating on the training images")
            valid = objective.usable
        distinct = len(np.unique(prepared.labels[objective.usable]))
        columns = " + ".join(settings.similar_by)
        echo(f"similarity by {columns}: {len(objective.usable):,} images of {distinct:,} labels train")
        session = _open_session(settings, prepared, echo)
        if (done := session.finished()) is not None:
            return done
        task = TrainingTask(
            network=prepared.network,
            trunk=prepared.trunk,
            batches=objective.batches,
            loss=objective.loss,
            validate=lambda: objective.evaluate(valid),
            metric="map",
        )
        curve = session.fit(task)
        figures = {"valid": objective.evaluate(valid), "test": objective.evaluate(dataset.part("test"))}
    outputs: dict[str, Any] = {"embedding": settings.embedding}
    extra: dict[str, Any] = {"labels": prepared.label_count}
    if prepared.conditions is not None:
        outputs["conditions"] = prepared.conditions.names
        extra["no_condition"] = dict(prepared.conditions.left_out)
    return session.leave(prepared.network, curve, figures, outputs, extra)


@dataclass(frozen=True)
class _Prepared:
    """A similarity training before its first step. ``labels`` are [I], −1 for none."""

    network: nn.Module
    trunk: nn.Module
    dataset: TrainingDataset
    normalisation: Normalisation
    labels: Indices
    label_count: int
    conditions: Conditions | None
    objective: SimilarityObjective


def _prepare(settings: SimilarityTraining, echo: Echo) -> _Prepared:
    """The network, whose weights are drawn before and after the catalogue is read, and what it will be trained for."""
    trunk = backbone(settings.backbone, settings.weights)
    embedder = EmbeddingNetwork(trunk, size=settings.resize.size, embedding=settings.embedding, name=settings.backbone)
    normalisation = settings.normalisation or normalisation_of(trunk)
    threads = settings.recipe.threads or 2
    dataset = load_dataset(settings.catalogue, settings.resize, access=settings.access, threads=threads, echo=echo)
    labels, names = label_ids(dataset.products, settings.similar_by)
    train = dataset.part("train")
    usable = _usable_for_triplets(labels, train, settings.similar_by, echo)
    network: nn.Module = embedder
    embed = partial(_embed, embedder, dataset, normalisation, settings)
    objective: SimilarityObjective = PlainSimilarity(settings, labels, train, usable, embed)
    conditions = None
    if settings.conditions is not None:
        conditions = find_conditions(dataset.products, settings.conditions, labels, train, least=settings.min_pairs)
        conditions.print_summary(echo)
        network = typed = TypeSpecificNetwork(embedder, len(conditions.pairs))
        objective = ConditionalSimilarity(settings, labels, conditions, typed.masks, embed)
    return _Prepared(network, trunk, dataset, normalisation, labels, len(names), conditions, objective)


def _open_session(settings: SimilarityTraining, prepared: _Prepared, echo: Echo) -> TrainingSession:
    conditions = prepared.conditions
    own: dict[str, Any] = {
        "similar_by": list(settings.similar_by),
        "margin": settings.margin,
        "mining": settings.mining,
        "per_label": settings.per_label,
    }
    if conditions is not None:
        own["conditions"] = conditions.record()
    decisive = {
        "embedding": settings.embedding,
        "labels": prepared.labels,
        "types": None if conditions is None else conditions.type_of,
    }
    return open_session("similarity", settings, prepared.dataset, prepared.normalisation, own, decisive, echo)


def _embed(
    network: nn.Module,
    dataset: TrainingDataset,
    normalisation: Normalisation,
    settings: SimilarityTraining,
    part: Indices,
) -> Float32:
    """The embeddings [B, D] of the products ``part`` [B]."""
    if not len(part):
        return np.zeros((0, settings.embedding), np.float32)
    return np.asarray(predict(network, dataset, part, normalisation, settings.recipe.device).numpy(), np.float32)


def _usable_for_triplets(labels: Indices, train: Indices, similar_by: Sequence[str], echo: Echo) -> Indices:
    """The training products whose label another one has; the others are said. UsageError for fewer than two labels."""
    counts = np.bincount(labels[train][labels[train] >= 0], minlength=1)
    if (counts > 1).sum() < 2:
        raise UsageError(
            f"similar by {' + '.join(similar_by)}: {(counts > 1).sum()} labels have two training images or more; a "
            "triplet needs two such labels. Name other columns."
        )
    alone, empty = int((counts == 1).sum()), int((labels[train] < 0).sum())
    if alone or empty:
        echo(f"left out of the triplets: {alone:,} images whose label no other has, {empty:,} with an empty cell")
    return train[[label >= 0 and counts[label] > 1 for label in labels[train]]]
