"""The explainers of a run, as its record says, and what is measured beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.audit.options import explaining
from pipeline.evaluation.options import EvaluateOptions
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import listed
from transforms.core.metrics.registry import CURVES, needing, requests
from transforms.core.saliency.contract import NO_FILL
from transforms.core.saliency.controls import CONTROLS, UNRELATED
from transforms.core.saliency.explainer import Explainer
from transforms.tables import runs


def configuration_of(run_: runs.Run) -> dict[str, Any]:
    try:
        configuration = json.loads(run_.row["configuration"])
    except (ValueError, RecursionError):
        configuration = None
    if not isinstance(configuration, dict):
        raise UsageError(f"{storage.shown(run_.address)}: the run's configuration is no JSON object. Audit again.")
    return configuration


def explained_with(options: EvaluateOptions, run_: runs.Run) -> tuple[Explainer, ...]:
    """The run's explainers that are measured.

    Where maps are made again, they must be those that the audit made: ids are of methods and all their parameters.
    """
    explainers = explaining(configuration_of(run_)).explainers()
    names = [one.method.name for one in explainers]
    if unknown := sorted(set(options.methods) - set(names)):
        raise UsageError(f"run {run_.id} has no maps of {unknown[0]!r}; it has those of {listed(names)}")
    asked = sorted(again(options) | set(requests(CURVES)) & set(options.metrics))
    if asked and any(one.contrast for one in explainers):
        raise UsageError(
            f"run {run_.id} explains what is particular to a pair (--contrast), the similarity less a mean, and "
            f"{', '.join(asked)} would measure its maps by the similarity itself. Audit without --contrast to measure "
            "them; regions and attributes can be measured as they are."
        )
    if explains_again(options) and {one.id for one in explainers} != set(run_.row["explainer_ids"]):
        raise UsageError(
            f"run {run_.id} was explained by another version of whymatch, whose maps this one does not make: "
            f"{', '.join(sorted(again(options)))} cannot be measured. Audit again, or measure its stored maps by "
            f"{', '.join(requests(CURVES))}."
        )
    return tuple(one for one in explainers if not options.methods or one.method.name in options.methods)


def again(options: EvaluateOptions) -> set[str]:
    """What of the metrics asks for maps to be made again."""
    asked = set(options.metrics) & set(needing("remade maps"))
    return asked | ({"--maps full"} if options.maps == "full" else set())


def explains_again(options: EvaluateOptions) -> bool:
    return bool(again(options))


def other_seeds(options: EvaluateOptions, run_: runs.Run, explained: Sequence[Explainer]) -> tuple[Explainer, ...]:
    """The explainers with another seed; those that draw nothing are left out.

    UsageError where none is left.
    """
    if "seeds" not in options.metrics:
        return ()
    configuration = configuration_of(run_)
    others = explaining(configuration, seed=explaining(configuration).seed + 1).explainers()
    before = {one.method.name: one.id for one in explained}
    seeds = tuple(one for one in others if one.method.name in before and one.id != before[one.method.name])
    if not seeds:
        raise UsageError(
            f"--metrics seeds: none of the methods that are measured ({', '.join(before)}) draws anything, so another "
            "seed changes no map. Leave seeds out, or measure a method that draws, such as rise."
        )
    return seeds


def controls_of(options: EvaluateOptions) -> tuple[Explainer, ...]:
    return tuple(Explainer(CONTROLS[name](), NO_FILL) for name in options.controls if name != UNRELATED)
