"""A step whose elements are not what it takes is refused while the pipeline is built, not when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.typehints.decorators import TypeCheckError

from transforms.beam.typed import (
    DoFn,
    SidedDoFn,
    create,
    filter_each,
    flat_map,
    flat_map_with,
    group_by_key,
    map_each,
    map_with,
    par_do,
    par_do_with,
    singleton,
    split,
)


class Doubled(DoFn[Any]):
    def process(self, element: Any) -> Any:
        return [element, element]


class Beside(SidedDoFn[Any, Any]):
    def process(self, element: Any, side: Any) -> Any:
        return [(element, side)]


STEPS: dict[str, Callable[[type, Any], Any]] = {
    "map_each": lambda takes, side: map_each(takes, Any, lambda one: one),
    "map_with": lambda takes, side: map_with(takes, Any, lambda one, beside: one, side),
    "flat_map": lambda takes, side: flat_map(takes, Any, lambda one: [one]),
    "flat_map_with": lambda takes, side: flat_map_with(takes, Any, lambda one, beside: [one], side),
    "filter_each": lambda takes, side: filter_each(takes, lambda one: True),
    "split": lambda takes, side: split(takes, Any, lambda one: [one]),
    "par_do": lambda takes, side: par_do(takes, Any, Doubled()),
    "par_do_with": lambda takes, side: par_do_with(takes, Any, Beside(), side),
    "group_by_key": lambda takes, side: group_by_key(takes, takes),
}


@pytest.mark.engine
@pytest.mark.parametrize("name", STEPS)
def test_other_elements_than_a_step_takes_are_refused(name: str) -> None:
    pipeline: Any = beam.Pipeline()
    side = singleton(pipeline | "Side" >> create(float, [0.5]))
    kind: Any = tuple[str, str] if name == "group_by_key" else str
    made = pipeline | "Made" >> create(kind, [])
    made | "Same" >> STEPS[name](str, side)
    with pytest.raises(TypeCheckError):
        made | "Other" >> STEPS[name](int, side)
