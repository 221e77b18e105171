"""``whymatch plan``."""

from __future__ import annotations

from pipeline.audit.options import AuditOptions
from pipeline.commands.common import say
from pipeline.options.command_line import Command


def _run(options: AuditOptions) -> int:
    from pipeline.audit import launch

    launch.plan(options, say, graph=True)
    return 0


COMMAND = Command(
    "plan",
    AuditOptions,
    _run,
    "say what an audit would take, and run none: queries, forward passes, time, memory, bytes, steps",
    "Options are those of audit. Reads the manifest, and a few images to see how fast this machine is. Exit code 2 "
    "where the audit would be refused. Whether the bundle is the model that served is for `whymatch check` to say.",
    config=True,
)
