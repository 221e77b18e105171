"""whymatch: why does an image-similarity model say that two images match?

In a notebook or a service::

    import whymatch

    bundle = whymatch.Bundle.load("bundle")
    explanations = bundle.explain("query.jpg", ["first.jpg", "second.jpg"])
    explanations[0].similarity, explanations[0].map, explanations[0].attributes, explanations[0].verdict
    explanations                                    # as a notebook's last line: the pictures

A whole catalogue, and its tables::

    run = whymatch.audit(manifest=["pairs.csv"], catalogue="catalogue.csv", bundle="bundle", out="tables")
    run.table("explanations")                       # Arrow; run.pandas(…), run.polars(…), run.sql(…)
    run = whymatch.read_run("tables")               # later

``docs/notebook.md`` shows both, executed. Nothing heavy is loaded before it is needed: importing whymatch takes
milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.notebook.audit import audit as audit
    from pipeline.notebook.bundle import Bundle as Bundle
    from pipeline.notebook.explanation import Explanations as Explanations
    from pipeline.notebook.explanation import NamedAttribute as NamedAttribute
    from pipeline.notebook.explanation import PairExplanation as PairExplanation
    from pipeline.notebook.explanation import PairFailure as PairFailure
    from pipeline.notebook.explanation import Verdict as Verdict
    from pipeline.notebook.photographs import ImageSource as ImageSource
    from pipeline.notebook.run import Run as Run
    from pipeline.notebook.run import RunThresholds as RunThresholds
    from pipeline.notebook.run import read_run as read_run
    from transforms.core.errors import RunError as RunError
    from transforms.core.errors import UsageError as UsageError
    from transforms.core.errors import WhymatchError as WhymatchError
    from transforms.core.saliency.explainer import Explainer as Explainer

_HOMES = {
    "Bundle": "pipeline.notebook.bundle",
    "Explainer": "transforms.core.saliency.explainer",
    "Explanations": "pipeline.notebook.explanation",
    "ImageSource": "pipeline.notebook.photographs",
    "NamedAttribute": "pipeline.notebook.explanation",
    "PairExplanation": "pipeline.notebook.explanation",
    "PairFailure": "pipeline.notebook.explanation",
    "Run": "pipeline.notebook.run",
    "RunError": "transforms.core.errors",
    "RunThresholds": "pipeline.notebook.run",
    "UsageError": "transforms.core.errors",
    "Verdict": "pipeline.notebook.explanation",
    "WhymatchError": "transforms.core.errors",
    "audit": "pipeline.notebook.audit",
    "read_run": "pipeline.notebook.run",
}
"""Where each public name is made; it is loaded when it is first asked for (PEP 562)."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whymatch' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
