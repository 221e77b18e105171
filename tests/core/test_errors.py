"""The exception tree and the closed set of reasons."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import transforms
from transforms.core import errors
from transforms.core.errors import REASONS, PairError, RunError, UsageError, WhymatchError
from transforms.core.records import Failure, LoadFailure, Pair

STAGES = {"read", "load", "decode", "model", "evaluate"}

CONTRACT = {
    "bad_row": "read",
    "duplicate_pair": "read",
    "unknown_product": "read",
    "ambiguous_product": "read",
    "unknown_condition": "read",
    "bad_boxes": "read",
    "address_refused": "load",
    "not_found": "load",
    "access_denied": "load",
    "too_many_bytes": "load",
    "storage_fault": "load",
    "empty": "decode",
    "html_not_image": "decode",
    "xml_error_document": "decode",
    "not_an_image": "decode",
    "image_too_large": "decode",
    "damaged_image": "decode",
    "model_failed": "model",
    "non_finite_embedding": "model",
    "non_finite_map": "model",
    "no_null": "model",
    "no_map": "evaluate",
    "image_changed": "evaluate",
    "no_region": "evaluate",
    "not_scored": "evaluate",
}
"""What ``failures`` tables of earlier runs hold: a new reason is added here, and none of these may change or go."""


def leaves(kind: type[WhymatchError]) -> set[type[WhymatchError]]:
    below = {leaf for child in kind.__subclasses__() for leaf in leaves(child)}
    return below or {kind}


def load_all_of_transforms() -> None:
    for module in pkgutil.walk_packages(transforms.__path__, "transforms."):
        importlib.import_module(module.name)


def test_the_reasons_are_those_of_the_contract() -> None:
    assert set(REASONS) == set(CONTRACT)


@pytest.mark.parametrize("reason", CONTRACT)
def test_an_error_becomes_a_failure_of_its_reason_and_stage(reason: str) -> None:
    """As a worker makes it of a pair, and of an image for all pairs that name it."""
    pair = Pair("p0", "q0", "r0", "q.png", "r.png", None, stratum="shoes", weight=2.5)
    error = REASONS[reason]("what happened")
    expected = Failure(
        "p0", "q0", "r0", CONTRACT[reason], reason, "what happened", reason == "storage_fault", None, "shoes", 2.5
    )
    assert Failure.of(pair, error) == expected
    assert Failure.of(pair, LoadFailure.of(error)) == expected


def test_every_kind_of_failure_has_a_reason_of_its_own() -> None:
    load_all_of_transforms()
    kinds = {kind for kind in leaves(PairError) if kind.__module__.startswith("transforms.")}
    assert set(REASONS.values()) == kinds  # none is defined where REASONS would miss it
    assert len(REASONS) == len(kinds)
    for reason, kind in REASONS.items():
        assert issubclass(kind, PairError)
        assert "reason" in vars(kind), f"{kind.__name__} takes its reason from another class"
        assert kind.reason == reason
        assert re.fullmatch("[a-z]+(_[a-z]+)*", reason)
        assert kind.stage in STAGES
        assert isinstance(kind.retryable, bool)


def test_only_a_storage_fault_may_pass() -> None:
    assert {reason for reason, kind in REASONS.items() if kind.retryable} == {"storage_fault"}


def test_the_drawn_tree_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        if not (match := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)):
            continue
        depth, name = len(match[1]), match[2]
        path = [(at, above) for at, above in path if at < depth]
        drawn[name] = path[-1][1] if path else "Exception"
        path.append((depth, name))
    defined = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, WhymatchError)
    }
    assert drawn == defined


def test_the_drawing_names_reasons_and_stages() -> None:
    assert errors.__doc__ is not None
    for reason, kind in REASONS.items():
        line = next(line for line in errors.__doc__.splitlines() if re.search(rf"\b{kind.__name__}\b", line))
        assert reason in line.split()
        assert ("retryable" in line.split()) == kind.retryable
        parent = kind.__bases__[0].__name__
        above = next(line for line in errors.__doc__.splitlines() if re.search(rf"\b{parent}\b", line))
        assert above.split()[-2:] == ["stage", kind.stage]


@pytest.mark.parametrize("kind", [UsageError, RunError, PairError])
def test_one_class_catches_all(kind: type[WhymatchError]) -> None:
    assert issubclass(kind, WhymatchError)
    assert not any(issubclass(kind, other) for other in {UsageError, RunError, PairError} - {kind})
