"""``whymatch catalogue``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from pipeline.options.command_line import Command, CommandFamily
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Words
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.datasets.writing import PairOf, PublishedDataset

_UNPACKED = "the unpacked data set: the folder that holds"


@dataclass(frozen=True, config=CONFIG)
class DatasetOptions(Options):
    """What all data sets' options have in common."""

    folder: Annotated[str, Option(_UNPACKED, metavar="DIR", positional=True)]
    out: Annotated[str, Option("folder for the catalogue and the manifests", metavar="FOLDER")]
    format: Annotated[Literal["csv", "parquet"], Option("of the files")] = "csv"
    pairs: Annotated[
        Words,
        Option("lists of pairs, 'image image label' a line, in place of pairs made from the data set", metavar="FILE"),
    ] = ()
    all_pairs: Annotated[
        bool, Option("with --pairs: pairs of label 0 too, which are no matches, and a column label")
    ] = False


@dataclass(frozen=True, config=CONFIG)
class PolyvoreOptions(DatasetOptions):
    """The options of ``whymatch catalogue polyvore-outfits``."""

    folder: Annotated[
        str, Option(f"{_UNPACKED} polyvore_item_metadata.json and images/", metavar="DIR", positional=True)
    ]
    variant: Annotated[Literal["nondisjoint", "disjoint"], Option("which outfits and splits")] = "nondisjoint"
    no_conditions: Annotated[bool, Option("leave the column condition out, for a bundle that has none")] = False


@dataclass(frozen=True, config=CONFIG)
class Awa2Options(DatasetOptions):
    """The options of ``whymatch catalogue awa2``."""

    folder: Annotated[str, Option(f"{_UNPACKED} classes.txt and JPEGImages/", metavar="DIR", positional=True)]
    valid_share: Annotated[float, Option("share of the train classes' images to validate")] = 0.1
    pairs_per_image: Annotated[int, Option("references of each image, of its class and split")] = 8
    seed: Annotated[int, Option("seed of both draws")] = 0


def _run_polyvore(options: PolyvoreOptions) -> int:
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


def _run_awa2(options: Awa2Options) -> int:
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


def _check(options: DatasetOptions) -> None:
    """What can be said before the data set is read."""
    from pipeline.datasets.writing import targets

    if options.all_pairs and not options.pairs:
        raise UsageError("--all-pairs belongs to --pairs, which is not given: give it, or leave both out")
    targets(options.out, options.format)


def _write(
    options: DatasetOptions,
    dataset: PublishedDataset,
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


_MORE = "Local folders only. docs/datasets.md says where it comes from, and what becomes what."

COMMAND = CommandFamily(
    "catalogue",
    "make a catalogue and manifests of a published data set",
    "DATASET",
    (
        Command(
            "polyvore-outfits",
            PolyvoreOptions,
            _run_polyvore,
            "make a catalogue and manifests of Polyvore Outfits",
            _MORE,
        ),
        Command("awa2", Awa2Options, _run_awa2, "make a catalogue and manifests of Animals with Attributes 2", _MORE),
    ),
)
