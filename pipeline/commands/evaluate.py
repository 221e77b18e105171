"""``whymatch evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.common import say
from pipeline.evaluation.options import EvaluateOptions
from pipeline.options.command_line import Command

if TYPE_CHECKING:
    from transforms.evaluating.settings import CascadeStage


def _run(options: EvaluateOptions) -> int:
    from pipeline.evaluation.launch import run

    return 0 if run(options, _cascade, say) else 1


def _cascade(bundle: Path, out: Path, stages: int, seed: int) -> Sequence[CascadeStage]:
    """Randomised copies of a bundle, as the evaluation is told of them."""
    from transforms.core.errors import MissingDependency
    from transforms.evaluating.settings import CascadeStage

    try:
        from export.randomisation.cascade import cascade
    except ImportError as error:
        raise MissingDependency(
            f"sanity randomises the network in its ONNX file, which needs onnx ({error}). Run: pip install onnx"
        ) from None
    made = cascade(bundle, out, stages=stages, seed=seed)
    return [CascadeStage(str(stage.folder), stage.block, stage.depth, judged=not stage.head_only) for stage in made]


COMMAND = Command(
    "evaluate",
    EvaluateOptions,
    _run,
    "measure a run's explanations: whether its maps show what the network looks at",
    "docs/evaluation.md says what each metric means and when not to trust it.",
    config=True,
)
