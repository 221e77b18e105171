"""The explanations of a run, read back from its tables to be measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from transforms.beam.crossing import COUNTS, Count, Join
from transforms.beam.typed import (
    PCollection,
    Pipeline,
    Step,
    Tagged,
    create,
    flat_map,
    map_each,
    reshuffle,
    split,
)
from transforms.core.statistics.sampling import kept
from transforms.tables import runs
from transforms.tables.explained import Explained, read


class ExplanationsRead(NamedTuple):
    """``counts`` are of ``explanations_read`` and of ``explanations_not_sampled``."""

    explained: PCollection[Explained]
    counts: PCollection[Count]


@dataclass(frozen=True)
class ReadExplanations(Step[Pipeline, ExplanationsRead]):
    """Reads the explanations of ``methods`` in ``files``, of whole queries: those that a hash of their id draws."""

    files: tuple[str, ...]
    methods: tuple[str, ...]
    rate: float
    seed: int
    attributes: bool

    def expand(self, root: Pipeline) -> ExplanationsRead:
        """File by file."""
        read = (
            root
            | "Files" >> create(str, self.files)
            | "SpreadFiles" >> reshuffle(str)
            | "ReadExplained" >> split(str, Explained, self._read, COUNTS)
        )
        return ExplanationsRead(read.main, read[COUNTS])

    def _read(self, file: str) -> Iterator[Explained | Tagged]:
        count = left_out = 0
        for explained in read(file, self.methods, attributes=self.attributes):
            count += 1
            if kept(explained.target.pair.query_id, self.rate, self.seed):
                yield explained
            else:
                left_out += 1
        yield COUNTS(("explanations_read", count))
        yield COUNTS(("explanations_not_sampled", left_out))


@dataclass(frozen=True)
class JoinImages(Step[PCollection[Explained], PCollection[Explained]]):
    """:class:`Explained` with the sha256 of both images, from the ``files`` of the run's table images."""

    files: tuple[str, ...]

    def expand(self, explained: PCollection[Explained]) -> PCollection[Explained]:
        """A join for each of the two images."""
        files = explained.pipeline | "ImageFiles" >> create(str, self.files, reshuffle=False)
        images = files | "Images" >> flat_map(str, tuple[str, str], _images)
        for name, image in (("explained", _EXPLAINED), ("other", _OTHER)):
            keyed = explained | f"By {name}" >> map_each(Explained, tuple[str, Explained], image.keyed)
            joined = (keyed, images) | f"Join {name}" >> Join(str, Explained, str)
            explained = joined | f"Audited {name}" >> flat_map(
                tuple[str, tuple[list[Explained], list[str]]], Explained, image.audited
            )
        return explained


def _images(file: str) -> Iterator[tuple[str, str]]:
    for batch in runs.read_batches(file, "images", ("address", "image_sha256")):
        yield from zip(batch.column("address").to_pylist(), batch.column("image_sha256").to_pylist(), strict=True)


@dataclass(frozen=True)
class _ImageOf:
    """One image of an explanation: the explained one, or the other."""

    explained: bool

    def keyed(self, one: Explained) -> tuple[str, Explained]:
        return one.target.explained if self.explained else one.target.counterpart, one

    def audited(self, group: tuple[str, tuple[list[Explained], list[str]]]) -> Iterator[Explained]:
        _, (explained, digests) = group
        digest = digests[0] if len(digests) == 1 else None
        for one in explained:
            yield replace(one, audited=(digest, one.audited[1]) if self.explained else (one.audited[0], digest))


_EXPLAINED, _OTHER = _ImageOf(True), _ImageOf(False)
