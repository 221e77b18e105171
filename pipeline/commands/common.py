"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    return parser


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = not isinstance(action.default, (tuple, dict))  # these are told in the option's own words
        if action.default in (None, False, []) or action.required or not told:
            return action.help
        return super()._get_help_string(action)


def add_serving(parser: Any) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="auto", help="cuda fails where it cannot run"
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads a process; the cores shared among workers when left out"
    )


def add_image_root(parser: Any, meaning: str) -> None:
    """The option that lets local images lie in further folders."""
    parser.add_argument("--image-root", action="append", default=[], dest="image_roots", metavar="FOLDER", help=meaning)


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
