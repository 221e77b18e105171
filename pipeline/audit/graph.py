"""The pipeline: the labelled chain, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.utils import shared

from pipeline.audit.options import AuditOptions
from pipeline.options.declaration import redacted
from transforms import tables
from transforms.beam.embed_images import EmbedImages
from transforms.beam.explain_queries import DrawReferences, ExplainQueries, Worker
from transforms.beam.judge_explanations import JudgeExplanations
from transforms.beam.progress import Progress
from transforms.beam.read_pairs import ReadPairs
from transforms.beam.resolve_products import ResolveProducts
from transforms.beam.write_tables import FinishRun, WriteTables
from transforms.core.errors import RunError
from transforms.core.records import EmbeddedImage, Product
from transforms.core.statistics.sampling import SamplingDesign
from transforms.explaining.settings import ExplanationSettings
from transforms.inputs import catalogue
from transforms.inputs.random_references import Drawn
from transforms.inputs.region_files import RegionReader
from transforms.inputs.strata import Strata
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Serving


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


def build(pipeline: Any, plan: Plan) -> Any:
    """Adds the audit to ``pipeline`` and returns the PCollection that holds the run's row."""
    options = plan.options
    handle = shared.Shared()
    load = ImageLoader(options.access(plan.files), options.limits(), plan.bundle.resize)
    explaining = ExplanationSettings(options.explainers(), options.sides(), options.top, options.map_size)
    masked = options.masked()

    read = pipeline | "Pairs" >> ReadPairs(
        plan.files, options.columns, options.keep, tuple(plan.bundle.conditions), plan.design, plan.strata
    )
    pairs, failures, rows = read["pairs"], [read["failures"]], []
    if options.catalogue:
        columns = frozenset(name.partition("=")[0] for name in plan.bundle.vocabulary)
        products = pipeline | "Catalogue" >> beam.Create([options.catalogue]) | "Products" >> beam.FlatMap(_products)
        rows.append(products | "ProductRows" >> beam.Map(lambda product: ("products", tables.product_row(product))))
        for side in ("query", "reference"):
            resolved = (pairs, products) | f"Resolve {side}" >> ResolveProducts(
                side, columns, plan.regions is not None and side in options.sides()
            )
            pairs = resolved.pairs
            failures.append(resolved.failures)
    rows.append(pipeline | "Strata" >> beam.Create([("strata", row) for row in tables.strata_rows(plan.design)]))

    images = pairs | "Images" >> EmbedImages(plan.serving, load, handle, plan.progress, masked, explaining.sides)
    worker = Worker(plan.serving, explaining, load, handle, plan.progress, plan.regions)
    random = pipeline | "RandomReferences" >> DrawReferences(worker, plan.random_references)
    explained = (pairs, images) | "Queries" >> ExplainQueries(worker, beam.pvalue.AsSingleton(random.drawn))
    judged = (explained["rows"], explained["null_statistics"]) | "Judge" >> JudgeExplanations(options.false_alarm_rate)
    failures.append(explained["failures"])
    all_failures = failures | "AllFailures" >> beam.Flatten()
    counts = [
        read["counts"],
        random.counts,
        explained["counts"],
        all_failures | "CountFailures" >> CountFailures(explaining),
    ]
    if masked:
        passes = images | "MaskedPasses" >> beam.FlatMap(lambda outcome: _masked_passes(outcome[1], masked.masks))
        counts.append(passes)

    rows += [
        images | "ImageRows" >> beam.FlatMap(lambda outcome: _image_rows(outcome[1], options.store_embeddings)),
        judged["rows"] | "ExplanationRows" >> beam.Map(lambda row: ("explanations", row)),
        all_failures | "FailureRows" >> beam.Map(lambda failure: ("failures", tables.failure_row(failure))),
    ]
    written = (
        rows
        | "AllRows" >> beam.Flatten()
        | "Tables" >> WriteTables(options.out, options.run_id, options.shards, _present(options))
    )
    found = judged["thresholds"] | "Found" >> beam.Map(lambda thresholds: {"thresholds": thresholds})
    return (*counts, written) | "Run" >> FinishRun(
        options.out, options.run_id, run_row(plan), found=beam.pvalue.AsSingleton(found)
    )


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
        read, explanations = counts.get("rows_read", 0), counts.get("rows:explanations", 0)
        missing, failed = counts.get("missing", 0), counts.get("pairs_failed", 0)
        not_sampled = counts.get("pairs_not_sampled", 0)
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
        return {
            **fixed,
            "finished": datetime.now(UTC),
            "rows_read": read,
            "pairs_explained": read - not_sampled - failed,
            "pairs_failed": failed,
            "pairs_not_sampled": not_sampled,
            "explanations": explanations,
            "queries": counts.get("queries", 0),
            "images": counts.get("rows:images", 0),
            "random_references": counts.get("random_references", 0),
            "forward_passes": counts.get("forward_passes", 0) + counts.get("rows:images", 0),
        }

    return complete


@dataclass(eq=False)
class CountFailures(beam.PTransform):  # type: ignore[misc]
    """Failures to the number of explanations that are ``missing`` and of ``pairs_failed``, in whole or in part."""

    explaining: ExplanationSettings

    def expand(self, failures: Any) -> Any:
        explaining = self.explaining
        missing = failures | "Missing" >> beam.Map(lambda failure: ("missing", explaining.stands_for(failure)))
        whole = failures | "Whole" >> beam.Filter(lambda failure: failure.method is None and failure.side is None)
        part = (
            failures
            | "Part" >> beam.Filter(lambda failure: failure.method is not None or failure.side is not None)
            | "PairsOfParts" >> beam.Map(lambda failure: failure.pair_id)
            | "DistinctPairs" >> beam.Distinct()
        )
        pairs = (whole, part) | "FailedPairs" >> beam.Flatten() | "Pair" >> beam.Map(lambda _: ("pairs_failed", 1))
        return (missing, pairs) | "FailureCounts" >> beam.Flatten()


def _masked_passes(outcome: Any, masks: int) -> Iterator[tuple[str, int]]:
    if isinstance(outcome, EmbeddedImage) and outcome.perturbed is not None:
        yield "forward_passes", masks


def _products(address: str) -> Iterator[Product]:
    """The products of a catalogue. A row that is none was said before the run; its pairs fail as unknown_product."""
    for item in catalogue.read(address):
        if isinstance(item, Product):
            yield item


def _image_rows(outcome: Any, store_embeddings: bool) -> Iterator[tuple[str, tables.Row]]:
    if isinstance(outcome, EmbeddedImage):
        yield "images", tables.image_row(outcome, store_embeddings)


def _present(options: AuditOptions) -> tuple[str, ...]:
    present = ("strata", "explanations", "failures", "images")
    return (*present, "products") if options.catalogue else present
