"""New interpreters in which packages are absent."""

from __future__ import annotations

import subprocess
import sys


def run_without(packages: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a new interpreter in which ``packages`` cannot be imported."""
    blocker = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages!r}: raise ImportError('absent: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", blocker + code], capture_output=True, text=True, timeout=120, check=False
    )
