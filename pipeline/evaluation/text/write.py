"""The text of an evaluation, for a terminal and as Markdown."""

from __future__ import annotations

from pipeline.evaluation.summary.findings import EvaluationSummary
from pipeline.evaluation.text.sections import sections
from pipeline.evaluation.text.tables import aligned, chunks, wrapped

_INTERVALS = "Intervals are 95 % bootstraps over queries, on the reference side over references."


def lines(summary: EvaluationSummary) -> list[str]:
    """What the terminal shows, in lines of at most ``WIDTH`` columns: tables, verdicts, failures.

    The differences of raw areas are left to :func:`markdown` and the summary as JSON.
    """
    found, noted = [_INTERVALS], ""
    for section in sections(summary, raw_differences=False):
        found += ["", section.title, *(wrapped(section.note) if section.note != noted else [])]
        noted = section.note
        for table in section.tables:
            for chunk in chunks(table):
                found += ["", *aligned(table.of(chunk))]
        found += [""] if section.tables and section.items else []
        found += [line for item in section.items for line in wrapped(item, "  ")]
    return found


def markdown(summary: EvaluationSummary) -> str:
    """The same as Markdown, for the file of a report; it ends with a line end."""
    found, noted = [_INTERVALS], ""
    for section in sections(summary, raw_differences=True):
        found.append(f"## {_escaped(section.title)}")
        if section.note not in ("", noted):
            found.append(_escaped(section.note))
        noted = section.note
        for table in section.tables:
            head, *body = ([_escaped(cell) for cell in line] for line in table.of(table.columns))
            rule = ["---", *["---:"] * (len(head) - 1)]
            found.append("\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body)))
        if section.items:
            found.append("\n".join(f"- {_escaped(item)}" for item in section.items))
    return "\n\n".join(found) + "\n"


def _escaped(text: str) -> str:
    """``text`` with what Markdown would read in it taken literally."""
    return "".join(f"\\{letter}" if letter in "\\`*[]<|" else letter for letter in text)
