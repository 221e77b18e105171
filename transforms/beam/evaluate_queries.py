"""The evaluating step: all explanations of an image are measured together, as they were made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.utils import shared

from transforms.beam.progress import Progress
from transforms.beam.step_counters import StepCounters
from transforms.core.memory import CHUNK
from transforms.core.records import Product
from transforms.evaluating.evaluate_image import measure
from transforms.evaluating.measured_image import ImageReaders, Networks
from transforms.evaluating.remake_maps import PassCounter
from transforms.evaluating.settings import EvaluationSettings
from transforms.serving.models import Models, Serving
from transforms.tables.explained import Explained


@dataclass(frozen=True)
class Evaluator:
    """What the evaluating step needs on a worker; all of it can be pickled."""

    serving: Serving
    settings: EvaluationSettings
    reading: ImageReaders
    handle: shared.Shared
    progress: Progress = Progress()

    def open(self) -> Networks:
        """The networks of the bundle and of its randomised copies, which embed images and do nothing else."""
        serving = replace(self.serving, attributes=False)
        stages = (Models(replace(serving, bundle=stage.bundle)) for stage in self.settings.stages)
        return Networks(Models(serving), tuple(stages))


@dataclass(eq=False)
class EvaluateQueries(beam.PTransform):  # type: ignore[misc]
    """:class:`Explained` to ``rows`` of the table metrics, and ``counts``."""

    evaluator: Evaluator

    def expand(self, explained: Any) -> Any:
        return (
            explained
            | "ByImage" >> beam.Map(lambda one: (one.target.explained, one))
            | "GroupByImage" >> beam.GroupByKey()
            | "Measure" >> beam.ParDo(_Measure(self.evaluator)).with_outputs("counts", main="rows")
        )


class _Measure(beam.DoFn):  # type: ignore[misc]
    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._metrics = StepCounters("evaluate")

    def setup(self) -> None:
        with self._metrics.loading():
            self._networks: Networks = self._evaluator.handle.acquire(self._evaluator.open)

    def process(self, element: tuple[str, Iterable[Explained]]) -> Iterator[Any]:
        address, explained = element
        evaluator, passes, failed, count = self._evaluator, PassCounter(), 0, 0
        for chunk in _chunks(explained):
            count += len(chunk)
            for row in measure(address, chunk, self._networks, evaluator.settings, evaluator.reading, passes):
                failed += row["value"] is None
                yield row
            evaluator.progress.add("done", len(chunk))
            self._metrics.items(len(chunk))
        self._metrics.failures(failed)
        self._metrics.passes(passes.count)
        for name, number in (
            ("explanations_measured", count),
            ("forward_passes", passes.count),
            ("images", 1),
        ):
            yield pvalue.TaggedOutput("counts", (name, number))


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


@dataclass(eq=False)
class JoinRegions(beam.PTransform):  # type: ignore[misc]
    """Applied to a tuple of :class:`Explained` and products: every explanation with its product's label image."""

    def expand(self, inputs: tuple[Any, Any]) -> Any:
        explained, products = inputs
        keyed = explained | "ByProduct" >> beam.Map(lambda one: (product_id(one), one))
        known = products | "RegionsById" >> beam.Map(lambda product: (product.id, product))
        return (
            {"explained": keyed, "products": known}
            | "JoinRegions" >> beam.CoGroupByKey()
            | "WithRegions" >> beam.FlatMapTuple(_with_regions).with_output_types(Explained)
        )


def product_id(explained: Explained) -> str:
    """The id of the product whose image is explained."""
    pair = explained.target.pair
    return pair.query_id if explained.target.side == "query" else pair.reference_id


def _with_regions(_: str, joined: dict[str, Iterable[Any]]) -> Iterator[Explained]:
    # of several products with one id none is known to be the explained one
    products: list[Product] = list(islice(joined["products"], 2))
    regions = products[0].regions if len(products) == 1 else None
    for explained in joined["explained"]:
        yield replace(explained, regions=regions)
