"""The explainers that an audit's options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transforms.core.errors import UsageError
from transforms.core.saliency.contract import NO_FILL, Method
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.saliency.methods import METHODS, make_method
from transforms.core.saliency.rise import RiseMethod
from transforms.explaining.check_explainer import check_settings

if TYPE_CHECKING:
    from pipeline.audit.options import AuditOptions

SHORT = ("masks", "sampling", "converge")
"""Parameters of RISE that have flags of their own."""


def explainers_of(options: AuditOptions) -> tuple[Explainer, ...]:
    """The methods with their parameters, fills, and what they perturb; UsageError for values they cannot have."""
    made = tuple(_explainer(method, options) for method in _methods(options))
    if options.explain == "both" and any(explainer.converges for explainer in made):
        raise UsageError(
            "--converge stops where the maps of all pairs of an image have converged, and --explain both would mix "
            "pairs of both sides: run --explain query and --explain reference apart"
        )
    return made


def masked(options: AuditOptions) -> ReferenceMasks | None:
    """How the image that another is compared with is perturbed, None where it is not."""
    if options.perturb == "query" or all(name == "mask" for name in options.methods):
        return None
    return ReferenceMasks(options.reference_masks, options.fill or RiseMethod.fill, options.seed)


def _methods(options: AuditOptions) -> tuple[Method, ...]:
    if not options.methods:
        raise UsageError(f"--method must be among {', '.join(METHODS)}, not ()")
    if repeated := [name for name in options.methods if options.methods.count(name) > 1]:
        raise UsageError(f"--method names {repeated[0]} twice; a run has one setting of each method")
    values = _values(options)
    if unused := sorted(set(values) - set(options.methods)):
        raise UsageError(
            f"{', '.join(f'{unused[0]}.{name}' for name in values[unused[0]])} is set, but --method is "
            f"{','.join(options.methods)}: name {unused[0]} there too, or leave the setting out"
        )
    made = []
    for name in options.methods:
        try:
            made.append(make_method(name, values.get(name, {}), options.seed))
        except ValueError as error:
            raise UsageError(f"--method {name}: {error}") from None
    return tuple(made)


def _explainer(method: Method, options: AuditOptions) -> Explainer:
    fill = method.fill if options.fill is None or method.fill == NO_FILL else options.fill
    references = None if method.needs.optimises else masked(options)
    explainer = Explainer(method, fill, options.perturb, references, options.contrast)
    check_settings(explainer)
    return explainer


def _values(options: AuditOptions) -> dict[str, dict[str, str]]:
    """The text of every parameter that is set, by method."""
    values: dict[str, dict[str, str]] = {}
    for key, value in options.settings.items():
        method, dot, parameter = key.partition(".")
        if not (dot and parameter):
            raise UsageError(f"--set must be METHOD.PARAMETER=VALUE, such as lime.samples=500, not {key!r}")
        values.setdefault(method, {})[parameter] = value
    for parameter in SHORT:
        if (given := getattr(options, parameter)) is not None:
            if parameter in values.get("rise", {}):
                raise UsageError(f"--{parameter} and --set rise.{parameter} say the same: leave one of them out")
            values.setdefault("rise", {})[parameter] = str(given)
    return values
