"""The evaluation's pipeline: the labelled chain, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.evaluation.options import EvaluateOptions
from transforms import tables
from transforms.beam.crossing import COUNTS, Count
from transforms.beam.evaluate_attributes import CatalogueEmbedded, CatalogueEmbedder, EmbedCatalogue
from transforms.beam.evaluate_queries import EvaluateQueries, Evaluator, JoinRegions
from transforms.beam.progress import Progress
from transforms.beam.read_explanations import JoinImages, ReadExplanations
from transforms.beam.typed import (
    PCollection,
    Pipeline,
    Shared,
    SideInput,
    Tagged,
    create,
    distinct,
    filter_each,
    flat_map_with,
    flatten,
    group_by_key,
    map_each,
    singleton,
    split,
)
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
from transforms.tables.cells import TableRow
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


def build(pipeline: Pipeline, plan: EvaluationPlan) -> PCollection[str]:
    """Adds the evaluation to ``pipeline`` and returns the collection that holds the address of its row."""
    options, settings = plan.options, plan.settings
    load = ImageLoader(options.access(), options.limits(), plan.bundle.resize)
    read = pipeline | "Explanations" >> ReadExplanations(
        plan.files, plan.methods, options.sample, options.sampling_seed, attributes=settings.asks(*requests(REMOVAL))
    )
    explained, rows, counts = read.explained, list[PCollection[TableRow]](), [read.counts]
    if plan.by_image and plan.image_files:
        explained = explained | "Audited" >> JoinImages(plan.image_files)
    if options.catalogue and settings.asks(*needing("regions"), *needing("attributes")):
        named = pipeline | "Catalogue" >> create(str, [options.catalogue])
        products = named | "Products" >> split(str, Product, _products, COUNTS)
        counts.append(products[COUNTS])
        if settings.asks(*needing("regions")):
            explained = (explained, products.main) | "Regions" >> JoinRegions()
        if settings.asks(*needing("attributes")):
            shown = _shown(plan, products.main, load)
            counts.append(shown.counts)
            rows += _of_catalogue(pipeline, plan, explained, singleton(shown.catalogue))
    if plan.by_image:
        evaluator = Evaluator(plan.serving, settings, ImageReaders(load, plan.regions), Shared(), plan.progress)
        measured = explained | "Queries" >> EvaluateQueries(evaluator)
        rows.append(measured.rows)
        counts.append(measured.counts)
    else:
        counts += _counted(explained)
    all_rows = rows | "AllRows" >> flatten(TableRow)
    counts.append(
        all_rows
        | "Tables" >> WriteTables(options.tables, plan.run_id, options.shards, ("metrics",), options.evaluation_id)
    )
    counts.append(
        all_rows
        | "Failed" >> filter_each(TableRow, lambda one: one.row["value"] is None)
        | "CountFailed" >> map_each(TableRow, tuple[str, int], lambda _: ("measurements_failed", 1))
    )
    return tuple(counts) | "Evaluation" >> FinishRun(
        options.tables, plan.run_id, evaluation_row(plan), "evaluations", options.evaluation_id
    )


def _shown(plan: EvaluationPlan, products: PCollection[Product], load: ImageLoader) -> CatalogueEmbedded:
    """The products of the split that is asked for, shown to the networks."""
    split_, columns = plan.options.split, {*columns_of(plan.bundle), plan.type_column}
    some = products | "OfSplit" >> filter_each(Product, lambda product: split_ is None or product.split == split_)
    bare = some | "Columns" >> map_each(Product, Product, lambda product: _within(product, columns))
    embedder = CatalogueEmbedder(plan.serving, plan.bundle, plan.type_column, load, Shared(), plan.progress)
    return bare | "Show" >> EmbedCatalogue(embedder, plan.options.batch or DEFAULT_BATCH["cpu"])


def _of_catalogue(
    pipeline: Pipeline, plan: EvaluationPlan, explained: PCollection[Explained], shown: SideInput[EmbeddedCatalogue]
) -> Iterator[PCollection[TableRow]]:
    """Rows of attribute removal, query by query, and of average precision."""
    evaluation_id, removal = plan.options.evaluation_id, plan.options.removal()

    def removed(group: tuple[str, Iterable[Explained]], shown: EmbeddedCatalogue) -> Iterator[TableRow]:
        return _metrics(removal_rows(evaluation_id, shown, removal, sorted(group[1], key=_order)))

    def recognised(_: str, shown: EmbeddedCatalogue) -> Iterator[TableRow]:
        return _metrics(precision_rows(evaluation_id, shown))

    if plan.settings.asks(*requests(REMOVAL)):
        yield (
            explained
            | "ByQuery" >> map_each(Explained, tuple[str, Explained], lambda one: (one.target.pair.query_id, one))
            | "GroupQueries" >> group_by_key(str, Explained)
            | "Remove" >> flat_map_with(tuple[str, Iterable[Explained]], TableRow, removed, shown)
        )
    if plan.settings.asks(*requests(RECOGNITION)):
        once = pipeline | "Once" >> create(str, ["once"])
        yield once | "Recognised" >> flat_map_with(str, TableRow, recognised, shown)


def _counted(explained: PCollection[Explained]) -> Iterator[PCollection[Count]]:
    """The images and the explanations, where these are not measured image by image."""
    addresses = explained | "ImagesOf" >> map_each(Explained, str, lambda one: one.target.explained)
    images = addresses | "DistinctImages" >> distinct(str)
    yield images | "CountImages" >> map_each(str, tuple[str, int], lambda _: ("images", 1))
    yield explained | "CountExplained" >> map_each(Explained, tuple[str, int], lambda _: ("explanations_measured", 1))


def _metrics(rows: Iterable[tables.Row]) -> Iterator[TableRow]:
    return (TableRow("metrics", row) for row in rows)


def _order(explained: Explained) -> tuple[str, str, str]:
    return explained.target.pair.pair_id, explained.target.side, explained.method


def _within(product: Product, columns: set[str | None]) -> Product:
    """``product`` with what is asked of it alone: descriptions need not cross a shuffle."""
    return Product(
        product.id, product.image, tuple(pair for pair in product.attributes if pair[0] in columns), product.split
    )


def _products(address: str) -> Iterator[Product | Tagged]:
    for item in catalogue.read(address):
        if isinstance(item, Product):
            yield item
        else:
            yield COUNTS(("products_left_out", 1))


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
