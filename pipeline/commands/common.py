"""What the commands share when they run."""

from __future__ import annotations

import os
import sys


def find_factories() -> None:
    """Lets module:factory name a module of the current folder, as `python -m` would."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def say(line: str) -> None:
    """Prints ``line`` at once; when nobody reads any more, the work goes on in silence, and its exit code stands."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # open for the rest of the process
