"""Pages of the documentation whose code is executed: each ```python block, and the ```text behind it that it prints."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<said>.*?)```\n)?", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """The code of ``page``, with what it is said to print."""
    return [(found["code"], found["said"]) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def executed(page: Path) -> Iterator[tuple[str, str | None, str]]:
    """Runs the blocks of ``page`` one after the other, as a notebook does: code, what it should print, what it does."""
    names: dict[str, Any] = {}
    for code, said in blocks(page):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            exec(compile(code, str(page), "exec"), names)
        yield code, said, stream.getvalue()


def rewritten(page: Path, source: str) -> str:
    """``source`` with what its blocks print, run as those of ``page``; writes nothing."""
    made = [printed for _, _, printed in executed(page)]
    places = iter(made)

    def put(found: re.Match[str]) -> str:
        printed = next(places)
        said = f"\n```text\n{printed}```\n" if found["said"] is not None else ""
        return f"```python\n{found['code']}```\n{said}"

    return _BLOCK.sub(put, source)
