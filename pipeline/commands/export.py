"""``whymatch export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from pipeline.commands.common import find_factories
from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Repeated, Three


@dataclass(frozen=True, config=CONFIG)
class ExportOptions(Options):
    """The options of ``whymatch export``."""

    similarity: Annotated[Path, Option("of `train similarity`", metavar="CHECKPOINT")]
    out: shared.NewBundle
    attributes: Annotated[Path | None, Option("of `train attributes`; maps only without", metavar="CHECKPOINT")] = None
    phi: Annotated[Three, Option("weights of confidence, map match and prior", metavar="A,B,C")] = (0.5, 0.5, 0.0)
    precision: Annotated[Literal["float32", "float16"], Option("of the networks")] = "float32"
    no_gradient: Annotated[
        bool,
        Option("leave out the gradient graph, as large as the network, that mask and the gradient methods need"),
    ] = False
    factories: Annotated[
        Repeated,
        Option(
            "a backbone's code that a checkpoint may run, where it is not whymatch's or torchvision's",
            flag="--factory",
            metavar="MODULE:FACTORY",
        ),
    ] = ()


def _run(options: ExportOptions) -> int:
    find_factories()
    from export.bundling.from_torch import ExportRequest, export_command

    export_command(
        ExportRequest(
            similarity=options.similarity,
            attributes=options.attributes,
            out=options.out,
            phi=options.phi,
            precision=options.precision,
            gradient=not options.no_gradient,
            factories=options.factories,
        )
    )
    return 0


COMMAND = Command(
    "export", ExportOptions, _run, "turn trained checkpoints into a model bundle (needs the extra 'export')"
)
