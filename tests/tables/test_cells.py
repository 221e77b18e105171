"""Rows without the names of their columns: the files that come of them are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transforms import tables
from transforms.tables.cells import TableRow
from transforms.tables.schema import SCHEMAS


def explanation() -> tables.Row:
    """A row with what every kind of column can hold."""
    row: tables.Row = {}
    for field in SCHEMAS["explanations"]:
        row[field.name] = {"string": "é", "double": 0.1, "int32": 7, "int64": 2**40, "bool": False}.get(str(field.type))
    del row["schema_version"]
    top = {"name": "colour=red", "score": 0.5, "confidence": 1, "match": np.float32(0.1), "on_query": None}
    row["map"] = np.array([0.1, -0.0, 1e-45, 2], np.float32)
    row["top"] = [{**dict.fromkeys(("prior", "on_reference", "reference_confidence")), **top}] * 2
    row["region_shares"] = [{"name": "background", "share": 0.25, "area": 0.5, "peak": np.bool_(True)}]
    row["similarity"], row["weight"] = np.float64(0.3), 1
    return row


def bytes_of(table: str, *rows: tables.Row) -> bytes:
    return tables.to_parquet(tables.to_arrow(table, rows))


@pytest.mark.parametrize("changes", [{}, {"top": None, "region_shares": []}, {"served_score": None, "rank": None}])
def test_a_file_does_not_depend_on_whether_rows_have_crossed(changes: tables.Row) -> None:
    row = {**explanation(), **changes}
    crossed = TableRow.of(*TableRow("explanations", row).cells())
    assert crossed.table == "explanations"
    assert bytes_of("explanations", crossed.row) == bytes_of("explanations", row)
    assert crossed.row["map"].tobytes() == row["map"].tobytes()


def test_columns_that_a_row_lacks_are_null() -> None:
    row: dict[str, Any] = {"product_id": "1", "image": "1.jpg", "attributes": ["colour=red", "kind=hat"]}
    crossed = TableRow.of(*TableRow("products", row).cells())
    assert crossed.row == {**row, "split": None}
    assert bytes_of("products", crossed.row) == bytes_of("products", row)


def test_a_cell_s_place_is_its_column_s() -> None:
    cells = TableRow("images", {"width": 4, "address": "a", "height": 3, "image_sha256": "0"}).cells()
    assert cells == ("images", "a", "0", 3, 4, None)


def test_what_the_schema_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images has no column \['size'\]"):
        TableRow("images", {"size": 3}).cells()
    with pytest.raises(TypeError):
        TableRow("images", {"height": 3.5}).cells()
