"""All that there is to say of one image: its rows and failures, chunk by chunk, and its null statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice

from transforms import tables
from transforms.core.errors import PairError
from transforms.core.memory import CHUNK
from transforms.core.records import Failure, Side
from transforms.core.statistics.nulls import NullReferences
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.image_regions import ImageRegions
from transforms.explaining.null_statistics import NullStatistic
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.inputs.region_files import RegionReader
from transforms.serving.load_image import Load
from transforms.serving.models import Models


@dataclass(frozen=True, eq=False)
class ExplainedChunk:
    """The rows and failures of ``targets`` targets of an image: one of each explainer for every target, or fewer where
    a failure stands for all of them."""

    outcomes: tuple[tables.Row | Failure, ...]
    targets: int


@dataclass(frozen=True)
class ExplainedImageSummary:
    """What an image took: ``passes`` of the network, and the statistics of its shuffled pairs."""

    sha256: str
    passes: int
    null_statistics: tuple[NullStatistic, ...]


@dataclass(frozen=True, eq=False)
class ImageExplainer:
    """Explains one image after the other, with networks that are open.

    ``nulls`` are random references of each side; ``regions`` reads what a catalogue knows of photographs; the context
    of ``timer`` is that of the passes of an image.
    """

    settings: ExplanationSettings
    models: Models
    load: Load
    nulls: Mapping[Side, NullReferences] = field(default_factory=dict)
    regions: RegionReader | None = None
    timer: Callable[[], AbstractContextManager[None]] = nullcontext

    def explain(self, address: str, matched: Iterable[Matched]) -> Iterator[ExplainedChunk | ExplainedImageSummary]:
        """Explains the image at ``address`` against all of ``matched``, whose order changes no row.

        Chunks come as they are done, a summary after the last; an image that cannot be read or embedded has failures
        and no summary. ``matched`` is gone through once, unless an explainer stops where its maps for all converge.
        """
        items = iter(matched)
        try:
            image = self.load(address)
            everything: list[Matched] = []
            if any(explainer.converges for explainer in self.settings.explainers):
                items = iter(everything := list(items))
            with self.timer():
                prepared = PreparedImage.of(image, self.settings, self.models, self.load, everything, self.nulls)
                _ = prepared.session.explained
        except PairError as error:
            for target, _ in items:
                yield ExplainedChunk((self.settings.failure(target, error),), 1)
            return
        compared: set[tuple[str | None, Side]] = set()
        regions = ImageRegions(self.regions, image.frame)
        while chunk := list(islice(items, CHUNK)):
            compared.update((target.pair.condition, target.side) for target, _ in chunk)
            yield ExplainedChunk(tuple(explanation_rows(prepared, chunk, regions)), len(chunk))
        statistics = tuple(prepared.null_statistics(sorted(compared, key=str)))
        yield ExplainedImageSummary(image.sha256, prepared.passes, statistics)
