"""The explanations of a run, read back from its tables to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.core.statistics.sampling import kept
from transforms.tables import runs
from transforms.tables.explained import Explained, read


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
            if kept(explained.target.pair.query_id, self.rate, self.seed):
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
    return explained.target.explained


def _other_address(explained: Explained) -> str:
    return explained.target.counterpart


def _audited(group: tuple[str, dict[str, Iterable[Any]]], place: int) -> Iterator[Explained]:
    digests = list(islice(group[1]["images"], 2))
    digest = digests[0] if len(digests) == 1 else None
    for one in group[1]["explained"]:
        yield replace(one, audited=(digest, one.audited[1]) if place == 0 else (one.audited[0], digest))
