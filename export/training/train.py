"""``whymatch train``: an embedding network or an attribute network from a catalogue.

Each writes a checkpoint (``similarity.pt``, ``attributes.pt``) and beside it a record of the training as JSON.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from export.training.conditions import ConditionalLoss, condition_batches, conditional_retrieval, find_conditions
from export.training.data import Dataset, Echo, Indices, label_batches, label_ids, load, plain_batches
from export.training.fitting import Epoch, Recipe, TrainingTask, fit, machine, predict, reproducible
from export.training.losses import attribute_bce, cosine_distances, positive_weights, triplet_loss
from export.training.networks.attribute_network import AttributeNetwork
from export.training.networks.backbones import Normalisation, normalisation_of
from export.training.networks.backbones import backbone as make_backbone
from export.training.networks.checkpoint import Config
from export.training.networks.similarity_network import EmbeddingNetwork, TypeSpecificNetwork
from export.training.record import Trained, describe, write
from export.training.resume import Checkpoints, check_seconds, settings_digest
from export.training.supervision import SaliencyMaps, attribute_smooth_l1, read_saliency, saliency_loss
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize
from transforms.core.metrics.retrieval import attribute_precision, retrieval
from transforms.core.records import Float32, Product
from transforms.inputs import catalogue as catalogue_rows

AttributeLoss = Literal["bce", "smooth-l1"]
ATTRIBUTE_LOSSES = get_args(AttributeLoss)


def train_similarity(
    *,
    catalogue: str,
    out: Path,
    backbone: str,
    similar_by: Sequence[str],
    conditions: str | None = None,
    min_pairs: int = 1,
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
    input. Validated by retrieval among the valid split. ``conditions`` names a column of types: products of any two
    types are then compared, trained and validated under a mask of their own (``export.training.conditions``) where
    ``min_pairs`` of their training products share a label. Where the training stands is kept in ``out`` every
    ``checkpoint_seconds``; ``resume`` goes on from there, and returns a training of the same settings as it is where it
    is done. UsageError where fewer than two labels have two images.
    """
    if embedding < 1 or per_label < 2 or not margin > 0:
        raise UsageError(f"embedding >= 1, per_label >= 2, margin > 0; got {embedding}, {per_label}, {margin}")
    if min_pairs < 1:
        raise UsageError(f"--min-pairs must be at least 1, not {min_pairs}")
    check_seconds(checkpoint_seconds)
    loss = triplet_loss(mining)
    with reproducible(recipe):
        trunk = make_backbone(backbone, weights)
        embedder = EmbeddingNetwork(trunk, size=resize.size, embedding=embedding, name=backbone)
        normalisation = normalisation or normalisation_of(trunk)
        dataset = load(catalogue, resize, access=access, threads=recipe.threads or 2, echo=echo)
        labels, names = label_ids(dataset.products, similar_by)
        train = dataset.part("train")
        usable = _usable(labels, train, similar_by, echo)
        wanted = torch.from_numpy(labels)
        found = (
            None
            if conditions is None
            else find_conditions(dataset.products, conditions, labels, train, least=min_pairs)
        )
        network: EmbeddingNetwork | TypeSpecificNetwork = embedder
        if found is not None:
            found.say(echo)
            usable, network = found.usable, TypeSpecificNetwork(embedder, len(found.pairs))

        def embed(part: Indices) -> Float32:
            if not len(part):
                return np.zeros((0, embedding), np.float32)
            return np.asarray(predict(network, dataset, part, normalisation, recipe.device).numpy(), np.float32)

        def evaluate(part: Indices) -> dict[str, float]:
            if found is None or not isinstance(network, TypeSpecificNetwork):
                return retrieval(embed(part), labels[part])
            masks = network.masks().detach().cpu().numpy()
            return conditional_retrieval(embed(part), masks, labels[part], found.type_of[part], found.table)

        def batches(rng: np.random.Generator) -> list[Indices]:
            if found is None:
                return label_batches(labels, train, batch=recipe.batch, per_label=per_label, rng=rng)
            return condition_batches(found, labels, batch=recipe.batch, per_label=per_label, rng=rng)

        def parts(output: Tensor, i: Indices, _: Tensor | None) -> Mapping[str, Tensor]:
            if found is None or not isinstance(network, TypeSpecificNetwork):
                return {"triplet": loss(cosine_distances(output), wanted[i].to(recipe.device), margin)}
            return ConditionalLoss(network.masks, labels, found.type_of, found.table, margin, mining)(output, i)

        valid = dataset.part("valid")
        if not evaluate(valid)["queries"]:
            echo("the valid split has no two products of one label: validating on the training images")
            valid = usable
        distinct = len(np.unique(labels[usable]))
        echo(f"similarity by {' + '.join(similar_by)}: {len(usable):,} images of {distinct:,} labels train")
        task = TrainingTask(
            network=network,
            trunk=trunk,
            batches=batches,
            loss=parts,
            validate=lambda: evaluate(valid),
            metric="map",
        )
        settings: dict[str, Any] = {"similar_by": list(similar_by), "margin": margin, "mining": mining}
        settings["per_label"] = per_label
        if found is not None:
            settings["conditions"] = found.record()
        decides = {**settings, "backbone": backbone, "weights": weights, "embedding": embedding, "labels": labels}
        decides |= {"types": None if found is None else found.type_of}
        decides |= {"resize": resize, "normalisation": normalisation, **_decisive(recipe)}
        checkpoints = Checkpoints(
            out / "similarity.state.pt", resume, checkpoint_seconds, settings_digest(decides, dataset)
        )
        if (done := _finished(checkpoints, out, "similarity", echo)) is not None:
            return done
        curve = fit(task, dataset, normalisation, recipe, echo, checkpoints)
        figures = {"valid": evaluate(valid), "test": evaluate(dataset.part("test"))}
    training = describe(catalogue, weights, recipe, settings, figures, dataset)
    config = Config("similarity", backbone, resize, normalisation, embedding=embedding, training=training)
    extra: dict[str, Any] = {"labels": len(names), "settings": checkpoints.settings}
    if found is not None:
        config, extra["no_condition"] = replace(config, conditions=found.names), dict(found.left_out)
    return _leave(out, config, network, curve, figures, extra, checkpoints, echo)


@dataclass(frozen=True)
class SaliencySupervision:
    """What supervises an attribute network beside its attributes.

    ``tables`` are folders of audits over training pairs, ``weight`` is lambda in L = L_att + lambda * L_hm,
    ``temperature`` and ``limit`` as in ``export.training.supervision``.
    """

    tables: tuple[str, ...]
    weight: float = 5e-3
    temperature: float | None = None
    limit: int = 20

    def __post_init__(self) -> None:
        if not self.tables:
            raise UsageError("saliency supervision needs the folder of an audit's tables")
        if not (math.isfinite(self.weight) and self.weight >= 0) or self.limit < 1:
            raise UsageError(f"a saliency weight >= 0 and a limit >= 1 are needed; got {self.weight} and {self.limit}")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"a saliency temperature is above 0, got {self.temperature}")


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
    attribute_loss: AttributeLoss = "bce",
    positive_weight: float = 1.0,
    saliency: SaliencySupervision | None = None,
    recipe: Recipe = Recipe(),  # noqa: B008  # frozen
    access: storage.Access | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    echo: Echo = print,
) -> Trained:
    """Trains an attribute network for the values of ``columns`` (None: all) that ``min_count`` training images have.

    ``attribute_loss`` is "bce", binary cross-entropy, for which a score is the probability of its attribute, or
    "smooth-l1", which compares the softmax over all attributes with uniform mass over the image's own, as in SANE's
    code. An empty cell says nothing of its column's attributes. ``positive_weight`` limits how far rare attributes are
    weighed up in "bce"; 1 keeps the scores calibrated. ``saliency`` adds the distance of activation maps from saliency
    maps. Validated by mean average precision on the valid split. ``resume`` and ``checkpoint_seconds`` as for
    :func:`train_similarity`.
    """
    check_seconds(checkpoint_seconds)
    if attribute_loss not in ATTRIBUTE_LOSSES:
        raise UsageError(f"there is no attribute loss {attribute_loss!r}; take one of {', '.join(ATTRIBUTE_LOSSES)}")
    if saliency is not None:
        _require_audits(saliency.tables)
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
        maps = _saliency_maps(saliency, dataset, resize, echo)
        y, mask = torch.from_numpy(targets).float().to(recipe.device), torch.from_numpy(known).to(recipe.device)
        pos_weight = positive_weights(y[train], mask[train].float(), positive_weight)
        network = AttributeNetwork(trunk, size=resize.size, attributes=len(names), name=backbone)
        network.start_at((y[train].sum(0) / mask[train].sum(0).clamp(min=1)).cpu())
        normalisation = normalisation or normalisation_of(trunk)
        if not len(valid):
            echo("the catalogue has no valid split: validating on the training images")
            valid = train

        def loss(output: tuple[Tensor, Tensor], i: Indices, affine: Tensor | None) -> dict[str, Tensor]:
            logits, evidence = output
            if attribute_loss == "bce":
                parts = {"attributes": attribute_bce(logits, y[i], mask[i], pos_weight)}
            else:
                parts = {"attributes": attribute_smooth_l1(logits, y[i], mask[i])}
            if maps is not None and saliency is not None and saliency.weight:
                given, real = (some.to(recipe.device) for some in maps.of(i))
                has = (y[i] > 0) & mask[i]
                distance = saliency_loss(evidence, given, real, has, affine=affine, temperature=saliency.temperature)
                parts["saliency"] = saliency.weight * distance
            return parts

        def evaluate(part: Indices) -> tuple[dict[str, float], np.ndarray[Any, np.dtype[np.float64]]]:
            logits = predict(network, dataset, part, normalisation, recipe.device)
            return attribute_precision(logits.numpy(), targets[part], known[part])

        echo(f"{len(names)} attributes, {len(train):,} images train")
        task = TrainingTask(
            network=network,
            trunk=trunk,
            batches=lambda rng: plain_batches(train, batch=recipe.batch, rng=rng),
            loss=loss,
            validate=lambda: evaluate(valid)[0],
            metric="map",
        )
        settings = {
            "columns": list(dict.fromkeys(name.partition("=")[0] for name in names)),
            "min_count": min_count,
            "attribute_loss": attribute_loss,
            "positive_weight": positive_weight,
        }
        decides = {**settings, "backbone": backbone, "weights": weights, "names": names, "targets": targets}
        decides |= {"known": known, "resize": resize, "normalisation": normalisation, **_decisive(recipe)}
        if maps is not None and saliency is not None:
            decides |= {"maps": maps.maps, "first": maps.first, "saliency": replace(saliency, tables=("",))}
            supervised = {"weight": saliency.weight, "temperature": saliency.temperature, **maps.source}
            settings |= {"saliency": supervised}
        checkpoints = Checkpoints(
            out / "attributes.state.pt", resume, checkpoint_seconds, settings_digest(decides, dataset)
        )
        if (done := _finished(checkpoints, out, "attributes", echo)) is not None:
            return done
        curve = fit(task, dataset, normalisation, recipe, echo, checkpoints)
        judged = {name: evaluate(part) for name, part in (("valid", valid), ("test", test)) if len(part)}
    figures = {name: summary for name, (summary, _) in judged.items()}
    precision = {
        name: dict(zip(names, [None if np.isnan(v) else round(float(v), 4) for v in values], strict=True))
        for name, (_, values) in judged.items()
    }
    training = describe(catalogue, weights, recipe, settings, figures, dataset)
    config = Config("attributes", backbone, resize, normalisation, vocabulary=names, training=training)
    extra = {"left_out": dict(vocabulary.left_out), "average_precision": precision, "settings": checkpoints.settings}
    return _leave(out, config, network, curve, figures, extra, checkpoints, echo)


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe and the machine decides the weights; the threads are those that there are."""
    return {"recipe": replace(recipe, threads=0), "machine": machine(recipe)}


def _finished(checkpoints: Checkpoints, out: Path, kind: str, echo: Echo) -> Trained | None:
    """The training of the same settings that lies in ``out``, where it is to be resumed and is done."""
    checkpoint, record = out / f"{kind}.pt", out / f"{kind}.json"
    if (content := checkpoints.finished(checkpoint, record)) is None:
        return None
    checkpoints.remove()
    echo(f"{checkpoint} is there already, trained with the same settings on the same data; its curve lies in {record}")
    figures = {
        split: {name: math.nan if value is None else float(value) for name, value in values.items()}
        for split, values in content["training"]["figures"].items()
    }
    return Trained(checkpoint, record, figures)


def _leave(
    out: Path,
    config: Config,
    network: torch.nn.Module,
    curve: Sequence[Epoch],
    figures: Mapping[str, Mapping[str, float]],
    extra: Mapping[str, Any],
    checkpoints: Checkpoints,
    echo: Echo,
) -> Trained:
    """Writes what the training leaves behind and forgets where it stood.

    A record of an earlier training goes first: killed in between, it would stand beside a checkpoint that is not its.
    The seconds are those of the training itself, with those before a kill.
    """
    (out / f"{config.kind}.json").unlink(missing_ok=True)
    trained = write(out, config, network, curve, figures, time.time() - curve[-1].seconds, extra, echo)
    checkpoints.remove()
    return trained


def _require_audits(folders: Sequence[str]) -> None:
    """UsageError for a folder without a finished audit, before images are decoded."""
    for folder in folders:
        if not any(file.endswith(".parquet") for file in storage.list_files(storage.join(folder, "runs"))):
            raise UsageError(
                f"--saliency: {storage.shown(folder)} holds no finished audit: name the folder that was --out of one"
            )


def _saliency_maps(
    saliency: SaliencySupervision | None, dataset: Dataset, resize: Resize, echo: Echo
) -> SaliencyMaps | None:
    if saliency is None:
        return None
    return read_saliency(saliency.tables, dataset.products, resize, limit=saliency.limit, echo=echo)


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
