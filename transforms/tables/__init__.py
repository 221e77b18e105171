"""The tables that a run writes: their columns, where they lie, and the rows that go into them."""

from transforms.tables.layout import folder, part
from transforms.tables.parquet import to_arrow, to_parquet
from transforms.tables.rows import (
    EVIDENCE_ELSEWHERE,
    Provenance,
    explanation_row,
    failure_row,
    image_row,
    metric_row,
    product_row,
    strata_rows,
)
from transforms.tables.schema import SCHEMA_VERSION, SCHEMAS, Row

__all__ = [
    "EVIDENCE_ELSEWHERE",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "Provenance",
    "Row",
    "explanation_row",
    "failure_row",
    "folder",
    "image_row",
    "metric_row",
    "part",
    "product_row",
    "strata_rows",
    "to_arrow",
    "to_parquet",
]
