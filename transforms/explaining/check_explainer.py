"""Whether an explainer can do what it is asked with a bundle: one answer for an audit's workers and for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transforms.core.errors import UsageError
from transforms.core.imaging.fill import check_fill
from transforms.core.messages import listed
from transforms.core.saliency.contract import NO_FILL
from transforms.core.saliency.explainer import Explainer

if TYPE_CHECKING:
    from transforms.serving.bundle import Bundle


def check_setting_fill(fill: str) -> None:
    """UsageError for what names no fill."""
    try:
        check_fill(fill)
    except ValueError as error:
        raise UsageError(f"--fill: {error}") from None


def check_settings(explainer: Explainer) -> None:
    """UsageError for an explainer whose settings do not go together, whatever the bundle."""
    hides_nothing = explainer.fill == explainer.method.fill == NO_FILL
    hidden_by = () if hides_nothing else (explainer.fill,)
    for fill in (*hidden_by, explainer.references.fill) if explainer.references else hidden_by:
        check_setting_fill(fill)
    if explainer.perturb == "both" and explainer.references is None and not explainer.method.needs.optimises:
        raise UsageError(
            f"--perturb both averages {explainer.method.name} over masked versions of the other image: say by "
            "references which"
        )
    if explainer.contrast and not explainer.method.needs.image_first:
        raise UsageError(
            "--contrast needs a method that compares with any vector at no passes of its own: "
            f"{explainer.method.name} follows the gradient of one pair. Take rise, sliding_window, sbsm, lime or "
            "decomposition."
        )
    if explainer.contrast and explainer.perturb == "both":
        raise UsageError("--contrast compares with random references as they are: leave --perturb both out")


def check_explainer(explainer: Explainer, bundle: Bundle) -> None:
    """UsageError where the method asks for what the bundle does not have, or cannot do what it is asked with it."""
    method = explainer.method
    if bundle.conditions and explainer.converges:
        raise UsageError(
            "--converge stops where the maps of all pairs of an image have converged, but the conditions of this "
            f"bundle ({listed(tuple(bundle.conditions), 5)}) share an image's passes, and one needs more of them "
            "than another: leave --converge out, and say how many with --masks"
        )
    graph = method.needs.graph
    if graph and getattr(bundle, graph) is None:
        raise UsageError(
            f"--method {method.name} needs the bundle's {graph}, and it has none: "
            f"{bundle.missing.get(graph, 'it is not known why')}"
        )
    if explainer.contrast and bundle.similarity_function == "euclidean":
        raise UsageError("--contrast subtracts a mean similarity, and a negative Euclidean distance has no such mean")
    if method.needs.linear and bundle.similarity_function == "euclidean":
        raise UsageError(
            f"--method {method.name}: a negative Euclidean distance is no sum over positions; take another method"
        )
