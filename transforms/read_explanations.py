"""The explanations of a run, read back from its tables to be measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms import runs
from transforms.core.sampling import kept
from transforms.core.types import Float32, Pair
from transforms.explain_image import Task

_TEXTS = ("pair_id", "query_id", "reference_id", "query", "reference", "condition", "stratum", "weight")
_COLUMNS = (*_TEXTS, "side", "method", "explainer_id", "similarity", "input_height", "input_width", "map")
_SIZES = ("map_height", "map_width")
_MAY_LACK = ("map", "map_height", "map_width", "similarity")


@dataclass(frozen=True, slots=True)
class Explained:
    """A row of the table explanations: whose map it is, and what the audit found.

    ``map`` is float32 [h, w], None where the row has none of finite numbers; ``similarity`` is the audited one;
    ``frame`` (H, W) is the model's. ``top`` names the attributes that were kept, best first, None of a run without.
    ``regions`` is the address of the label image of the explained product, where the catalogue has one. ``audited`` are
    the sha256 of the explained and of the other image in the audit, None where its table images does not say.
    """

    task: Task
    method: str
    explainer_id: str
    similarity: float | None
    frame: tuple[int, int]
    map: Float32 | None = field(repr=False)
    top: tuple[str, ...] | None = None
    regions: str | None = None
    audited: tuple[str | None, str | None] = (None, None)


def read(address: str, methods: Collection[str], *, attributes: bool = False) -> Iterator[Explained]:
    """The explanations of ``methods`` in one file, with their attributes where ``attributes`` asks for them.

    The maps are a few kilobytes each; a file is read some hundred rows at a time. UsageError where it is damaged.
    """
    columns = (*_COLUMNS, *_SIZES, *(("top",) if attributes else ()))
    for batch in runs.read_batches(address, "explanations", columns, _MAY_LACK):
        names = [name for name in columns if name != "map"]
        rows = batch.select(names).to_pylist()
        for cells, row in zip(batch.column("map"), rows, strict=True):
            if row["method"] in methods:
                yield _explained(cells, row)


def _explained(cells: pa.ListScalar, row: dict[str, Any]) -> Explained:
    pair = Pair(**{name: row[name] for name in _TEXTS})
    top = row.get("top")
    return Explained(
        Task(pair, "reference" if row["side"] == "reference" else "query"),
        row["method"],
        row["explainer_id"],
        row["similarity"],
        (row["input_height"], row["input_width"]),
        runs.saliency_map(cells, row["map_height"], row["map_width"]),
        None if top is None else tuple(ranked["name"] for ranked in top),
    )


@dataclass(eq=False)
class ReadExplanations(beam.PTransform):  # type: ignore[misc]
    """Reads the explanations of ``methods`` in ``files``, of whole queries: those that a hash of their id draws.

    Outputs: ``explained`` (:class:`Explained`) and ``counts`` (``("explanations_read", n)`` and
    ``("explanations_not_sampled", n)``).
    """

    files: tuple[str, ...]
    methods: tuple[str, ...]
    rate: float
    seed: int
    attributes: bool

    def expand(self, root: Any) -> Any:
        return (
            root
            | "Files" >> beam.Create(list(self.files))
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadExplained" >> beam.FlatMap(self._read).with_outputs("counts", main="explained")
        )

    def _read(self, file: str) -> Iterator[Any]:
        count = left_out = 0
        for explained in read(file, self.methods, attributes=self.attributes):
            count += 1
            if kept(explained.task.pair.query_id, self.rate, self.seed):
                yield explained
            else:
                left_out += 1
        yield pvalue.TaggedOutput("counts", ("explanations_read", count))
        yield pvalue.TaggedOutput("counts", ("explanations_not_sampled", left_out))


@dataclass(eq=False)
class JoinImages(beam.PTransform):  # type: ignore[misc]
    """:class:`Explained` with the sha256 of both images, from the ``files`` of the run's table images."""

    files: tuple[str, ...]

    def expand(self, explained: Any) -> Any:
        files = explained.pipeline | "ImageFiles" >> beam.Create(list(self.files), reshuffle=False)
        images = files | "Images" >> beam.FlatMap(_images)
        for name, address, place in (("explained", _explained_address, 0), ("other", _other_address, 1)):
            keyed = explained | f"By {name}" >> beam.Map(lambda one, address=address: (address(one), one))
            explained = (
                {"explained": keyed, "images": images}
                | f"Join {name}" >> beam.CoGroupByKey()
                | f"Audited {name}" >> beam.FlatMap(_audited, place)
            )
        return explained


def _images(file: str) -> Iterator[tuple[str, str]]:
    for batch in runs.read_batches(file, "images", ("address", "image_sha256")):
        yield from zip(batch.column("address").to_pylist(), batch.column("image_sha256").to_pylist(), strict=True)


def _explained_address(explained: Explained) -> str:
    return explained.task.explained


def _other_address(explained: Explained) -> str:
    return explained.task.other


def _audited(group: tuple[str, dict[str, Iterable[Any]]], place: int) -> Iterator[Explained]:
    digests = list(islice(group[1]["images"], 2))
    digest = digests[0] if len(digests) == 1 else None
    for one in group[1]["explained"]:
        yield replace(one, audited=(digest, one.audited[1]) if place == 0 else (one.audited[0], digest))
