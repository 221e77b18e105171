"""``whymatch plan``."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.audit import add_options, options_of
from pipeline.commands.common import command, say


def add(commands: Any) -> None:
    parser = command(
        commands,
        "plan",
        _run_plan,
        "say what an audit would take, and run none: queries, forward passes, time, memory, bytes, steps",
        "Options are those of audit. Reads the manifest, and a few images to see how fast this machine is. Exit code 2 "
        "where the audit would be refused. Whether the bundle is the model that served is for `whymatch check` to say.",
    )
    add_options(parser)


def _run_plan(options: argparse.Namespace) -> int:
    from pipeline.audit import launch

    launch.plan(options_of(options), say, graph=True)
    return 0
