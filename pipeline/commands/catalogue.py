"""``whymatch catalogue``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import command
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.datasets.writing import Dataset, PairOf


def add(commands: Any) -> None:
    parser = commands.add_parser("catalogue", help="make a catalogue and manifests of a published data set")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="DATASET")
    more = "Local folders only. docs/datasets.md says where it comes from, and what becomes what."
    polyvore = command(
        kinds, "polyvore-outfits", _run_polyvore, "make a catalogue and manifests of Polyvore Outfits", more
    )
    awa2 = command(kinds, "awa2", _run_awa2, "make a catalogue and manifests of Animals with Attributes 2", more)
    for each, holds in ((polyvore, "polyvore_item_metadata.json and images/"), (awa2, "classes.txt and JPEGImages/")):
        each.add_argument("folder", metavar="DIR", help=f"the unpacked data set: the folder that holds {holds}")
        each.add_argument("--out", required=True, metavar="FOLDER", help="folder for the catalogue and the manifests")
        each.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the files")
        each.add_argument(
            "--pairs",
            nargs="+",
            default=[],
            metavar="FILE",
            help="lists of pairs, 'image image label' a line, in place of pairs made from the data set",
        )
        each.add_argument(
            "--all-pairs",
            action="store_true",
            help="with --pairs: pairs of label 0 too, which are no matches, and a column label",
        )
    polyvore.add_argument(
        "--variant", choices=("nondisjoint", "disjoint"), default="nondisjoint", help="which outfits and splits"
    )
    polyvore.add_argument(
        "--no-conditions",
        action="store_true",
        help="leave the column condition out, for a bundle that has none",
    )
    awa2.add_argument("--valid-share", type=float, default=0.1, help="share of the train classes' images to validate")
    awa2.add_argument("--pairs-per-image", type=int, default=8, help="references of each image, of its class and split")
    awa2.add_argument("--seed", type=int, default=0, help="seed of both draws")


def _run_polyvore(options: argparse.Namespace) -> int:
    from pipeline.datasets import polyvore_outfits as reader

    _check(options)
    dataset, outfits = reader.read(options.folder, options.variant, conditions=not options.no_conditions)
    conditions = f" --conditions {reader.TYPE}" if dataset.conditions else ""
    return _write(
        options,
        dataset,
        reader.outfit_pairs(dataset, outfits),
        f"--similar-by {reader.OUTFIT}{conditions}",
        f"--columns {reader.TYPE},{reader.CATEGORY}",
    )


def _run_awa2(options: argparse.Namespace) -> int:
    import shlex

    from pipeline.datasets import awa2 as reader
    from pipeline.datasets.reading import local_place

    _check(options)
    dataset = reader.read(options.folder, valid_share=options.valid_share, seed=options.seed)
    pairs = reader.same_class_pairs(dataset, options.pairs_per_image, options.seed)
    columns = shlex.quote(local_place(options.out, "--out") + "/columns.txt")
    return _write(
        options, dataset, pairs, f"--similar-by {reader.CLASS}", f'--columns "$(cat {columns})"', dataset.columns[1:]
    )


def _check(options: argparse.Namespace) -> None:
    """What can be said before the data set is read."""
    from pipeline.datasets.writing import targets

    if options.all_pairs and not options.pairs:
        raise UsageError("--all-pairs belongs to --pairs, which is not given: give it, or leave both out")
    targets(options.out, options.format)


def _write(
    options: argparse.Namespace,
    dataset: Dataset,
    pairs: Iterable[PairOf],
    similarity: str,
    attributes: str,
    predicates: Sequence[str] = (),
) -> int:
    from pipeline.commands.common import say
    from pipeline.datasets import pair_lists, writing

    if options.pairs:
        pairs = pair_lists.read(
            options.pairs,
            dataset.items,
            dataset.left_out,
            all_pairs=options.all_pairs,
            conditions=dataset.conditions,
        )
    labels = options.all_pairs
    written = writing.write(dataset, pairs, options.out, options.format, labels=labels, predicates=predicates)
    for line in writing.summary(dataset, written):
        say(line)
    say("next")
    for line in writing.next_commands(written, options.format, similarity, attributes, labels=labels):
        say(f"  {line}")
    return 0
