"""A whole audit, as ``whymatch audit`` runs it."""

from __future__ import annotations

from typing import Any

from pipeline.notebook.run import Run, read_run
from transforms.core.messages import Echo


def audit(*, echo: Echo = print, **options: Any) -> Run:
    """Explains every pair of a manifest, or of a sample of its queries, writes the tables, and returns the run.

    Args:
      echo: is given each line that is said.
      **options: those of ``whymatch audit``, as a config file names and gives them: ``manifest`` (a list of files or
        globs), ``bundle`` and ``out`` at least; ``method=["rise", "decomposition"]``, ``sample=0.05``,
        ``columns={"query_id": "anchor_sku"}`` and so on. ``whymatch audit --help`` has them all.

    Returns:
      The complete run. ``run.accepted`` is False where more pairs failed than ``max_failure_rate`` allows.

    Raises:
      whymatch.UsageError: an option, a file or the bundle is wrong; nothing was explained.
      whymatch.RunError: the run broke.
    """
    from pipeline.audit import launch
    from pipeline.audit.options import AuditOptions
    from pipeline.options.keywords import options_from

    asked = options_from(AuditOptions, options)
    accepted = launch.run(asked, echo)
    return read_run(asked.out, asked.run_id, accepted=accepted)
