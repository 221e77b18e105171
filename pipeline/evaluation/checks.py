"""What is wrong with an evaluation, found before anything is measured."""

from __future__ import annotations

import io
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.run_inventory import RunInventory
from transforms import storage, tables
from transforms.core import memory
from transforms.core.errors import UsageError
from transforms.core.memory import CHUNK
from transforms.core.messages import Echo, listed, quoted
from transforms.core.metrics.registry import CURVES, REMOVAL, needing, requests
from transforms.core.records import Product
from transforms.core.saliency.controls import UNRELATED
from transforms.inputs import catalogue
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.tables import runs

SESSION = 3
"""The memory of a session in sizes of its file, roughly: weights, packed weights, activations."""


def bundle_of(options: EvaluateOptions, run_: runs.Run) -> Bundle:
    bundle = bundles.read(options.bundle)
    if run_.row["model_id"] != bundle.model_id:
        raise UsageError(
            f"run {run_.id} is of another similarity model than the bundle: its model_id is {run_.row['model_id']}, "
            f"the bundle's is {bundle.model_id}. Give the bundle that was audited, or choose a run with --run-id."
        )
    asking = needing("attributes")
    if options.asks(*asking) and bundle.attributes is None:
        raise UsageError(
            f"{storage.shown(options.bundle)} has no attribute network: {' and '.join(asking)} judge what one says"
        )
    return bundle


def check_id(options: EvaluateOptions, run_: runs.Run) -> None:
    """UsageError where the evaluation's id is taken, also by one that broke off, whose rows would count."""
    if (run_.id, options.evaluation_id) in runs.evaluations(options.tables):
        raise UsageError(
            f"{storage.shown(options.tables)} already holds an evaluation {options.evaluation_id} of run {run_.id}; "
            "choose another --evaluation-id"
        )
    folder = tables.folder(options.tables, "metrics", run_.id)
    if any(runs.of(address) == options.evaluation_id for address in storage.list_files(folder)):
        raise UsageError(
            f"an evaluation {options.evaluation_id} of run {run_.id} broke off and left rows behind: choose another "
            f"--evaluation-id, or remove {storage.shown(folder)}/part-{options.evaluation_id}-*.parquet"
        )


def check_attributes(options: EvaluateOptions, run_: runs.Run, bundle: Bundle, echo: Echo) -> None:
    """UsageError where the run named other attributes than the bundle would; those of old runs are not known."""
    asked = " and ".join(metric for metric in needing("attributes") if metric in options.metrics)
    for name, what in (("attribute_model_id", "another attribute network"), ("vocabulary_id", "another vocabulary")):
        then, now = run_.row[name], getattr(bundle, name)
        if then is not None and then != now:
            raise UsageError(
                f"{asked}: run {run_.id} was made with {what} than the bundle has: its {name} is {then}, the bundle's "
                f"is {now}. Give the bundle that was audited, or audit again."
            )
    then, now = run_.row["ranking_id"], bundle.ranking_id
    if options.asks(*requests(REMOVAL)) and then is not None and then != now:
        echo(
            f"run {run_.id} ranked its attributes otherwise than the bundle does now: removal measures the run's order"
        )


def check_split(address: str, split: str | None) -> None:
    """UsageError where no product of the catalogue is of ``split``."""
    splits: set[str] = set()
    if split is None:
        return
    for item in catalogue.read(address):
        if isinstance(item, Product) and item.split is not None:
            if item.split == split:
                return
            splits.add(item.split)
    there = f"there are {listed(sorted(splits))}" if splits else "it has none: the column 'split' is missing or empty"
    raise UsageError(f"--split: no product of the catalogue {storage.shown(address)} is of {quoted(split)}; {there}")


def check_report(options: EvaluateOptions, folder: Path, echo: Echo) -> None:
    """Makes the report's folder, so that one that cannot be written is found before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--report: cannot write to {storage.shown(str(folder))}: {error.strerror}") from None
    if options.asks(*requests(CURVES), *needing("cascade")) and find_spec("matplotlib") is None:
        echo("the report will have no pictures: they need matplotlib. Run: pip install 'whymatch[report]'")


def check_found(
    options: EvaluateOptions, run_: runs.Run, bundle: Bundle, found: RunInventory, map_size: tuple[int, int]
) -> None:
    if not found.sampled:
        raise UsageError(
            f"run {run_.id} has {found.explanations:,} explanations, and --sample {options.sample} takes none of them"
        )
    if found.frame != bundle.resize.size:
        raise UsageError(f"run {run_.id} has maps of the frame {found.frame}, the bundle's is {bundle.resize.size}")
    if found.map_size not in (None, map_size):
        raise UsageError(
            f"run {run_.id} has maps of {found.map_size} cells, and its record says {map_size}: audit again"
        )
    needs: list[str] = [name for name in options.metrics if name in needing("another query")]
    if options.with_unrelated:
        needs.append(f"--controls {UNRELATED}")
    if needs and len({unrelated_pair.query_id for unrelated_pair in found.unrelated}) < 2:
        raise UsageError(f"{', '.join(needs)}: the run has one query only, and nothing to compare it with")


def needed_bytes(options: EvaluateOptions, bundle: Bundle, image: int, stages: int, explainers: int) -> int:
    """The bytes that a worker needs, roughly; UsageError where they are more than ``--memory-limit``.

    ``image`` are those of explaining one. To them come the network and its ``stages`` randomised copies, each of
    ``SESSION`` times the size of its file; and, where maps are made again, those of a chunk of pairs in float64, of
    each of the ``explainers``, controls among them.
    """
    network = SESSION * sum(_size(storage.join(options.bundle, name)) for name in bundle.similarity.files)
    networks = (1 + stages) * network
    height, width = bundle.resize.size
    maps = explainers * CHUNK * height * width * 8 if options.maps == "full" else 0
    total = image + networks + maps
    if total > options.memory_limit:
        parts = [
            f"{memory.megabytes(image)} for explaining an image",
            f"{memory.megabytes(networks)} for the network" + (f" and {stages} randomised copies" if stages else ""),
            *([f"{memory.megabytes(maps)} for maps at the frame's size"] if maps else ()),
        ]
        fewer = ["fewer --stages"] * bool(stages) + ["--maps stored"] * bool(maps) + ["fewer methods or --max-pixels"]
        raise UsageError(
            f"this evaluation needs about {memory.megabytes(total)} a worker, more than --memory-limit "
            f"{memory.megabytes(options.memory_limit)}: {', '.join(parts)}. "
            f"Take {', '.join(fewer)}, or raise the limit."
        )
    return total


def _size(address: str) -> int:
    with storage.open_file(address) as stream:
        return stream.seek(0, io.SEEK_END)
