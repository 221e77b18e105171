"""``whymatch train``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import INTERPOLATIONS, add_image_root, command, find_factories
from transforms.core.errors import UsageError

_MIN_PAIRS = 20


def add(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a network on a catalogue (needs the extra 'export')")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    similarity = command(
        kinds, "similarity", _run_train_similarity, "train an embedding network by triplet loss with online mining"
    )
    similarity.add_argument(
        "--similar-by",
        required=True,
        type=values.names,
        metavar="COLUMN,…",
        help="columns in which two similar products agree",
    )
    similarity.add_argument(
        "--conditions",
        metavar="COLUMN",
        help="column of types: products of any two types are compared under a condition of their own",
    )
    similarity.add_argument(
        "--min-pairs",
        type=int,
        help="leave out conditions with fewer positive pairs of training products (default: 20); with --conditions",
    )
    similarity.add_argument("--embedding", type=int, default=128, help="length of the embedding")
    similarity.add_argument("--margin", type=float, default=0.2, help="of the triplet loss, in cosine distance")
    similarity.add_argument(
        "--mining", choices=("semi-hard", "batch-hard"), default="semi-hard", help="which triplets count"
    )
    attributes = command(
        kinds,
        "attributes",
        _run_train_attributes,
        "train an attribute network: trunk, 3x3 convolution to activation maps, their average as scores",
    )
    attributes.add_argument(
        "--columns",
        type=values.names,
        metavar="COLUMN,…",
        help="attribute columns; all that are categorical when left out",
    )
    attributes.add_argument("--min-count", type=int, default=20, help="leave out attributes of fewer training products")
    attributes.add_argument(
        "--attribute-loss",
        choices=("bce", "smooth-l1"),
        default="bce",
        help="binary cross-entropy, or smooth L1 of the softmax over all attributes against an image's own",
    )
    supervision = attributes.add_argument_group("supervision by saliency maps")
    supervision.add_argument(
        "--saliency",
        action="append",
        default=[],
        metavar="TABLES",
        help="folder of an audit over training pairs, whose maps supervise the activation maps; may be given again",
    )
    supervision.add_argument(
        "--saliency-weight", type=float, help="lambda in L = L_att + lambda * L_hm (default: 0.005)"
    )
    supervision.add_argument(
        "--saliency-temperature",
        type=float,
        help="maps get mean 0 and standard deviation 1 / this before their softmax; left as they are when not given",
    )
    supervision.add_argument("--saliency-limit", type=int, help="maps of a product at most (default: 20)")
    for each in (similarity, attributes):
        data = each.add_argument_group("data")
        data.add_argument(
            "--catalogue", required=True, help="CSV, JSONL or Parquet with id, image and attribute columns"
        )
        data.add_argument("--out", required=True, type=Path, help="folder for the checkpoint and the training record")
        add_image_root(data, "local folder that images may lie in, besides the catalogue's")
        net = each.add_argument_group("network")
        net.add_argument("--backbone", default="resnet18", help="a torchvision model's name, or module:factory")
        net.add_argument(
            "--weights", help="'default' for torchvision's own, or a checkpoint file; random when left out"
        )
        net.add_argument(
            "--size", type=values.size, default=(224, 224), metavar="HxW", help="input size (default: 224x224)"
        )
        net.add_argument("--resize", choices=("squash", "crop", "pad"), default="squash", help="how an image is fitted")
        net.add_argument("--interpolation", choices=INTERPOLATIONS, default="bilinear", help="of the resize")
        net.add_argument(
            "--shorter", type=int, metavar="PIXELS", help="with crop: the shorter side before the centre crop"
        )
        net.add_argument(
            "--scale",
            type=float,
            help="pixels 0…255 are multiplied by this; what the backbone was trained with when left out",
        )
        net.add_argument("--mean", type=values.three, metavar="R,G,B", help="subtracted after scaling; likewise")
        net.add_argument("--std", type=values.three, metavar="R,G,B", help="divided by; likewise")
        how = each.add_argument_group("training")
        how.add_argument("--epochs", type=int, default=30, help="passes over the training split at most")
        how.add_argument(
            "--patience", type=int, default=10, help="stop after this many epochs without a better validation"
        )
        how.add_argument("--batch", type=int, default=64, help="images a step")
        how.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW at its peak")
        how.add_argument(
            "--trunk-rate", type=float, default=1.0, help="the backbone's learning rate as a part of that; 0 freezes it"
        )
        how.add_argument(
            "--frozen",
            type=float,
            default=0.0,
            help="share of the backbone's layers, from the input on, that are not trained",
        )
        how.add_argument("--weight-decay", type=float, default=1e-4, help="of AdamW")
        how.add_argument("--seed", type=int, default=0, help="seed of every random draw")
        how.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
        how.add_argument("--device", default="cpu", help="torch's name of it, such as cuda")
        how.add_argument(
            "--resume",
            action="store_true",
            help="go on where a killed training of the same options in --out stopped, to the same weights",
        )
        how.add_argument(
            "--checkpoint-seconds", type=float, default=60.0, help="how often it is kept where the training stands"
        )


def _run_train_similarity(options: argparse.Namespace) -> int:
    from export.training.settings import SimilarityTraining
    from export.training.train_similarity import train_similarity

    _need(options, "conditions", "min_pairs")
    own = {name: getattr(options, name) for name in ("similar_by", "conditions", "embedding", "margin", "mining")}
    if options.conditions is not None:
        own["min_pairs"] = _MIN_PAIRS if options.min_pairs is None else options.min_pairs
    train_similarity(SimilarityTraining(**_training(options), **own))
    return 0


def _run_train_attributes(options: argparse.Namespace) -> int:
    from export.training.settings import AttributeTraining, SaliencySupervision
    from export.training.train_attributes import train_attributes

    parts = ("weight", "temperature", "limit")
    _need(options, "saliency", *(f"saliency_{part}" for part in parts))
    saliency = None
    if options.saliency:
        given = {part: value for part in parts if (value := getattr(options, f"saliency_{part}")) is not None}
        saliency = SaliencySupervision(tuple(options.saliency), **given)
    own = {name: getattr(options, name) for name in ("columns", "min_count", "attribute_loss")}
    train_attributes(AttributeTraining(**_training(options), **own, saliency=saliency))
    return 0


def _need(options: argparse.Namespace, parent: str, *names: str) -> None:
    """UsageError for an option that was given without the one that it belongs to."""
    for name in names:
        if getattr(options, name) is not None and not getattr(options, parent):
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to --{parent}, which is not given: give it, or leave both out"
            )


def _training(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that both trainings have."""
    find_factories()
    from export.training.networks.backbones import Normalisation
    from export.training.settings import Recipe
    from transforms.core.imaging.images import Resize
    from transforms.storage import Access

    given = [options.scale, options.mean, options.std]
    if any(value is not None for value in given) and None in given:
        raise UsageError("--scale, --mean and --std go together: give all three, or none for the backbone's own")
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
        "normalisation": None if None in given else Normalisation(*given),
        "recipe": Recipe(**{name: getattr(options, name) for name in recipe}),
        "access": Access(roots=roots),
        "resume": options.resume,
        "checkpoint_seconds": options.checkpoint_seconds,
    }
