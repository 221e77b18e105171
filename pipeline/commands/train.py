"""``whymatch train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from pipeline.commands.common import find_factories
from pipeline.options import shared
from pipeline.options.command_line import Command, CommandFamily
from pipeline.options.declaration import CONFIG, Heading, Option, Options
from pipeline.options.formats import Names, Repeated, Three
from transforms.core.errors import UsageError

DATA = Heading("data")
NETWORK = Heading("network")
TRAINING = Heading("training")
SUPERVISION = Heading("supervision by saliency maps")

_MIN_PAIRS = 20


@dataclass(frozen=True, config=CONFIG, kw_only=True)
class TrainOptions(Options):
    """What both trainings' options have in common."""

    catalogue: Annotated[shared.Catalogue, DATA]
    out: Annotated[Path, Option("folder for the checkpoint and the training record"), DATA]
    image_roots: Annotated[shared.BesideTheCatalogue, DATA] = ()

    backbone: Annotated[str, Option("a torchvision model's name, or module:factory"), NETWORK] = "resnet18"
    weights: Annotated[
        str | None,
        Option("'default' for torchvision's own, or a checkpoint file; random when left out"),
        NETWORK,
    ] = None
    size: Annotated[shared.InputSize, NETWORK] = (224, 224)
    resize: Annotated[shared.Fitting, NETWORK] = "squash"
    interpolation: Annotated[shared.Interpolation, NETWORK] = "bilinear"
    shorter: Annotated[shared.Shorter, NETWORK] = None
    scale: Annotated[
        float | None,
        Option("pixels 0…255 are multiplied by this; what the backbone was trained with when left out"),
        NETWORK,
    ] = None
    mean: Annotated[Three | None, Option("subtracted after scaling; likewise", metavar="R,G,B"), NETWORK] = None
    std: Annotated[Three | None, Option("divided by; likewise", metavar="R,G,B"), NETWORK] = None

    epochs: Annotated[int, Option("passes over the training split at most"), TRAINING] = 30
    patience: Annotated[int, Option("stop after this many epochs without a better validation"), TRAINING] = 10
    batch: Annotated[int, Option("images a step"), TRAINING] = 64
    learning_rate: Annotated[float, Option("of AdamW at its peak"), TRAINING] = 1e-3
    trunk_rate: Annotated[float, Option("the backbone's learning rate as a part of that; 0 freezes it"), TRAINING] = 1.0
    frozen: Annotated[
        float, Option("share of the backbone's layers, from the input on, that are not trained"), TRAINING
    ] = 0.0
    weight_decay: Annotated[float, Option("of AdamW"), TRAINING] = 1e-4
    seed: Annotated[int, Option("seed of every random draw"), TRAINING] = 0
    threads: Annotated[int, Option("CPU threads; 0 takes all cores"), TRAINING] = 0
    device: Annotated[str, Option("torch's name of it, such as cuda"), TRAINING] = "cpu"
    resume: Annotated[
        bool,
        Option("go on where a killed training of the same options in --out stopped, to the same weights"),
        TRAINING,
    ] = False
    checkpoint_seconds: Annotated[float, Option("how often it is kept where the training stands"), TRAINING] = 60.0


@dataclass(frozen=True, config=CONFIG, kw_only=True)
class SimilarityOptions(TrainOptions):
    """The options of ``whymatch train similarity``."""

    similar_by: Annotated[Names, Option("columns in which two similar products agree", metavar="COLUMN,…")]
    conditions: Annotated[
        str | None,
        Option(
            "column of types: products of any two types are compared under a condition of their own",
            metavar="COLUMN",
        ),
    ] = None
    min_pairs: Annotated[
        int | None,
        Option(
            f"leave out conditions with fewer positive pairs of training products (default: {_MIN_PAIRS}); with "
            "--conditions"
        ),
    ] = None
    embedding: Annotated[int, Option("length of the embedding")] = 128
    margin: Annotated[float, Option("of the triplet loss, in cosine distance")] = 0.2
    mining: Annotated[Literal["semi-hard", "batch-hard"], Option("which triplets count")] = "semi-hard"


@dataclass(frozen=True, config=CONFIG, kw_only=True)
class AttributesOptions(TrainOptions):
    """The options of ``whymatch train attributes``."""

    columns: Annotated[
        Names | None,
        Option("attribute columns; all that are categorical when left out", metavar="COLUMN,…"),
    ] = None
    min_count: Annotated[int, Option("leave out attributes of fewer training products")] = 20
    attribute_loss: Annotated[
        Literal["bce", "smooth-l1"],
        Option("binary cross-entropy, or smooth L1 of the softmax over all attributes against an image's own"),
    ] = "bce"
    saliency: Annotated[
        Repeated,
        Option(
            "folder of an audit over training pairs, whose maps supervise the activation maps; may be given again",
            metavar="TABLES",
        ),
        SUPERVISION,
    ] = ()
    saliency_weight: Annotated[
        float | None, Option("lambda in L = L_att + lambda * L_hm (default: 0.005)"), SUPERVISION
    ] = None
    saliency_temperature: Annotated[
        float | None,
        Option("maps get mean 0 and standard deviation 1 / this before their softmax; left as they are when not given"),
        SUPERVISION,
    ] = None
    saliency_limit: Annotated[int | None, Option("maps of a product at most (default: 20)"), SUPERVISION] = None


def _run_train_similarity(options: SimilarityOptions) -> int:
    from export.training.settings import SimilarityTraining
    from export.training.train_similarity import train_similarity

    _need(options, "conditions", "min_pairs")
    own = {name: getattr(options, name) for name in ("similar_by", "conditions", "embedding", "margin", "mining")}
    if options.conditions is not None:
        own["min_pairs"] = _MIN_PAIRS if options.min_pairs is None else options.min_pairs
    train_similarity(SimilarityTraining(**_training(options), **own))
    return 0


def _run_train_attributes(options: AttributesOptions) -> int:
    from export.training.settings import AttributeTraining, SaliencySupervision
    from export.training.train_attributes import train_attributes

    parts = ("weight", "temperature", "limit")
    _need(options, "saliency", *(f"saliency_{part}" for part in parts))
    saliency = None
    if options.saliency:
        given = {part: value for part in parts if (value := getattr(options, f"saliency_{part}")) is not None}
        saliency = SaliencySupervision(options.saliency, **given)
    own = {name: getattr(options, name) for name in ("columns", "min_count", "attribute_loss")}
    train_attributes(AttributeTraining(**_training(options), **own, saliency=saliency))
    return 0


def _need(options: TrainOptions, parent: str, *names: str) -> None:
    """UsageError for an option that was given without the one that it belongs to."""
    for name in names:
        if getattr(options, name) is not None and not getattr(options, parent):
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to --{parent}, which is not given: give it, or leave both out"
            )


def _training(options: TrainOptions) -> dict[str, Any]:
    """What both trainings take."""
    find_factories()
    from export.training.networks.backbones import Normalisation
    from export.training.settings import Recipe
    from transforms.core.imaging.images import Resize
    from transforms.storage import Access

    given = (options.scale, options.mean, options.std)
    if any(value is not None for value in given) and None in given:
        raise UsageError("--scale, --mean and --std go together: give all three, or none for the backbone's own")
    normalisation = None
    if options.scale is not None and options.mean is not None and options.std is not None:
        normalisation = Normalisation(options.scale, options.mean, options.std)
    recipe = (
        "epochs",
        "patience",
        "batch",
        "learning_rate",
        "trunk_rate",
        "frozen",
        "weight_decay",
        "seed",
        "threads",
        "device",
    )
    roots = (*options.image_roots, os.path.dirname(os.path.abspath(options.catalogue)))
    return {
        "catalogue": options.catalogue,
        "out": options.out,
        "backbone": options.backbone,
        "weights": options.weights,
        "resize": Resize(options.size, options.resize, options.interpolation, options.shorter),
        "normalisation": normalisation,
        "recipe": Recipe(**{name: getattr(options, name) for name in recipe}),
        "access": Access(roots=roots),
        "resume": options.resume,
        "checkpoint_seconds": options.checkpoint_seconds,
    }


COMMAND = CommandFamily(
    "train",
    "train a network on a catalogue (needs the extra 'export')",
    "KIND",
    (
        Command(
            "similarity",
            SimilarityOptions,
            _run_train_similarity,
            "train an embedding network by triplet loss with online mining",
        ),
        Command(
            "attributes",
            AttributesOptions,
            _run_train_attributes,
            "train an attribute network: trunk, 3x3 convolution to activation maps, their average as scores",
        ),
    ),
)
