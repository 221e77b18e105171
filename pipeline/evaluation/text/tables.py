"""Tables of an evaluation's text, and how they fit the columns of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipeline.text.tables import columns

WIDTH = 110
"""Columns of a terminal that are filled at most."""


class TextCell(NamedTuple):
    text: str
    queries: int
    pairs: int
    failed: int = 0
    not_judged: int = 0


@dataclass(frozen=True)
class TextTable:
    """Cells by row and column label; a label pair without a cell is empty."""

    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], TextCell]

    def of(self, chosen: Sequence[str]) -> list[list[str]]:
        """The header and rows, as text, with the columns ``chosen``, then counts.

        Those of rows without a value stand only where there are any.
        """
        rows = [label for label in self.rows if any((label, name) in self.cells for name in chosen)]
        found = {label: [self.cells[label, name] for name in chosen if (label, name) in self.cells] for label in rows}
        missing = (
            name
            for name in ("failed", "not_judged")
            if any(getattr(one, name) for cells in found.values() for one in cells)
        )
        counts = ["queries", "pairs", *missing]
        lines = [[self.corner, *chosen, *(name.replace("_", " ") for name in counts)]]
        for label in rows:
            texts = [self.cells[label, name].text if (label, name) in self.cells else "" for name in chosen]
            lines.append([label, *texts, *(_counted(found[label], name) for name in counts)])
        return lines


def _counted(cells: Sequence[TextCell], name: str) -> str:
    """The count of all cells of a row; where they differ, each."""
    counts = [f"{getattr(cell, name):,}" for cell in cells]
    return counts[0] if len(set(counts)) == 1 else " / ".join(counts)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def chunks(table: TextTable) -> list[tuple[str, ...]]:
    """The columns of ``table`` in the fewest groups, about equal, that fit into ``WIDTH``; at least one each."""
    total = len(table.columns)
    for groups in range(1, total + 1):
        bounds = [round(at * total / groups) for at in range(groups + 1)]
        chunks = [table.columns[start:stop] for start, stop in pairwise(bounds)]
        if all(columns(line) <= WIDTH for chunk in chunks for line in aligned(table.of(chunk))):
            break
    return chunks


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: labels to the left, all others to the right, a rule under the header."""
    widths = [max(map(columns, column)) for column in zip(*table, strict=True)]
    shown = []
    for line in (table[0], ["-" * width for width in widths], *table[1:]):
        spaces = [" " * (width - columns(cell)) for cell, width in zip(line, widths, strict=True)]
        first, *others = zip(line, spaces, strict=True)
        shown.append("  ".join(["".join(first), *(space + cell for cell, space in others)]).rstrip())
    return shown


def wrapped(text: str, indent: str = "") -> list[str]:
    # a number and its percent sign stay on one line
    broken = textwrap.wrap(text.replace(" %", "\xa0%"), WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in broken]
