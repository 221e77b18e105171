"""One pair's explanation, for whoever looks at it: numbers, the map on the photograph, and a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import PIL.Image

from pipeline.notebook.photographs import Photographs
from pipeline.results.pictures.overlay import PhotographReader, cell_of, frame_of_row
from pipeline.results.pictures.sheet import Cell, draw
from transforms.core.errors import UsageError
from transforms.core.imaging.images import restore
from transforms.core.records import Float32

_UNJUDGED = "cannot be judged: give random_references (16 at least) and the thresholds of an audit"


@dataclass(frozen=True)
class NamedAttribute:
    """An attribute of the ranking: SANE's score e_a, and the parts that it is made of.

    ``confidence`` in [0, 1] is the attribute network's for the explained image, ``match`` in [-1, 1] the cosine of the
    attribute's activation map and the saliency map; ``prior`` is None for a bundle without priors.
    """

    name: str
    score: float
    confidence: float
    match: float
    prior: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether the explanation stands out from what the image gets by chance; None where that cannot be judged.

    ``reason`` is why it does not: of the closed set of ``transforms.core.statistics.verdict``.
    """

    explained: bool | None
    reason: str | None = None

    def __str__(self) -> str:
        if self.explained is None:
            return _UNJUDGED
        return "explained" if self.explained else f"not explained: {str(self.reason).replace('_', ' ')}"


@dataclass(frozen=True, eq=False)
class Pictured:
    """The two photographs of a pair: where they lie, and the sha256 of what was explained, so that no map is drawn over
    another photograph."""

    query: str = field(repr=False)
    reference: str = field(repr=False)
    query_sha256: str
    reference_sha256: str
    photographs: Photographs = field(repr=False)

    def cell(self, row: Mapping[str, Any]) -> Cell:
        """The pair of ``row`` as a cell of the sheet; a photograph that has changed since is a grey tile."""
        places = {name: getattr(self, name) for name in ("query", "reference", "query_sha256", "reference_sha256")}
        reader = PhotographReader(self.photographs.read, self.photographs.limits)
        return cell_of({**row, **places}, reader)


@dataclass(frozen=True, eq=False)
class PairExplanation:
    """Why one pair matches. ``row`` is the row of the table explanations that an audit would write.

    Attributes:
      query, reference: the images' names: addresses without credentials, or what stands for an image in memory.
      side: which of them was explained, "query" or "reference".
      method: of the saliency map.
      similarity: as the bundle's similarity function has it.
      map: saliency float32 [h, w] over the model's frame; higher: the place raises the similarity.
      attributes: those that explain the match best, best first; empty for a bundle without attributes.
      verdict: whether all this stands out from chance.
    """

    query: str
    reference: str
    side: str
    method: str
    similarity: float
    map: Float32 = field(repr=False)
    attributes: tuple[NamedAttribute, ...]
    verdict: Verdict
    row: Mapping[str, Any] = field(repr=False)
    pictured: Pictured = field(repr=False)

    @classmethod
    def of(cls, row: Mapping[str, Any], pictured: Pictured) -> PairExplanation:
        """The explanation that ``row`` of the table explanations holds; ``pictured`` shows its images."""
        names = ("name", "score", "confidence", "match", "prior")
        return cls(
            query=row["query"],
            reference=row["reference"],
            side=row["side"],
            method=row["method"],
            similarity=row["similarity"],
            map=np.asarray(row["map"], np.float32).reshape(row["map_height"], row["map_width"]),
            attributes=tuple(NamedAttribute(*(one[name] for name in names)) for one in row["top"] or ()),
            verdict=Verdict(row.get("explained"), row.get("unexplained_reason")),
            row=row,
            pictured=pictured,
        )

    @property
    def map_on_photograph(self) -> Float32:
        """The map in the explained photograph's own pixels: float32 [H0, W0], NaN where the model saw nothing."""
        return restore(self.map, frame_of_row(self.row))

    def plot(self) -> PIL.Image.Image:
        """Query, evidence and reference side by side, with what is known of the pair below."""
        return plot([self])

    def _repr_png_(self) -> bytes:
        return _png(self.plot())


@dataclass(frozen=True)
class PairFailure:
    """A pair that could not be explained, and why: ``reason`` is of the closed set of ``transforms.core.errors``.

    ``query`` and ``reference`` are addresses without credentials, or what stands for an image in memory.
    """

    query: str
    reference: str
    side: str | None
    reason: str
    message: str


class Explanations(Sequence[PairExplanation]):
    """The explanations of a query's pairs, in the order of the references; ``failures`` are the pairs without one."""

    def __init__(self, explained: Sequence[PairExplanation], failures: Sequence[PairFailure] = ()) -> None:
        self._explained, self.failures = tuple(explained), tuple(failures)

    def __len__(self) -> int:
        return len(self._explained)

    @overload
    def __getitem__(self, at: int) -> PairExplanation: ...

    @overload
    def __getitem__(self, at: slice) -> Explanations: ...

    def __getitem__(self, at: int | slice) -> PairExplanation | Explanations:
        return Explanations(self._explained[at]) if isinstance(at, slice) else self._explained[at]

    def __iter__(self) -> Iterator[PairExplanation]:
        return iter(self._explained)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<{len(self)} explanations{failed}>"

    def plot(self) -> PIL.Image.Image:
        """All pairs on one sheet, two a row."""
        return plot(self._explained)

    def _repr_png_(self) -> bytes | None:
        return _png(self.plot()) if self._explained else None


def plot(explained: Sequence[PairExplanation]) -> PIL.Image.Image:
    """The sheet of ``explained`` pairs, RGB, as ``whymatch show`` draws it; UsageError for none."""
    if not explained:
        raise UsageError("there is no explanation to draw")
    return draw([one.pictured.cell(one.row) for one in explained])


def _png(picture: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
