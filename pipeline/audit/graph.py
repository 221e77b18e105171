"""The pipeline: the labelled chain, nothing else."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipeline.audit.options import AuditOptions
from pipeline.options.declaration import redacted
from transforms import tables
from transforms.beam.crossing import Count, EmbeddingOutcome
from transforms.beam.embed_images import EmbedImages
from transforms.beam.explain_queries import DrawReferences, ExplainQueries, Worker
from transforms.beam.judge_explanations import JudgeExplanations
from transforms.beam.progress import Progress
from transforms.beam.read_pairs import ReadPairs
from transforms.beam.resolve_products import ResolveProducts
from transforms.beam.typed import (
    PCollection,
    Pipeline,
    Shared,
    Step,
    create,
    distinct,
    filter_each,
    flat_map,
    flatten,
    map_each,
    singleton,
)
from transforms.beam.write_tables import FinishRun, WriteTables
from transforms.core.attributes.names import column_of
from transforms.core.errors import RunError
from transforms.core.records import EmbeddedImage, Failure, Pair, Product, Side
from transforms.core.statistics.sampling import SamplingDesign
from transforms.explaining.settings import ExplanationSettings
from transforms.inputs import catalogue
from transforms.inputs.random_references import Drawn
from transforms.inputs.region_files import RegionReader
from transforms.inputs.strata import Strata
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Serving
from transforms.tables.cells import TableRow


@dataclass(frozen=True)
class Plan:
    """A validated run: what the launcher found out before it builds the pipeline.

    ``rows`` is how many rows the manifest has, ``sampled_rows`` how many of these are taken, ``design`` which of its
    queries are explained, and ``strata`` how a row knows its stratum. ``random_references`` are addresses of what nulls
    are made of.
    """

    options: AuditOptions
    bundle: Bundle
    serving: Serving
    files: tuple[str, ...]
    versions: dict[str, str]
    rows: int
    sampled_rows: int
    design: SamplingDesign
    strata: Strata
    regions: RegionReader | None = None
    random_references: Drawn = field(default_factory=dict)
    progress: Progress = Progress()


def build(pipeline: Pipeline, plan: Plan) -> PCollection[str]:
    """Adds the audit to ``pipeline`` and returns the collection that holds the address of the run's row."""
    options = plan.options
    handle = Shared()
    load = ImageLoader(options.access(plan.files), options.limits(), plan.bundle.resize)
    explaining = ExplanationSettings(options.explainers(), options.sides(), options.top, options.map_size)
    masked = options.masked()
    worker = Worker(plan.serving, explaining, load, handle, plan.progress, plan.regions)

    read = pipeline | "Pairs" >> ReadPairs(
        plan.files, options.columns, options.keep, tuple(plan.bundle.conditions), plan.design, plan.strata
    )
    resolved = _resolved(pipeline, plan, read.pairs)
    images = resolved.pairs | "Images" >> EmbedImages(
        plan.serving, load, handle, plan.progress, masked, explaining.sides
    )
    random = pipeline | "RandomReferences" >> DrawReferences(worker, plan.random_references)
    explained = (resolved.pairs, images) | "Queries" >> ExplainQueries(worker, singleton(random.drawn))
    judged = (explained.rows, explained.null_statistics) | "Judge" >> JudgeExplanations(options.false_alarm_rate)
    failures = [read.failures, *resolved.failures, explained.failures] | "AllFailures" >> flatten(Failure)

    written = (
        [*resolved.rows, *_rows(pipeline, plan, images, failures), judged.rows]
        | "AllRows" >> flatten(TableRow)
        | "Tables" >> WriteTables(options.out, options.run_id, options.shards, _present(options))
    )
    counts = [
        read.counts,
        random.counts,
        explained.counts,
        failures | "CountFailures" >> CountFailures(explaining),
        written,
    ]
    if masked:
        masks = masked.masks
        counts.append(
            images
            | "MaskedPasses" >> flat_map(EmbeddingOutcome, tuple[str, int], lambda one: _masked_passes(one, masks))
        )
    found = judged.thresholds | "Found" >> map_each(
        list[dict[str, Any]], dict[str, Any], lambda thresholds: {"thresholds": thresholds}
    )
    return tuple(counts) | "Run" >> FinishRun(options.out, options.run_id, run_row(plan), found=singleton(found))


def _rows(
    pipeline: Pipeline, plan: Plan, images: PCollection[EmbeddingOutcome], failures: PCollection[Failure]
) -> Iterator[PCollection[TableRow]]:
    """The rows of the tables strata, images and failures."""
    store = plan.options.store_embeddings
    strata = [TableRow("strata", row) for row in tables.strata_rows(plan.design)]
    yield pipeline | "Strata" >> create(TableRow, strata)
    yield images | "ImageRows" >> flat_map(EmbeddingOutcome, TableRow, lambda one: _image_rows(one, store))
    yield failures | "FailureRows" >> map_each(
        Failure, TableRow, lambda failure: TableRow("failures", tables.failure_row(failure))
    )


class _Resolved(NamedTuple):
    """The pairs with their addresses, those of them that have none, and the rows of the catalogue that says so."""

    pairs: PCollection[Pair]
    failures: list[PCollection[Failure]]
    rows: list[PCollection[TableRow]]


def _resolved(pipeline: Pipeline, plan: Plan, pairs: PCollection[Pair]) -> _Resolved:
    """``pairs``, joined to the catalogue where there is one, first by their queries, then by their references."""
    options, failures = plan.options, []
    if not options.catalogue:
        return _Resolved(pairs, [], [])
    columns = frozenset(map(column_of, plan.bundle.vocabulary))
    named = pipeline | "Catalogue" >> create(str, [options.catalogue])
    products = named | "Products" >> flat_map(str, Product, _products)
    rows = products | "ProductRows" >> map_each(
        Product, TableRow, lambda product: TableRow("products", tables.product_row(product))
    )
    sides: tuple[Side, ...] = ("query", "reference")
    for side in sides:
        regions = plan.regions is not None and side in options.sides()
        resolved = (pairs, products) | f"Resolve {side}" >> ResolveProducts(side, columns, regions)
        pairs = resolved.pairs
        failures.append(resolved.failures)
    return _Resolved(pairs, failures, [rows])


def run_row(plan: Plan) -> Callable[[dict[str, int]], tables.Row]:
    """How the run's counts become its row."""
    options, bundle = plan.options, plan.bundle
    fixed: tables.Row = {
        "started": datetime.now(UTC),
        "period": redacted(options.period),
        "whymatch_version": plan.versions["whymatch"],
        "versions": json.dumps(plan.versions, sort_keys=True),
        "configuration": json.dumps(options.recorded(), sort_keys=True),
        "model_id": bundle.model_id,
        "attribute_model_id": bundle.attribute_model_id,
        "vocabulary_id": bundle.vocabulary_id,
        "ranking_id": bundle.ranking_id,
        "ranking": json.dumps(bundle.ranking_record(), sort_keys=True) if bundle.attributes is not None else None,
        "explainer_ids": [explainer.id for explainer in options.explainers()],
        "sampling_seed": plan.design.seed,
        "sampling_design": redacted(options.sampling_design()),
        "stratified_by": redacted(options.stratify),
    }

    asked = len(options.explainers()) * len(options.sides())

    def complete(counts: dict[str, int]) -> tables.Row:
        _reconcile(plan, counts, asked)
        number = defaultdict(int, counts)
        return {
            **fixed,
            "finished": datetime.now(UTC),
            "rows_read": number["rows_read"],
            "pairs_explained": number["rows_read"] - number["pairs_not_sampled"] - number["pairs_failed"],
            "pairs_failed": number["pairs_failed"],
            "pairs_not_sampled": number["pairs_not_sampled"],
            "explanations": number["rows:explanations"],
            "queries": number["queries"],
            "images": number["rows:images"],
            "random_references": number["random_references"],
            "forward_passes": number["forward_passes"] + number["rows:images"],
        }

    return complete


def _reconcile(plan: Plan, counts: dict[str, int], asked: int) -> None:
    """RunError where rows of the manifest are unaccounted for, of each of which ``asked`` explanations were asked."""
    names = ("rows_read", "pairs_not_sampled", "rows:explanations", "missing")
    read, not_sampled, explanations, missing = (counts.get(name, 0) for name in names)
    wanted = (read - not_sampled) * asked
    if read != plan.rows or read - not_sampled != plan.sampled_rows:
        raise RunError(
            f"the manifest had {plan.rows:,} rows when the run was planned, {plan.sampled_rows:,} of them to be "
            f"explained; {read:,} were read and {read - not_sampled:,} taken. It changed meanwhile, so that nobody "
            "knows what the sample stands for. Nothing of this run counts; audit again."
        )
    if wanted != explanations + missing:
        raise RunError(
            f"{read} manifest rows were read and {not_sampled} not sampled, so {wanted} explanations were asked; "
            f"{explanations} were made and {missing} failed: {wanted - explanations - missing} are unaccounted "
            "for. Nothing of this run counts; please report it."
        )


@dataclass(frozen=True)
class CountFailures(Step[PCollection[Failure], PCollection[Count]]):
    """Failures to the number of explanations that are ``missing`` and of ``pairs_failed``, in whole or in part."""

    explaining: ExplanationSettings

    def expand(self, failures: PCollection[Failure]) -> PCollection[Count]:
        """A pair of which several parts failed counts once."""
        missing = failures | "Missing" >> map_each(
            Failure, tuple[str, int], lambda failure: ("missing", self.explaining.stands_for(failure))
        )
        whole = (
            failures
            | "Whole" >> filter_each(Failure, lambda failure: not _in_part(failure))
            | "WholePairs" >> map_each(Failure, str, lambda failure: failure.pair_id or "")
        )
        part = (
            failures
            | "Part" >> filter_each(Failure, _in_part)
            | "PairsOfParts" >> map_each(Failure, str, lambda failure: failure.pair_id or "")
            | "DistinctPairs" >> distinct(str)
        )
        pairs = (
            [whole, part]
            | "FailedPairs" >> flatten(str)
            | "Pair" >> map_each(str, tuple[str, int], lambda _: ("pairs_failed", 1))
        )
        return [missing, pairs] | "FailureCounts" >> flatten(tuple[str, int])


def _in_part(failure: Failure) -> bool:
    return failure.method is not None or failure.side is not None


def _masked_passes(one: EmbeddingOutcome, masks: int) -> Iterator[Count]:
    if isinstance(one.outcome, EmbeddedImage) and one.outcome.perturbed is not None:
        yield "forward_passes", masks


def _products(address: str) -> Iterator[Product]:
    """The products of a catalogue. A row that is none was said before the run; its pairs fail as unknown_product."""
    for item in catalogue.read(address):
        if isinstance(item, Product):
            yield item


def _image_rows(one: EmbeddingOutcome, store_embeddings: bool) -> Iterator[TableRow]:
    if isinstance(one.outcome, EmbeddedImage):
        yield TableRow("images", tables.image_row(one.outcome, store_embeddings))


def _present(options: AuditOptions) -> tuple[str, ...]:
    present = ("strata", "explanations", "failures", "images")
    return (*present, "products") if options.catalogue else present
