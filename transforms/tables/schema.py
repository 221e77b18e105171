"""The schemas of the tables that a run writes: the only place where their columns are named.

Schemas do not depend on the manifest. They only ever gain nullable columns; ``schema_version`` counts the times. Types
are those that DuckDB, Spark 3.5, BigQuery and pandas read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 5

Row = dict[str, Any]

_STAMP = pa.timestamp("us", tz="UTC")
_VERSION = pa.field("schema_version", pa.int32(), nullable=False)


def _schema(required: Mapping[str, pa.DataType], nullable: Mapping[str, pa.DataType]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema([_VERSION, *fields, *(pa.field(name, kind) for name, kind in nullable.items())])


_ATTRIBUTE = pa.struct(
    {
        "name": pa.string(),
        "score": pa.float64(),  # e_a
        "confidence": pa.float64(),  # of the attribute network, for the explained image
        "match": pa.float64(),  # cosine of activation map and saliency map
        "prior": pa.float64(),
        "on_query": pa.bool_(),  # what the catalogue says; null where it says nothing
        "on_reference": pa.bool_(),
        "reference_confidence": pa.float64(),
    }
)

_REGION = pa.struct(
    {
        "name": pa.string(),
        "share": pa.float64(),  # of the map's positive part
        "area": pa.float64(),  # of the frame: the share of a map that knows nothing
        "peak": pa.bool_(),  # whether the map's highest pixel lies there
    }
)
_THRESHOLD = pa.struct(
    {
        "method": pa.string(),
        "side": pa.string(),
        "statistic": pa.string(),
        "threshold": pa.float64(),
        "false_alarm_rate": pa.float64(),  # the share of shuffled pairs that may be beyond it
        "shuffled_pairs": pa.int64(),  # that it was calibrated on
    }
)

SCHEMAS: dict[str, pa.Schema] = {
    "runs": _schema(
        {
            "started": _STAMP,
            "finished": _STAMP,
            "whymatch_version": pa.string(),
            "versions": pa.string(),  # JSON: what the tables were made with
            "configuration": pa.string(),  # JSON: the options, redacted
            "model_id": pa.string(),
            "explainer_ids": pa.list_(pa.string()),
            "rows_read": pa.int64(),  # manifest rows = pairs_explained + pairs_failed + pairs_not_sampled
            "pairs_explained": pa.int64(),
            "pairs_failed": pa.int64(),  # pairs of which an explanation is missing
            "pairs_not_sampled": pa.int64(),
            "explanations": pa.int64(),  # rows of that table: of every pair, one for each method and explained image
            "queries": pa.int64(),  # images explained; queries, unless the references are explained too
            "images": pa.int64(),
            "forward_passes": pa.int64(),  # of the similarity network, masked and unmasked
        },
        {
            "period": pa.string(),
            "attribute_model_id": pa.string(),
            "vocabulary_id": pa.string(),
            "ranking_id": pa.string(),  # phi, scales and priors, by which attributes are ranked
            "ranking": pa.string(),  # JSON: phi and scales
            "sampling_seed": pa.int64(),
            "sampling_design": pa.string(),
            "stratified_by": pa.string(),  # the column; null: all queries are one stratum
            "random_references": pa.int64(),  # images that nulls are made of
            "thresholds": pa.list_(_THRESHOLD),  # beyond which a pair is explained, by method and side
        },
    ),
    "strata": _schema(
        {
            "stratum": pa.string(),
            "queries": pa.int64(),
            "sampled_queries": pa.int64(),
            "pairs": pa.int64(),
            "rate": pa.float64(),  # a query is sampled where its place in [0, 1) is less
        },
        {
            "sampled_pairs": pa.int64(),
            "weight": pa.float64(),  # queries that a sampled one stands for; null where none is sampled
        },
    ),
    "explanations": _schema(
        {
            "pair_id": pa.string(),
            "query_id": pa.string(),
            "reference_id": pa.string(),
            "query": pa.string(),  # addresses without credentials; they join to images.address
            "reference": pa.string(),
            "method": pa.string(),
            "explainer_id": pa.string(),
            "model_id": pa.string(),
            "similarity": pa.float64(),
            "map": pa.list_(pa.float32()),  # row by row, map_height x map_width, in the model's input frame
            "map_height": pa.int32(),
            "map_width": pa.int32(),
            "input_height": pa.int32(),
            "input_width": pa.int32(),
            "original_height": pa.int32(),  # of the explained image after EXIF
            "original_width": pa.int32(),
            "crop_top": pa.float64(),  # what of the original the frame shows, in the original's pixels
            "crop_left": pa.float64(),
            "crop_height": pa.float64(),
            "crop_width": pa.float64(),
            "peak_row": pa.int32(),  # pixel of the input frame
            "peak_column": pa.int32(),
            "border_share": pa.float64(),
            "border_area": pa.float64(),
            "background_share": pa.float64(),
            "background_area": pa.float64(),
            "entropy": pa.float64(),
            "fill": pa.string(),
            "passes": pa.int32(),  # of the similarity network behind this map; references of an image share most
            "provider": pa.string(),
            "stratum": pa.string(),
            "weight": pa.float64(),
        },
        {
            "condition": pa.string(),
            "side": pa.string(),  # which image the map is of: query (null, too, before version 2) or reference
            "perturbed": pa.string(),  # "query": the explained image alone; "both": the other one too
            "reference_fill": pa.string(),  # what hid pixels of the other image, where its versions are averaged
            "bias": pa.float64(),  # what of the similarity no pixel accounts for, where the method says so
            "rank": pa.int64(),
            "served_score": pa.float64(),
            "served_model": pa.string(),
            "attribute_model_id": pa.string(),
            "vocabulary_id": pa.string(),
            "ranking_id": pa.string(),
            "top": pa.list_(_ATTRIBUTE),  # best first
            "map_reliability": pa.float64(),  # correlation of the maps of two halves of the masks
            "null_agreement": pa.float64(),  # correlation with the map for the mean of random references
            "null_share": pa.float64(),  # of the map's variance that this map, subtracted, takes away
            "explained": pa.bool_(),
            "unexplained_reason": pa.string(),
            "extra": pa.string(),
            "contrast": pa.bool_(),  # whether the mean over random references was subtracted from the similarity
            "region_shares": pa.list_(_REGION),  # of the explained image; background and foreground if nothing is given
            "regions_failure": pa.string(),  # why given regions could not be read: a reason code
        },
    ),
    "failures": _schema(
        {
            "stage": pa.string(),
            "reason": pa.string(),
            "message": pa.string(),
            "retryable": pa.bool_(),
            "stratum": pa.string(),
            "weight": pa.float64(),
        },
        {"pair_id": pa.string(), "query_id": pa.string(), "reference_id": pa.string(), "source": pa.string()}
        # which explanation is missing, where a run makes several of a pair; null: all
        | {"method": pa.string(), "side": pa.string()},
    ),
    "erasures": _schema(
        {
            "erasure_id": pa.string(),
            "erased": _STAMP,
            "whymatch_version": pa.string(),
            "rows": pa.list_(pa.struct({"table": pa.string(), "rows": pa.int64()})),  # that are gone from this run
        },
        {"reason": pa.string()},  # as the one who erased says it; never what was erased
    ),
    "images": _schema(
        {"address": pa.string(), "image_sha256": pa.string(), "height": pa.int32(), "width": pa.int32()},
        {"embedding": pa.list_(pa.float32())},
    ),
    "products": _schema(
        {"product_id": pa.string(), "image": pa.string(), "attributes": pa.list_(pa.string())},  # "column=value"
        {"split": pa.string()},
    ),
    "evaluations": _schema(
        {
            "evaluation_id": pa.string(),
            "started": _STAMP,
            "finished": _STAMP,
            "whymatch_version": pa.string(),
            "versions": pa.string(),  # JSON: what the measures were taken with
            "configuration": pa.string(),  # JSON: the options, redacted
            "model_id": pa.string(),
            "sampling_seed": pa.int64(),
            "sample_rate": pa.float64(),  # of queries; 1: all of them
            "explanations_read": pa.int64(),  # = explanations_measured + explanations_not_sampled
            "explanations_measured": pa.int64(),
            "explanations_not_sampled": pa.int64(),
            "images": pa.int64(),  # images whose explanations are measured
            "measurements": pa.int64(),  # rows of the table metrics
            "measurements_failed": pa.int64(),  # those without a value
            "forward_passes": pa.int64(),  # of the similarity network and of its randomised copies
        },
        {"products_left_out": pa.int64()},  # of the catalogue: no image, or an id that another has too
    ),
    "metrics": _schema(
        {
            "evaluation_id": pa.string(),
            "metric": pa.string(),
            "method": pa.string(),  # of the explainer, or the name of a control
            "control": pa.bool_(),  # a map that explains nothing, measured for comparison
            "stratum": pa.string(),
            "weight": pa.float64(),
        },
        {
            "pair_id": pa.string(),
            "query_id": pa.string(),
            "reference_id": pa.string(),
            "condition": pa.string(),
            "side": pa.string(),
            "explainer_id": pa.string(),
            "model_id": pa.string(),
            "value": pa.float64(),  # null where it could not be measured: see reason
            "count": pa.int64(),  # what it is over: masked images, pixels of a region, products
            "fill": pa.string(),  # what hides pixels
            "map": pa.string(),  # which map is measured: "stored", as the table has it, or "full"
            "block": pa.string(),  # the lowest of the network's blocks that are random
            "depth": pa.float64(),  # the share of them, from the top
            "judged": pa.bool_(),  # false: random, but only a linear head, which keeps cosines
            "attribute": pa.string(),
            "curve": pa.list_(pa.float32()),  # similarities over equal steps from no pixel to all
            "reason": pa.string(),
            "message": pa.string(),
        },
    ),
}
