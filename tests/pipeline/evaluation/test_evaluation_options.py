"""Options of an evaluation, and of the audit that it reads from a run's record."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.options import AuditOptions, explaining
from pipeline.evaluation.options import EvaluateOptions
from pipeline.options.declaration import declared
from transforms.core.errors import UsageError


def test_fills_are_one_in_either_case() -> None:
    options = EvaluateOptions("tables", "bundle", "e1", fills=("#ABCDEF", "mean"))
    assert options.fills == ("#abcdef", "mean")
    for fills in (("mean", "mean"), ("#ABCDEF", "#abcdef")):
        with pytest.raises(UsageError, match="--fills names one twice"):
            EvaluateOptions("tables", "bundle", "e1", fills=fills)
    with pytest.raises(UsageError, match="a fill is mean, auto, blur"):
        EvaluateOptions("tables", "bundle", "e1", fills=("MEAN",))


def test_a_stranger_is_a_map_of_the_table() -> None:
    assert EvaluateOptions("tables", "bundle", "e1").with_unrelated
    assert not EvaluateOptions("tables", "bundle", "e1", maps="full").with_unrelated
    assert not EvaluateOptions("tables", "bundle", "e1", metrics=("seeds",)).with_unrelated
    with pytest.raises(UsageError, match="leave --maps full out"):
        EvaluateOptions("tables", "bundle", "e1", maps="full", metrics=("stranger",))


def recorded(**changes: Any) -> dict[str, Any]:
    audit = AuditOptions(
        ("manifest.csv",), "bundle", "out", "run", methods=("rise", "lime"), settings={"lime.samples": "50"},
        masks=40, map_size=(5, 7), explain="both", perturb="both", fill="mean", seed=3,
    )  # fmt: skip
    kept: dict[str, Any] = json.loads(json.dumps(audit.recorded()))
    return kept | changes


def test_what_an_audit_records_explains_as_it_did() -> None:
    found = explaining(recorded())
    assert (found.methods, found.masks, found.map_size, found.seed) == (("rise", "lime"), 40, (5, 7), 3)
    assert found.settings == {"lime.samples": "50"}
    assert {one.method.name for one in found.explainers()} == {"rise", "lime"}
    assert explaining(recorded(), seed=4).seed == 4
    assert explaining({}).methods == ("rise",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("methods", "rise"),
        ("methods", []),
        ("methods", [["rise"]]),
        ("methods", {"rise": 1}),
        ("masks", "512"),
        ("masks", 1.5),
        ("masks", True),
        ("masks", 10**9),
        ("sampling", 1),
        ("converge", "0.1"),
        ("converge", float("inf")),
        ("settings", ["rise.cells=4"]),
        ("settings", None),
        ("settings", {"rise.cells": 4}),
        ("settings", {"rise.cells": "1e9999"}),
        ("explain", "foo"),
        ("explain", []),
        ("perturb", []),
        ("perturb", "reference"),
        ("reference_masks", 0),
        ("reference_masks", None),
        ("fill", 5),
        ("fill", "\x1b"),
        ("seed", 1.5),
        ("seed", -1),
        ("seed", 2**64),
        ("map_size", [28]),
        ("map_size", [28, 28, 28]),
        ("map_size", [0, 28]),
        ("map_size", [4097, 28]),
        ("map_size", [28, 2.5]),
        ("map_size", "28"),
    ],
)
def test_a_record_that_no_audit_writes_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="does not say how it explained") as refused:
        explaining(recorded(**{name: value}))
    assert str(refused.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


EXPLAINING = [option.name for option in declared(AuditOptions) if option.option.explains]


@given(st.sampled_from(EXPLAINING), JSON)
def test_no_record_raises_anything_else(name: str, value: Any) -> None:
    with suppress(UsageError):
        assert explaining(recorded(**{name: value})).explainers()
