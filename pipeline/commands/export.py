"""``whymatch export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import command, find_factories


def add(commands: Any) -> None:
    parser = command(
        commands, "export", _run_export, "turn trained checkpoints into a model bundle (needs the extra 'export')"
    )
    parser.add_argument("--similarity", required=True, type=Path, metavar="CHECKPOINT", help="of `train similarity`")
    parser.add_argument(
        "--attributes", type=Path, metavar="CHECKPOINT", help="of `train attributes`; maps only without"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    parser.add_argument(
        "--phi",
        type=values.three,
        default=(0.5, 0.5, 0.0),
        metavar="A,B,C",
        help="weights of confidence, map match and prior (default: 0.5,0.5,0)",
    )
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the networks")
    parser.add_argument(
        "--no-gradient",
        dest="gradient",
        action="store_false",
        help="leave out the gradient graph, as large as the network, that mask and the gradient methods need",
    )
    parser.add_argument(
        "--factory",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a backbone's code that a checkpoint may run, where it is not whymatch's or torchvision's",
    )


def _run_export(options: argparse.Namespace) -> int:
    find_factories()
    from export.bundling.from_torch import ExportRequest, export_command

    export_command(
        ExportRequest(
            similarity=options.similarity,
            attributes=options.attributes,
            out=options.out,
            phi=options.phi,
            precision=options.precision,
            gradient=options.gradient,
            factories=options.factory,
        )
    )
    return 0
