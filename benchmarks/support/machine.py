"""What a measurement was made on, and Markdown tables."""

from __future__ import annotations

import os
import platform
import subprocess
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def processor() -> str:
    """The CPU's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def graphics() -> str:
    """The first NVIDIA GPU's name and driver; "no GPU" where nvidia-smi finds none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
    name, _, driver = found[0].partition(",")
    return f"{name.strip()}, driver {driver.strip()}"


def versions(*distributions: str) -> str:
    """``name version`` of each installed one of ``distributions``, and of Python."""
    found = [f"Python {platform.python_version()}"]
    for name in distributions:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads as plain text too: its columns are padded."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def paragraph(text: str) -> str:
    """``text`` with its lines broken anew, at 110 characters."""
    return textwrap.fill(" ".join(text.split()), 110, break_long_words=False, break_on_hyphens=False)


def write(path: Path, text: str) -> None:
    """Writes ``text`` to ``path``, making its folder, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path}")
