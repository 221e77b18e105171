"""Configured methods and what tells two explainers apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from transforms.core.saliency.methods import Method, RiseMethod, SlidingWindowMethod, explainer_id
from transforms.core.saliency.rise import rise
from transforms.core.saliency.sliding_window import sliding_window


def test_a_method_draws_the_design_of_its_parameters() -> None:
    method = RiseMethod(masks=7, cells=3, p=0.3, seed=5, banks=4)
    design = method.design((9, 14), 2)
    expected = rise((9, 14), masks=7, cells=3, p=0.3, seed=5, bank=2)
    assert design.key == expected.key
    np.testing.assert_array_equal(design.masks(0, 7), expected.masks(0, 7))
    window = SlidingWindowMethod(window=5, stride=2).design((9, 14), 0)
    assert window.key == sliding_window((9, 14), window=5, stride=2).key


def test_defaults_are_those_of_the_papers_code() -> None:
    method, window = RiseMethod(), SlidingWindowMethod()
    assert (method.masks, method.cells, method.p) == (2000, 8, 0.5)
    assert (window.window, window.stride, window.banks) == (32, 4, 1)


@pytest.mark.parametrize("method", [RiseMethod(), SlidingWindowMethod()], ids=lambda method: method.name)
def test_whatever_changes_a_map_changes_the_id(method: RiseMethod | SlidingWindowMethod) -> None:
    ids = {explainer_id(method, "mean"), explainer_id(method, "auto")}
    names = [field.name for field in dataclasses.fields(method)]
    assert sorted(method.parameters()) == sorted(names)
    for name in names:
        other: dict[str, Any] = {name: getattr(method, name) / 2 if name == "p" else 3}
        changed: Method = dataclasses.replace(method, **other)
        ids.add(explainer_id(changed, "mean"))
    assert len(ids) == 2 + len(names)
    assert explainer_id(dataclasses.replace(method), "mean") in ids
    assert all(one.startswith("e") for one in ids)


def test_methods_do_not_share_ids() -> None:
    assert explainer_id(RiseMethod(), "mean") != explainer_id(SlidingWindowMethod(), "mean")
