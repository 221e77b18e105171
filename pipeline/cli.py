"""The console script ``whymatch``.

Exit codes: 0 done, 1 a gate or rate failed, 2 usage or configuration, 3 the run broke.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from pipeline.commands import (
    audit,
    bundle,
    calibrate,
    catalogue,
    check,
    demo,
    erase,
    evaluate,
    export,
    pairs,
    plan,
    priors,
    show,
    sql,
    summary,
    train,
)
from pipeline.options.command_line import add_commands, options_of
from transforms.core.errors import RunError, UsageError

COMMANDS = tuple(
    module.COMMAND
    for module in (
        demo,
        catalogue,
        train,
        export,
        bundle,
        priors,
        calibrate,
        pairs,
        check,
        plan,
        audit,
        evaluate,
        summary,
        sql,
        show,
        erase,
    )
)

DESCRIPTION = (
    "Explains, for every pair of a recommendation catalogue, why an image-similarity model says that they match."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # before numpy loads its BLAS: results must not depend on a thread count nobody set
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, beam_args = _split(given)
    command = None
    try:
        words = build_parser(given).parse_args(given)
        command = words.command
        if beam_args and not command.takes_more:
            raise UsageError("arguments after -- go to Beam's runner; only `audit`, `plan` and `evaluate` take them")
        done: int = command.run(options_of(words, beam_args))
        return done
    except UsageError as error:
        return _complain(error)
    except RunError as error:
        print(f"whymatch: {_safe(error)}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        # whoever read the answer has enough of it; a command that was still at work has not done it
        sys.stderr.close()
        return 0 if command is None or command.name in ("sql", "summary") else 3
    except KeyboardInterrupt:
        print("whymatch: interrupted; nothing of an unfinished run counts", file=sys.stderr)
        return 3
    except Exception:
        # a defect of ours, or a fault of the machine: a traceback may quote an address
        print(f"whymatch: the run broke\n{_redacted(traceback.format_exc())}", file=sys.stderr)
        return 3


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


def _complain(error: UsageError) -> int:
    print(f"whymatch: {_safe(error)}", file=sys.stderr)
    return 2


def _safe(error: Exception) -> str:
    return _redacted(str(error))


def _redacted(text: str) -> str:
    from transforms import storage

    return storage.redact(text)


def build_parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; for ``words`` alone, where they are known."""
    parser = argparse.ArgumentParser(prog="whymatch", description=DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    add_commands(parser, COMMANDS, words)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib import metadata

        print(f"whymatch {metadata.version('whymatch')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
