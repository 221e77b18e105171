"""``whymatch audit``."""

from __future__ import annotations

from pipeline.audit.options import AuditOptions
from pipeline.commands.common import say
from pipeline.options.command_line import Command


def _run(options: AuditOptions) -> int:
    from pipeline.audit import launch

    return 0 if launch.run(options, say) else 1


COMMAND = Command(
    "audit",
    AuditOptions,
    _run,
    "explain every pair of a manifest, or of a sample of its queries, and write the tables",
    config=True,
)
