"""The explanations of a run as its tables hold them, read back to be measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from transforms.core.records import Float32, Pair
from transforms.core.target import ExplanationTarget
from transforms.tables import runs

_TEXTS = ("pair_id", "query_id", "reference_id", "query", "reference", "condition", "stratum", "weight")


_COLUMNS = (*_TEXTS, "side", "method", "explainer_id", "similarity", "input_height", "input_width", "map")


_SIZES = ("map_height", "map_width")


MAY_LACK = ("map", "map_height", "map_width", "similarity")
"""The columns of explanations that may hold nulls although the schema forbids it."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A row of the table explanations: whose map it is, and what the audit found.

    ``map`` is float32 [h, w], None where the row has none of finite numbers; ``similarity`` is the audited one;
    ``frame`` (H, W) is the model's. ``top`` names the attributes that were kept, best first, None of a run without.
    ``regions`` is the address of the label image of the explained product, where the catalogue has one. ``audited`` are
    the sha256 of the explained and of the other image in the audit, None where its table images does not say.
    """

    target: ExplanationTarget
    method: str
    explainer_id: str
    similarity: float | None
    frame: tuple[int, int]
    map: Float32 | None = field(repr=False)
    top: tuple[str, ...] | None = None
    regions: str | None = None
    audited: tuple[str | None, str | None] = (None, None)


def read(address: str, methods: Collection[str], *, attributes: bool = False) -> Iterator[Explained]:
    """The explanations of ``methods`` in one file, with their attributes where ``attributes`` asks for them.

    The maps are a few kilobytes each; a file is read some hundred rows at a time. UsageError where it is damaged.
    """
    columns = (*_COLUMNS, *_SIZES, *(("top",) if attributes else ()))
    for batch in runs.read_batches(address, "explanations", columns, MAY_LACK):
        names = [name for name in columns if name != "map"]
        rows = batch.select(names).to_pylist()
        for cells, row in zip(batch.column("map"), rows, strict=True):
            if row["method"] in methods:
                yield _explained(cells, row)


def _explained(cells: pa.ListScalar, row: dict[str, Any]) -> Explained:
    pair = Pair(**{name: row[name] for name in _TEXTS})
    top = row.get("top")
    return Explained(
        ExplanationTarget(pair, "reference" if row["side"] == "reference" else "query"),
        row["method"],
        row["explainer_id"],
        row["similarity"],
        (row["input_height"], row["input_width"]),
        runs.saliency_map(cells, row["map_height"], row["map_width"]),
        None if top is None else tuple(ranked["name"] for ranked in top),
    )
