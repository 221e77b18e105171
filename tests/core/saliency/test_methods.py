"""Configured methods and what tells two explainers apart."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transforms.core.saliency.contract import Method
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.saliency.methods import METHODS, make_method
from transforms.core.saliency.rise import RiseMethod, rise
from transforms.core.saliency.sliding_window import SlidingWindowMethod, sliding_window

CHANGED: dict[str, Any] = {"sampling": "sobol", "estimator": "average", "converge": 0.5}


def identity(method: Method, fill: str = "mean") -> str:
    return Explainer(method, fill).id


def test_a_method_draws_the_design_of_its_parameters() -> None:
    method = RiseMethod(masks=7, cells=3, p=0.3, sampling="sobol", estimator="average", seed=5, banks=4)
    design = method.design((9, 14), 2)
    expected = rise((9, 14), masks=7, cells=3, p=0.3, sampling="sobol", seed=5, bank=2)
    assert design.key == expected.key
    assert design.estimator == "average"
    np.testing.assert_array_equal(design.masks(0, 7), expected.masks(0, 7))
    window = SlidingWindowMethod(window=5, stride=2).design((9, 14), 0)
    assert window.key == sliding_window((9, 14), window=5, stride=2).key


def test_windows_are_those_of_the_papers_code() -> None:
    window = SlidingWindowMethod()
    assert (window.window, window.stride, window.banks) == (32, 4, 1)


@pytest.mark.parametrize("name", list(METHODS))
def test_whatever_changes_a_map_changes_the_id(name: str) -> None:
    method = METHODS[name]()
    ids = {identity(method), identity(method, "auto")}
    names = [field.name for field in dataclasses.fields(method)]
    assert sorted(method.parameters()) == sorted(names)
    for parameter in names:
        value = getattr(method, parameter)
        other: Any = CHANGED.get(parameter, value / 2 if isinstance(value, float) else 3)
        if parameter == "p":
            method = dataclasses.replace(method, sampling="independent")
            ids.add(identity(method))
        ids.add(identity(dataclasses.replace(method, **{parameter: other})))
    assert len(ids) == 2 + len(names) + ("p" in names)
    assert identity(dataclasses.replace(method)) in ids
    assert all(one.startswith("e") for one in ids)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "mask"])
def test_what_is_perturbed_changes_the_id(name: str) -> None:
    method = METHODS[name]()
    masks = ReferenceMasks(30, "auto", 0)
    others = [replace(masks, masks=31), replace(masks, fill="blur"), replace(masks, seed=1)]
    ids = {
        Explainer(method, method.fill).id,
        *(Explainer(method, method.fill, "both", one).id for one in (masks, *others)),
    }
    assert len(ids) == 5


def test_methods_do_not_share_ids() -> None:
    assert len({identity(kind()) for kind in METHODS.values()}) == len(METHODS) == 8


def test_text_becomes_the_parameters_of_a_method() -> None:
    made = make_method("rise", {"masks": "64", "sampling": "sobol", "converge": "0.9", "banks": "2"}, seed=7)
    assert made == RiseMethod(masks=64, sampling="sobol", converge=0.9, banks=2, seed=7)
    assert make_method("rise", {"converge": "none"}) == RiseMethod()
    assert make_method("mask", {"learning_rate": "0.2", "steps": "9"}).parameters()["steps"] == 9


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("risen", {}, "no method 'risen'; there are rise, sliding_window"),
        ("rise", {"mask": "3"}, "rise has no parameter 'mask'; it has masks, cells"),
        ("rise", {"seed": "3"}, "no parameter 'seed'"),  # the run has one seed for all
        ("gradient_x_input", {"steps": "3"}, "it has none"),
        ("rise", {"masks": "many"}, "rise.masks is a whole number, not 'many'"),
        ("rise", {"p": "half"}, "rise.p is a number, not 'half'"),
        ("rise", {"sampling": "cubist"}, "rise.sampling is one of independent, sobol, hadamard, not 'cubist'"),
        ("rise", {"converge": "1"}, "0 < converge < 1"),
        ("integrated_gradients", {"steps": "0"}, "at least one step"),
        ("mask", {"steps": "0"}, "steps"),
        ("lime", {"samples": "0"}, "samples=0"),
        ("lime", {"ridge": "nan"}, "ridge=nan"),
    ],
)
def test_what_is_no_parameter_is_said(name: str, values: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_method(name, values)
