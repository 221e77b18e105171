"""Query answers as text: an aligned table for a terminal, CSV for a spreadsheet, JSON for a program.

Ids and names come from manifests that nobody vouches for. A terminal gets their control characters escaped, and a
spreadsheet no cell that it would take for a formula.
"""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

Format = Literal["table", "csv", "json"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def render(answer: pa.Table, format: Format = "table", *, max_width: int = 40, max_rows: int = 1000) -> str:
    """``answer`` as text, without a line end at its end.

    "table": cells cut to ``max_width`` columns of the terminal, at most ``max_rows`` rows and a line that says how many
    follow, numbers with four significant digits. "csv": nested values as JSON, null as an empty cell; a text that a
    spreadsheet would take for a formula begins with an apostrophe. "json": an array with one object a line, ASCII only,
    NaN and infinity as null.
    """
    if format == "table":
        return _table(answer, max_width, max_rows)
    return (_csv if format == "csv" else _json)(answer)


def printable(text: str) -> str:
    """``text`` on one line with every control, format and unassigned character escaped: it cannot act on a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns of a terminal, an ellipsis at the end where something was cut off."""
    if columns(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += columns(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes: 2 for a wide character, 0 for one that joins the one before."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def number(value: float) -> str:
    """A number with four significant digits, and all those before the point."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _table(answer: pa.Table, max_width: int, max_rows: int) -> str:
    if not answer.num_columns:
        return "done"
    left = [not _is_number(kind) for kind in answer.schema.types]
    shown = [[_cell(value) for value in column.to_pylist()] for column in answer.slice(0, max_rows).columns]
    lines = [[cut(printable(name), max_width) for name in answer.column_names]]
    lines += [[cut(cell, max_width) for cell in row] for row in zip(*shown, strict=True)]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = [_line(line, widths, left) for line in lines]
    if not answer.num_rows:
        text.append("(no rows)")
    if answer.num_rows > max_rows:
        text.append(f"({answer.num_rows - max_rows:,} more rows; --format csv and json give all)")
    return "\n".join(text)


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_left in zip(cells, widths, left, strict=True):
        space = " " * (width - columns(cell))
        padded.append(cell + space if to_left else space + cell)
    return "  ".join(padded).rstrip()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{printable(str(key))}: {_cell(item)}" for key, item in value.items()) + "}"
    return printable(value.hex() if isinstance(value, bytes) else str(value))


def _csv(answer: pa.Table) -> str:
    text = io.StringIO()
    # RFC 4180's line end; with "\n" alone, Python 3.11 leaves a carriage return in a cell without quotation marks
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_harmless(name) for name in answer.column_names])
    cells = [[_csv_cell(value) for value in column.to_pylist()] for column in answer.columns]
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue().removesuffix("\r\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return _harmless(value)
    if isinstance(value, (bool, list, dict)):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return value if value is None or isinstance(value, (int, float, Decimal)) else _plain(value)


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(answer: pa.Table) -> str:
    rows = [json.dumps(_finite(row), default=_plain) for row in answer.to_pylist()]
    return "[" + ",\n ".join(rows) + "]"


def _finite(value: Any) -> Any:
    """``value`` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
