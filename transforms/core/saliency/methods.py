"""The methods that an audit can be asked for: their parameters, their defaults, and what each asks of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transforms.core.saliency.contract import Method
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.gradients import (
    GradientMethod,
    IntegratedGradientsMethod,
)
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod

METHODS: dict[str, type[Any]] = {
    method.name: method
    for method in (
        RiseMethod,
        SlidingWindowMethod,
        SbsmMethod,
        LimeMethod,
        MaskMethod,
        GradientMethod,
        IntegratedGradientsMethod,
        DecompositionMethod,
    )
}
"""The methods by name."""


def make_method(name: str, values: Mapping[str, str], seed: int = 0) -> Method:
    """The method ``name`` with ``values`` of its parameters, as text; ``seed`` is the run's.

    Raises ValueError for an unknown method or parameter, or a value that it cannot have.
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    kind = METHODS[name]
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    settable = [parameter for parameter in known if parameter != "seed"]
    if unknown := sorted(values.keys() - set(settable)):
        having = f"it has {', '.join(settable)}" if settable else "it has none"
        raise ValueError(f"{name} has no parameter {unknown[0]!r}; {having}")
    given = {key: _value(f"{name}.{key}", text, hints[key]) for key, text in values.items()}
    if "seed" in known:
        given["seed"] = seed
    made: Method = kind(**given)
    return made


def _value(parameter: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"{parameter} is one of {', '.join(get_args(hint))}, not {text!r}")
        return text
    if get_args(hint):  # optional
        return None if text == "none" else _value(parameter, text, get_args(hint)[0])
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{parameter} is {'a whole number' if hint is int else 'a number'}, not {text!r}") from None
