"""Randomised copies of the bundle, where the workers of an evaluation can read them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.evaluation.options import EvaluateOptions
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.saliency.contract import Graph
from transforms.evaluating.settings import CascadeStage
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.tables import runs

Cascade = Callable[[Path, Path, int, int], Sequence[CascadeStage]]
"""Writes randomised copies of the bundle in a folder into another: ``cascade(bundle, out, stages, seed)``."""


def make_stages(
    options: EvaluateOptions, run_: runs.Run, bundle: Bundle, cascade: Cascade, held: ExitStack, graphs: Sequence[Graph]
) -> tuple[CascadeStage, ...]:
    """Randomised copies of the bundle, in a folder of this machine or, for other runners, in ``--scratch``."""
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="whymatch-cascade-")))
    (source := folder / "bundle").mkdir()
    bundles.write(bundles.fetch(options.bundle, source), source)
    stages = tuple(cascade(source, folder / "stages", options.stages, options.seed))
    for stage in stages:
        made = bundles.read(stage.bundle)
        for graph in graphs:
            if getattr(made, graph) is None:
                raise UsageError(f"sanity: {made.missing.get(graph, f'the randomised bundle has no {graph}')}")
    if options.scratch is None:
        return stages
    # ids of evaluations are those of their run
    scratch = storage.join(options.scratch, f"run_id={run_.id}", options.evaluation_id)
    return tuple(_published(stage, scratch) for stage in stages)


def _published(stage: CascadeStage, scratch: str) -> CascadeStage:
    """The stage where other machines can read it; what an evaluation that broke off has left there may stand."""
    folder = Path(stage.bundle)
    address = storage.join(scratch, folder.name)
    for path in sorted(folder.iterdir()):
        data, target = path.read_bytes(), storage.join(address, path.name)
        try:
            storage.publish(target, data)
        except storage.AlreadyPublished:
            if storage.read_file(target) != data:
                raise UsageError(
                    f"--scratch: {storage.shown(target)} is of another evaluation; choose another --evaluation-id or "
                    f"--scratch, or remove {storage.shown(address)}"
                ) from None
    return replace(stage, bundle=address)
