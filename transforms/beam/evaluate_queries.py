"""The evaluating step: all explanations of an image are measured together, as they were made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import NamedTuple

from transforms.beam.crossing import COUNTS, Count, Join
from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.beam.typed import (
    DoFn,
    PCollection,
    Shared,
    Step,
    Tagged,
    flat_map,
    group_by_key,
    map_each,
    par_do,
)
from transforms.core.memory import CHUNK
from transforms.core.records import Product
from transforms.evaluating.evaluate_image import measure
from transforms.evaluating.measured_image import ImageReaders, Networks
from transforms.evaluating.remake_maps import PassCounter
from transforms.evaluating.settings import EvaluationSettings
from transforms.serving.models import Models, Serving
from transforms.tables.cells import TableRow
from transforms.tables.explained import Explained


@dataclass(frozen=True)
class Evaluator:
    """What the evaluating step needs on a worker; all of it can be pickled."""

    serving: Serving
    settings: EvaluationSettings
    readers: ImageReaders
    handle: Shared
    progress: Progress = Progress()

    def open(self) -> Networks:
        """The networks of the bundle and of its randomised copies, which embed images and do nothing else."""
        serving = replace(self.serving, attributes=False)
        stages = (Models(replace(serving, bundle=stage.bundle)) for stage in self.settings.stages)
        return Networks(Models(serving), tuple(stages))


class MeasuredQueries(NamedTuple):
    """``rows`` of the table metrics; ``counts`` of explanations, forward passes and images."""

    rows: PCollection[TableRow]
    counts: PCollection[Count]


@dataclass(frozen=True)
class EvaluateQueries(Step[PCollection[Explained], MeasuredQueries]):
    """Explanations to their measures."""

    evaluator: Evaluator

    def expand(self, explained: PCollection[Explained]) -> MeasuredQueries:
        """All explanations of an image together."""
        measured = (
            explained
            | "ByImage" >> map_each(Explained, tuple[str, Explained], lambda one: (one.target.explained, one))
            | "GroupByImage" >> group_by_key(str, Explained)
            | "Measure" >> par_do(tuple[str, Iterable[Explained]], TableRow, _Measure(self.evaluator), COUNTS)
        )
        return MeasuredQueries(measured.main, measured[COUNTS])


class _Measure(DoFn[tuple[str, Iterable[Explained]]]):
    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._metrics = StepCounters("evaluate")

    def setup(self) -> None:
        with self._metrics.loading():
            self._networks = self._evaluator.handle.acquire(self._evaluator.open)

    def process(self, element: tuple[str, Iterable[Explained]]) -> Iterator[TableRow | Tagged]:
        address, explained = element
        evaluator, passes, failed, count = self._evaluator, PassCounter(), 0, 0
        for chunk in _chunks(explained):
            count += len(chunk)
            for row in measure(address, chunk, self._networks, evaluator.settings, evaluator.readers, passes):
                failed += row["value"] is None
                yield TableRow("metrics", row)
            evaluator.progress.add("done", len(chunk))
            self._metrics.items(len(chunk))
        self._metrics.failures(failed)
        self._metrics.passes(passes.count)
        for name, number in (
            ("explanations_measured", count),
            ("forward_passes", passes.count),
            ("images", 1),
        ):
            yield COUNTS((name, number))


def _chunks(explained: Iterable[Explained]) -> Iterator[list[Explained]]:
    """The explanations of ``CHUNK`` pairs at a time, all methods of a pair together: controls are measured once a pair.

    They are sorted, since which pair comes first must not depend on how the runner grouped them.
    """
    ordered = sorted(explained, key=lambda one: (*_pair(one), one.method))
    pairs = (list(methods) for _, methods in groupby(ordered, key=_pair))
    while chunk := [one for methods in islice(pairs, CHUNK) for one in methods]:
        yield chunk


def _pair(explained: Explained) -> tuple[str, str]:
    return explained.target.pair.pair_id, explained.target.side


@dataclass(frozen=True)
class JoinRegions(Step[tuple[PCollection[Explained], PCollection[Product]], PCollection[Explained]]):
    """Applied to a tuple of :class:`Explained` and products: every explanation with its product's label image."""

    def expand(self, inputs: tuple[PCollection[Explained], PCollection[Product]]) -> PCollection[Explained]:
        """Explanations and products by product id."""
        explained, products = inputs
        keyed = explained | "ByProduct" >> map_each(
            Explained, tuple[str, Explained], lambda one: (product_id(one), one)
        )
        known = products | "RegionsById" >> map_each(
            Product, tuple[str, Product], lambda product: (product.id, product)
        )
        return (
            (keyed, known)
            | "JoinRegions" >> Join(str, Explained, Product)
            | "WithRegions" >> flat_map(tuple[str, tuple[list[Explained], list[Product]]], Explained, _with_regions)
        )


def product_id(explained: Explained) -> str:
    """The id of the product whose image is explained."""
    pair = explained.target.pair
    return pair.query_id if explained.target.side == "query" else pair.reference_id


def _with_regions(group: tuple[str, tuple[list[Explained], list[Product]]]) -> Iterator[Explained]:
    _, (explained, products) = group
    # of several products with one id none is known to be the explained one
    regions = products[0].regions if len(products) == 1 else None
    for one in explained:
        yield replace(one, regions=regions)
