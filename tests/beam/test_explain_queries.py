"""The explaining step's counters: targets of an image that was read are items, those of another are failures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from transforms.beam import explain_queries
from transforms.beam.progress import Progress
from transforms.core.records import Failure
from transforms.explaining.explain_image import ExplainedChunk, ExplainedImageSummary
from transforms.tables.cells import TableRow

FAILURE = Failure("pair", "query", "reference", "explain", "unreadable", "there is none", False)
FAILED = ExplainedChunk((FAILURE,), 1)
READ = [ExplainedChunk(({"pair_id": "1"}, FAILURE), 2), FAILED, ExplainedImageSummary("s", 9, ())]
UNREADABLE = [FAILED, FAILED]


class Counted:
    """Stands for the step's counters."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return lambda count: self.found.update({name: count})


@pytest.mark.parametrize(
    ("said", "expected", "rows"),
    [(READ, {"items": 3, "failures": 2, "passes": 9}, 1), (UNREADABLE, {"failures": 2}, 0)],
    ids=["read", "unreadable"],
)
def test_items_are_targets_of_images_that_were_read(
    said: list[Any], expected: dict[str, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Explainer:
        def __init__(self, *_: Any) -> None: ...

        def explain(self, *_: Any) -> Iterator[Any]:
            return iter(said)

    counted = Counted()
    monkeypatch.setattr(explain_queries, "ImageExplainer", Explainer)
    monkeypatch.setattr(explain_queries, "StepCounters", lambda _: counted)
    step = explain_queries._Explain(Mock(progress=Progress()))
    monkeypatch.setattr(step, "_models", None, raising=False)
    made = list(step.process(("image.png", ()), {}))
    assert counted.found == expected
    assert sum(isinstance(one, TableRow) for one in made) == rows
