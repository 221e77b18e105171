"""``whymatch train``: an embedding network or an attribute network from a catalogue.

Each writes a checkpoint (``similarity.pt``, ``attributes.pt``) and beside it a record of the training as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from export.attributes import AttributeNetwork
from export.backbones import Normalisation, normalisation_of
from export.backbones import backbone as make_backbone
from export.checkpoint import Config
from export.data import Echo, Indices, label_batches, label_ids, load, plain_batches
from export.evaluation import attribute_precision, retrieval
from export.fitting import Recipe, Task, fit, predict, reproducible
from export.losses import attribute_bce, cosine_distances, positive_weights, triplet_loss
from export.progress import Checkpoints, settings_digest
from export.record import Trained, describe, write
from export.similarity import EmbeddingNetwork
from transforms import catalogue as catalogue_rows
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.images import Resize
from transforms.core.types import Product


def train_similarity(
    *,
    catalogue: str,
    out: Path,
    backbone: str,
    similar_by: Sequence[str],
    resize: Resize,
    weights: str | None = None,
    normalisation: Normalisation | None = None,
    embedding: int = 128,
    margin: float = 0.2,
    mining: str = "semi-hard",
    per_label: int = 4,
    recipe: Recipe = Recipe(),  # noqa: B008  # frozen
    access: storage.Access | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    echo: Echo = print,
) -> Trained:
    """Trains an embedding network in which products that agree in all columns of ``similar_by`` lie close.

    Triplet loss with online mining over cosine distances; ``normalisation`` defaults to what the backbone says of its
    input. Validated by retrieval among the valid split. Where the training stands is kept in ``out`` every
    ``checkpoint_seconds``; ``resume`` goes on from there. UsageError where fewer than two labels have two images.
    """
    if embedding < 1 or per_label < 2 or not margin > 0:
        raise UsageError(f"embedding >= 1, per_label >= 2, margin > 0; got {embedding}, {per_label}, {margin}")
    started = time.time()
    loss = triplet_loss(mining)
    with reproducible(recipe):
        trunk = make_backbone(backbone, weights)
        network = EmbeddingNetwork(trunk, size=resize.size, embedding=embedding, name=backbone)
        normalisation = normalisation or normalisation_of(trunk)
        dataset = load(catalogue, resize, access=access, threads=recipe.threads or 2, echo=echo)
        labels, names = label_ids(dataset.products, similar_by)
        train = dataset.part("train")
        usable = _usable(labels, train, similar_by, echo)
        wanted = torch.from_numpy(labels)

        def evaluate(part: Indices) -> dict[str, float]:
            if not len(part):
                return retrieval(np.zeros((0, embedding), np.float32), labels[part])
            return retrieval(predict(network, dataset, part, normalisation, recipe.device).numpy(), labels[part])

        valid = dataset.part("valid")
        if not evaluate(valid)["queries"]:
            echo("the valid split has no two products of one label: validating on the training images")
            valid = usable
        distinct = len(np.unique(labels[usable]))
        echo(f"similarity by {' + '.join(similar_by)}: {len(usable):,} images of {distinct:,} labels train")
        task = Task(
            network=network,
            trunk=trunk,
            batches=lambda rng: label_batches(labels, train, batch=recipe.batch, per_label=per_label, rng=rng),
            loss=lambda output, i, _: loss(cosine_distances(cast(Tensor, output)), wanted[i].to(recipe.device), margin),
            validate=lambda: evaluate(valid),
            metric="map",
        )
        settings = {"similar_by": list(similar_by), "margin": margin, "mining": mining, "per_label": per_label}
        decides = {**settings, "backbone": backbone, "weights": weights, "embedding": embedding, "labels": labels}
        decides |= {"resize": resize, "normalisation": normalisation, "recipe": recipe}
        checkpoints = Checkpoints(
            out / "similarity.state.pt", resume, checkpoint_seconds, settings_digest(decides, dataset)
        )
        curve = fit(task, dataset, normalisation, recipe, echo, checkpoints)
        figures = {"valid": evaluate(valid), "test": evaluate(dataset.part("test"))}
    training = describe(catalogue, weights, recipe, settings, figures, dataset)
    config = Config("similarity", backbone, resize, normalisation, embedding=embedding, training=training)
    trained = write(out, config, network, curve, figures, started, {"labels": len(names)}, echo)
    checkpoints.remove()
    return trained


def train_attributes(
    *,
    catalogue: str,
    out: Path,
    backbone: str,
    resize: Resize,
    columns: Sequence[str] | None = None,
    min_count: int = 20,
    weights: str | None = None,
    normalisation: Normalisation | None = None,
    positive_weight: float = 1.0,
    recipe: Recipe = Recipe(),  # noqa: B008  # frozen
    access: storage.Access | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    echo: Echo = print,
) -> Trained:
    """Trains an attribute network for the values of ``columns`` (None: all) that ``min_count`` training images have.

    Binary cross-entropy; an empty cell says nothing of its column's attributes. ``positive_weight`` limits how far rare
    attributes are weighed up; 1 keeps the scores calibrated. Validated by mean average precision on the valid split.
    """
    started = time.time()
    with reproducible(recipe):
        trunk = make_backbone(backbone, weights)
        dataset = load(catalogue, resize, access=access, threads=recipe.threads or 2, echo=echo)
        train, valid, test = (dataset.part(split) for split in ("train", "valid", "test"))
        vocabulary = catalogue_rows.vocabulary(
            [dataset.products[i] for i in train], columns=columns, min_count=min_count
        )
        names = vocabulary.names
        _say_left_out(vocabulary.left_out, min_count, echo)
        if not names:
            raise UsageError(f"no attribute has {min_count} training images; lower --min-count or name other columns")
        targets, known = attribute_targets(dataset.products, names)
        y, mask = torch.from_numpy(targets).float().to(recipe.device), torch.from_numpy(known).to(recipe.device)
        pos_weight = positive_weights(y[train], mask[train].float(), positive_weight)
        network = AttributeNetwork(trunk, size=resize.size, attributes=len(names), name=backbone)
        network.start_at((y[train].sum(0) / mask[train].sum(0).clamp(min=1)).cpu())
        normalisation = normalisation or normalisation_of(trunk)
        if not len(valid):
            echo("the catalogue has no valid split: validating on the training images")
            valid = train

        def evaluate(part: Indices) -> tuple[dict[str, float], np.ndarray[Any, np.dtype[np.float64]]]:
            logits = predict(network, dataset, part, normalisation, recipe.device)
            return attribute_precision(logits.numpy(), targets[part], known[part])

        echo(f"{len(names)} attributes, {len(train):,} images train")
        task = Task(
            network=network,
            trunk=trunk,
            batches=lambda rng: plain_batches(train, batch=recipe.batch, rng=rng),
            loss=lambda output, i, _: attribute_bce(output[0], y[i], mask[i], pos_weight),
            validate=lambda: evaluate(valid)[0],
            metric="map",
        )
        settings = {
            "columns": list(dict.fromkeys(name.partition("=")[0] for name in names)),
            "min_count": min_count,
            "positive_weight": positive_weight,
        }
        decides = {**settings, "backbone": backbone, "weights": weights, "names": names, "targets": targets}
        decides |= {"known": known, "resize": resize, "normalisation": normalisation, "recipe": recipe}
        checkpoints = Checkpoints(
            out / "attributes.state.pt", resume, checkpoint_seconds, settings_digest(decides, dataset)
        )
        curve = fit(task, dataset, normalisation, recipe, echo, checkpoints)
        judged = {name: evaluate(part) for name, part in (("valid", valid), ("test", test)) if len(part)}
    figures = {name: summary for name, (summary, _) in judged.items()}
    precision = {
        name: dict(zip(names, [None if np.isnan(v) else round(float(v), 4) for v in values], strict=True))
        for name, (_, values) in judged.items()
    }
    training = describe(catalogue, weights, recipe, settings, figures, dataset)
    config = Config("attributes", backbone, resize, normalisation, vocabulary=names, training=training)
    extra = {"left_out": dict(vocabulary.left_out), "average_precision": precision}
    trained = write(out, config, network, curve, figures, started, extra, echo)
    checkpoints.remove()
    return trained


def attribute_targets(
    products: Sequence[Product], names: Sequence[str]
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which products have which attributes, bool [I, A], and of which that is known, bool [I, A]."""
    columns = [name.partition("=")[0] for name in names]
    targets = np.zeros((len(products), len(names)), dtype=np.bool_)
    known = np.zeros_like(targets)
    for i, product in enumerate(products):
        has, filled = set(product.names()), {column for column, _ in product.attributes}
        targets[i] = [name in has for name in names]
        known[i] = [column in filled for column in columns]
    return targets, known


def _usable(labels: Indices, train: Indices, similar_by: Sequence[str], echo: Echo) -> Indices:
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


def _say_left_out(left_out: Mapping[str, int], min_count: int, echo: Echo) -> None:
    if left_out:
        shown = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items(), key=lambda x: -x[1])[:5])
        echo(f"{len(left_out):,} attributes with fewer than {min_count} training images are left out: {shown}, …")
