"""The records that flow through whymatch as rows of its tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transforms import storage
from transforms.core.attributes.names import column_of
from transforms.core.explanation import Explanation
from transforms.core.records import EmbeddedImage, Failure, Float32, Frame, LoadFailure, Pair, Product, Side
from transforms.core.saliency.explainer import Explainer
from transforms.core.statistics.sampling import SamplingDesign
from transforms.core.statistics.verdict import Reason
from transforms.core.target import ExplanationTarget
from transforms.inputs.rows import public
from transforms.serving.bundle import Bundle
from transforms.tables.schema import Row

EVIDENCE_ELSEWHERE: Reason = "evidence_elsewhere"


@dataclass(frozen=True)
class Provenance:
    """What made an explanation, beside its explainer.

    ``frame`` is the explained image's; ``passes`` are the forward passes that its map took, with ONNX Runtime's
    ``provider``.
    """

    bundle: Bundle
    frame: Frame
    passes: int
    provider: str


def explanation_row(
    target: ExplanationTarget,
    explanation: Explanation,
    explainer: Explainer,
    provenance: Provenance,
    *,
    reference_scores: Float32 | None,
    regions_failure: str | None = None,
    elsewhere: bool = False,
) -> Row:
    """The row of one explained pair.

    ``reference_scores`` [A] are the attribute network's of the pair's reference. ``regions_failure`` is why the given
    regions could not be read. ``elsewhere``: the evidence lies where the first attribute cannot be seen, which is the
    one reason against an explanation that is known before the others (``transforms.beam.judge_explanations``).
    """
    pair, bundle = target.pair, provenance.bundle
    return {
        "pair_id": pair.pair_id,
        "query_id": pair.query_id,
        "reference_id": pair.reference_id,
        "query": public(pair.query),
        "reference": public(pair.reference),
        "condition": pair.condition,
        "side": target.side,
        "method": explainer.method.name,
        "explainer_id": explainer.id,
        "perturbed": explainer.perturb,
        "reference_fill": explainer.references.fill if explainer.references else None,
        "model_id": bundle.model_id,
        "attribute_model_id": bundle.attribute_model_id,
        "vocabulary_id": bundle.vocabulary_id,
        "ranking_id": bundle.ranking_id,
        "similarity": explanation.similarity,
        "rank": pair.rank,
        "served_score": pair.served_score,
        "served_model": pair.served_model,
        "top": _attributes(pair, reference_scores, explanation, bundle),
        "map": explanation.map.ravel(),
        "map_height": explanation.map.shape[0],
        "map_width": explanation.map.shape[1],
        **_frame_columns(provenance.frame),
        **asdict(explanation.statistics),
        "bias": explanation.bias,
        "map_reliability": explanation.reliability,
        "null_agreement": explanation.null_agreement,
        "null_share": explanation.null_share,
        "unexplained_reason": EVIDENCE_ELSEWHERE if elsewhere else None,
        "contrast": explainer.contrast,
        "region_shares": [{**asdict(region), "name": storage.redact(region.name)} for region in explanation.regions],
        "regions_failure": regions_failure,
        "fill": explainer.fill,
        "passes": provenance.passes,
        "provider": provenance.provider,
        "stratum": pair.stratum,
        "weight": pair.weight,
        "extra": pair.extra,
    }


def _frame_columns(frame: Frame) -> Row:
    """How the model's frame lies in the explained photograph."""
    input_height, input_width = frame.size
    original_height, original_width = frame.original
    crop_top, crop_left, crop_height, crop_width = frame.box
    return {
        "input_height": input_height,
        "input_width": input_width,
        "original_height": original_height,
        "original_width": original_width,
        "crop_top": crop_top,
        "crop_left": crop_left,
        "crop_height": crop_height,
        "crop_width": crop_width,
    }


def _attributes(
    pair: Pair, reference_scores: Float32 | None, explanation: Explanation, bundle: Bundle
) -> list[dict[str, Any]] | None:
    if bundle.attributes is None:
        return None
    return [
        {
            "name": (name := bundle.vocabulary[ranked.index]),
            "score": ranked.score,
            "confidence": ranked.confidence,
            "match": ranked.match,
            "prior": ranked.prior,
            "on_query": _has(pair.query_attributes, name),
            "on_reference": _has(pair.reference_attributes, name),
            "reference_confidence": None if reference_scores is None else float(reference_scores[ranked.index]),
        }
        for ranked in explanation.attributes
    ]


def _has(attributes: tuple[str, ...] | None, name: str) -> bool | None:
    """What the catalogue says: None where it knows nothing of the product, or nothing of the attribute's column."""
    if attributes is None:
        return None
    if name in attributes:
        return True
    column = column_of(name) + "="
    return False if any(other.startswith(column) for other in attributes) else None


def failure_row(failure: Failure) -> Row:
    """The row of one failed pair."""
    return {**asdict(failure), "message": storage.redact(failure.message)}


def image_row(image: EmbeddedImage, store_embedding: bool) -> Row:
    """The row of one distinct image."""
    return {
        "address": public(image.address),
        "image_sha256": image.sha256,
        "height": image.height,
        "width": image.width,
        "embedding": image.embedding if store_embedding else None,
    }


def product_row(product: Product) -> Row:
    """The row of one catalogue product."""
    return {
        "product_id": product.id,
        "image": public(product.image),
        "attributes": [storage.redact(name) for name in product.names()],
        "split": None if product.split is None else storage.redact(product.split),
    }


def strata_rows(design: SamplingDesign) -> list[Row]:
    """The rows of the strata of a run, sampled or not, by name."""
    return [
        {
            "stratum": stratum.name,
            "queries": stratum.queries,
            "sampled_queries": stratum.sampled_queries,
            "pairs": stratum.pairs,
            "sampled_pairs": stratum.sampled_pairs,
            "rate": stratum.rate,
            "weight": stratum.weight,
        }
        for _, stratum in sorted(design.strata.items())
    ]


def metric_row(
    evaluation_id: str,
    metric: str,
    method: str,
    pair: Pair,
    value: float | LoadFailure,
    *,
    side: Side,
    control: bool = False,
    **more: Any,
) -> Row:
    """The row of one measure of one explanation, or of why it could not be taken. ``more`` are nullable columns."""
    failure = value if isinstance(value, LoadFailure) else None
    return {
        "evaluation_id": evaluation_id,
        "metric": metric,
        "method": method,
        "control": control,
        "pair_id": pair.pair_id,
        "query_id": pair.query_id,
        "reference_id": pair.reference_id,
        "condition": pair.condition,
        "side": side,
        "stratum": pair.stratum,
        "weight": pair.weight,
        "value": None if isinstance(value, LoadFailure) else float(value),
        "reason": failure.reason if failure else None,
        "message": storage.redact(failure.message) if failure else None,
        **more,
    }
