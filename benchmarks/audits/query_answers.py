"""The answers in docs/queries.md, from the tables of the runs that it asks about.

python -m benchmarks.audits.query_answers TABLES        TABLES holds the runs; the document is written anew
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pipeline.results import sql

DOCUMENT = Path(__file__).parents[2] / "docs" / "queries.md"

QUESTION = re.compile(r"^## (\d\. [^\n]+)\n(?:(?!^## ).)*?^```sql\n(.*?)^```\n\n```\n(.*?)^```\n", re.S | re.M)
"""A question of the document: its title, its SQL and its answer."""


def questions(text: str) -> list[tuple[str, str, str]]:
    """Title, SQL and answer of every question, in order."""
    return [(match[1], match[2], match[3]) for match in QUESTION.finditer(text)]


def answered(text: str, out: str) -> str:
    """``text`` with the answers that the tables under ``out`` give."""

    def fresh(match: re.Match[str]) -> str:
        answer = sql.render(sql.query(out, match[2])) + "\n"
        start, end = match.start(3) - match.start(), match.end(3) - match.start()
        return match[0][:start] + answer + match[0][end:]

    return QUESTION.sub(fresh, text)


def main() -> int:
    """Writes the document's answers anew."""
    parser = argparse.ArgumentParser(description="Write the answers of docs/queries.md anew.")
    parser.add_argument("tables", help="the folder or prefix of the runs' tables")
    tables = parser.parse_args().tables
    DOCUMENT.write_text(answered(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
