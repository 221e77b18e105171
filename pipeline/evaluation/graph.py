"""The evaluation's pipeline: the labelled chain, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.utils import shared

from pipeline.evaluation.options import EvaluateOptions
from transforms import tables
from transforms.beam.evaluate_attributes import CatalogueEmbedder, EmbedCatalogue
from transforms.beam.evaluate_queries import EvaluateQueries, Evaluator, JoinRegions
from transforms.beam.progress import Progress
from transforms.beam.read_explanations import JoinImages, ReadExplanations
from transforms.beam.write_tables import FinishRun, WriteTables
from transforms.core.errors import RunError
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.metrics.registry import RECOGNITION, REMOVAL, needing, requests
from transforms.core.records import Product
from transforms.evaluating.attributes import EmbeddedCatalogue, precision_rows, removal_rows
from transforms.evaluating.evaluate_image import BY_IMAGE
from transforms.evaluating.gallery import columns_of
from transforms.evaluating.measured_image import ImageReaders
from transforms.evaluating.settings import EvaluationSettings
from transforms.inputs import catalogue
from transforms.inputs.region_files import RegionReader
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Serving
from transforms.tables.explained import Explained


@dataclass(frozen=True)
class EvaluationPlan:
    """A validated evaluation: what the launcher found out before it builds the pipeline.

    ``files`` are the run's tables of explanations, ``image_files`` of images, ``methods`` those that are measured.
    ``type_column`` is the catalogue's, where the bundle's conditions join its values. ``expected`` is how many
    explanations are measured.
    """

    options: EvaluateOptions
    run_id: str
    bundle: Bundle
    serving: Serving
    settings: EvaluationSettings
    files: tuple[str, ...]
    methods: tuple[str, ...]
    versions: dict[str, str]
    regions: RegionReader | None = None
    type_column: str | None = None
    expected: int = 0
    image_files: tuple[str, ...] = ()
    progress: Progress = Progress()

    @property
    def by_image(self) -> bool:
        """Whether something is asked that is measured image by image."""
        return self.settings.asks(*requests(*BY_IMAGE))


def build(pipeline: Any, plan: EvaluationPlan) -> Any:
    """Adds the evaluation to ``pipeline`` and returns the PCollection that holds its row."""
    options, settings = plan.options, plan.settings
    load = ImageLoader(options.access(), options.limits(), plan.bundle.resize)
    handle = shared.Shared()
    asks_removal = settings.asks(*requests(REMOVAL))
    read = pipeline | "Explanations" >> ReadExplanations(
        plan.files, plan.methods, options.sample, options.sampling_seed, attributes=asks_removal
    )
    explained, rows, counts = read.explained, [], [read.counts]
    if plan.by_image and plan.image_files:
        explained = explained | "Audited" >> JoinImages(plan.image_files)
    products = None
    if options.catalogue and settings.asks(*needing("regions"), *needing("attributes")):
        named = pipeline | "Catalogue" >> beam.Create([options.catalogue])
        listed = named | "Products" >> beam.FlatMap(_products).with_outputs("counts", main="products")
        products = listed.products
        counts.append(listed.counts)
    if settings.asks(*needing("regions")):
        explained = (explained, products) | "Regions" >> JoinRegions()
    if plan.by_image:
        reading = ImageReaders(load, plan.regions)
        evaluator = Evaluator(plan.serving, settings, reading, handle, plan.progress)
        measured = explained | "Queries" >> EvaluateQueries(evaluator)
        rows.append(measured.rows)
        counts.append(measured.counts)
    if settings.asks(*needing("attributes")):
        shown = _shown(plan, products, load)
        counts.append(shown["counts"])
        rows += list(_of_catalogue(pipeline, plan, explained, beam.pvalue.AsSingleton(shown["catalogue"])))
    if not plan.by_image:
        images = (
            explained | "ImagesOf" >> beam.Map(lambda one: one.target.explained) | "DistinctImages" >> beam.Distinct()
        )
        counts.append(images | "CountImages" >> beam.Map(lambda _: ("images", 1)))
        counts.append(explained | "CountExplained" >> beam.Map(lambda _: ("explanations_measured", 1)))
    all_rows = rows | "AllRows" >> beam.Flatten()
    written = (
        all_rows
        | "MetricRows" >> beam.Map(lambda row: ("metrics", row))
        | "Tables" >> WriteTables(options.tables, plan.run_id, options.shards, ("metrics",), options.evaluation_id)
    )
    failed = (
        all_rows
        | "Failed" >> beam.Filter(lambda row: row["value"] is None)
        | "CountFailed" >> beam.Map(lambda _: ("measurements_failed", 1))
    )
    return (*counts, written, failed) | "Evaluation" >> FinishRun(
        options.tables, plan.run_id, evaluation_row(plan), "evaluations", options.evaluation_id
    )


def _shown(plan: EvaluationPlan, products: Any, load: ImageLoader) -> Any:
    """The products of the split that is asked for, shown to the networks."""
    split, columns = plan.options.split, {*columns_of(plan.bundle), plan.type_column}
    some = products | "OfSplit" >> beam.Filter(lambda product: split is None or product.split == split)
    bare = some | "Columns" >> beam.Map(lambda product: _within(product, columns))
    cataloguer = CatalogueEmbedder(plan.serving, plan.bundle, plan.type_column, load, shared.Shared(), plan.progress)
    batch = plan.options.batch or DEFAULT_BATCH["cpu"]
    return bare | "Show" >> EmbedCatalogue(cataloguer, batch)


def _of_catalogue(pipeline: Any, plan: EvaluationPlan, explained: Any, catalogue_view: Any) -> Iterator[Any]:
    """Rows of attribute removal, query by query, and of average precision."""
    evaluation_id, removal = plan.options.evaluation_id, plan.options.removal()

    def removed(group: tuple[str, Any], shown: EmbeddedCatalogue) -> Iterator[tables.Row]:
        yield from removal_rows(evaluation_id, shown, removal, sorted(group[1], key=_order))

    if plan.settings.asks(*requests(REMOVAL)):
        yield (
            explained
            | "ByQuery" >> beam.Map(lambda one: (one.target.pair.query_id, one))
            | "GroupQueries" >> beam.GroupByKey()
            | "Remove" >> beam.FlatMap(removed, shown=catalogue_view)
        )
    if plan.settings.asks(*requests(RECOGNITION)):
        yield (
            pipeline
            | "Once" >> beam.Create([None])
            | "Recognised" >> beam.FlatMap(lambda _, shown: precision_rows(evaluation_id, shown), shown=catalogue_view)
        )


def _order(explained: Explained) -> tuple[str, str, str]:
    return explained.target.pair.pair_id, explained.target.side, explained.method


def _within(product: Product, columns: set[str | None]) -> Product:
    """``product`` with what is asked of it alone: descriptions need not cross a shuffle."""
    return Product(
        product.id, product.image, tuple(pair for pair in product.attributes if pair[0] in columns), product.split
    )


def _products(address: str) -> Iterator[Any]:
    for item in catalogue.read(address):
        if isinstance(item, Product):
            yield item
        else:
            yield beam.pvalue.TaggedOutput("counts", ("products_left_out", 1))


def evaluation_row(plan: EvaluationPlan) -> Callable[[dict[str, int]], tables.Row]:
    """How the evaluation's counts become its row."""
    options = plan.options
    fixed: tables.Row = {
        "evaluation_id": options.evaluation_id,
        "started": datetime.now(UTC),
        "whymatch_version": plan.versions["whymatch"],
        "versions": json.dumps(plan.versions, sort_keys=True),
        "configuration": json.dumps(options.recorded(), sort_keys=True),
        "model_id": plan.bundle.model_id,
        "sampling_seed": options.sampling_seed,
        "sample_rate": options.sample,
    }

    def complete(counts: dict[str, int]) -> tables.Row:
        names = ("explanations_read", "explanations_measured", "explanations_not_sampled")
        read, measured, left_out = (counts.get(name, 0) for name in names)
        if read != measured + left_out:
            raise RunError(
                f"{read} explanations were read, {measured} measured and {left_out} not sampled: "
                f"{read - measured - left_out} are unaccounted for. Nothing of this evaluation counts; please report "
                "it."
            )
        return {
            **fixed,
            "finished": datetime.now(UTC),
            **dict(zip(names, (read, measured, left_out), strict=True)),
            "images": counts.get("images", 0),
            "products_left_out": counts.get("products_left_out", 0) if options.asks(*needing("attributes")) else None,
            "measurements": counts.get("rows:metrics", 0),
            "measurements_failed": counts.get("measurements_failed", 0),
            "forward_passes": counts.get("forward_passes", 0),
        }

    return complete
