"""A study as steps: commands of ``whymatch`` whose results are kept, so that only what changed is done again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from transforms.core.errors import RunError
from transforms.core.messages import Echo
from transforms.core.records import content_id


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: of the step, unique in its study.
      arguments: of ``whymatch``.
      makes: what it writes, a file or a folder, which is removed before the step is done again. A training goes on
        from what it left there when it was killed, so it is not: ``resumes``.
      after: the steps that it reads from.
      begins_as: a folder that ``makes`` begins as a copy of, for a command that changes a bundle.
      reads: files whose content counts, beside the results of ``after``.
    """

    name: str
    arguments: tuple[str, ...]
    makes: Path
    after: tuple[Step, ...] = ()
    resumes: bool = False
    begins_as: Path | None = None
    reads: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Changes when the command changes, or what it reads from."""
        read = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.reads]
        return content_id(*self.arguments, *read, *(step.key for step in self.after), letter="k")


def in_process_of_its_own(arguments: Sequence[str], log: Path) -> int:
    """Runs ``whymatch`` with ``arguments``, what it says goes to ``log``; its exit code."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}
    with log.open("w", encoding="utf-8") as stream:
        return subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, env=environment).returncode


@dataclass(frozen=True)
class Steps:
    """Runs steps and keeps, in ``folder``, what each took; a step that is there with the same key is not run again.

    What the code computes is not part of the key: remove ``folder`` after changing it. ``command`` runs whymatch.
    """

    folder: Path
    echo: Echo = print
    command: Callable[[Sequence[str], Path], int] = in_process_of_its_own

    def run(self, *steps: Step, at_once: int = 1) -> None:
        """Runs ``steps``, ``at_once`` of them side by side; RunError for one that fails, with the end of its log."""
        todo = [step for step in steps if not self._done(step)]
        with ThreadPoolExecutor(at_once) as pool:
            for future in [pool.submit(self._run, step) for step in todo]:
                future.result()

    def seconds(self, step: Step) -> float:
        """What a step that was done took."""
        return float(json.loads(self._stamp(step).read_text(encoding="utf-8"))["seconds"])

    def total(self) -> float:
        """What all steps that were done took, in seconds."""
        stamps = (json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*.json"))
        return sum(float(stamp["seconds"]) for stamp in stamps)

    def _done(self, step: Step) -> bool:
        stamp = self._stamp(step)
        return (
            step.makes.exists() and stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == step.key
        )

    def _run(self, step: Step) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = self.folder / f"{step.name}.begun"
        goes_on = step.resumes and begun.exists() and begun.read_text(encoding="utf-8") == step.key
        if not goes_on:
            if step.makes.is_dir():
                shutil.rmtree(step.makes)
            step.makes.unlink(missing_ok=True)
            if step.begins_as is not None:
                shutil.copytree(step.begins_as, step.makes)
            begun.write_text(step.key, encoding="utf-8")
        self.echo(f"{step.name} …")
        started = time.monotonic()
        log = self.folder / f"{step.name}.log"
        code = self.command([*step.arguments, *["--resume"] * step.resumes], log)
        if code:
            last = log.read_text(encoding="utf-8").splitlines()[-15:] if log.exists() else []
            raise RunError(f"{step.name} ended with {code}; the end of {log}:\n" + "\n".join(last))
        seconds = time.monotonic() - started
        content = {"key": step.key, "seconds": round(seconds, 1), "arguments": step.arguments}
        self._stamp(step).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        begun.unlink()
        self.echo(f"{step.name}: {seconds:.0f} s")

    def _stamp(self, step: Step) -> Path:
        return self.folder / f"{step.name}.json"
