"""Contenders that take turns, each in a process of its own, so that neither thread pools nor memory mix.

A round runs every one of them once, one of them twice, in a balanced order: ratios are taken inside of a round.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cost import contenders
from benchmarks.cost.contenders import Setting
from benchmarks.support.statistics import balanced_orders
from transforms.core.errors import UsageError

WARM_UP = 2
PAUSE = 0.1
"""Seconds between two runs: ONNX Runtime's idle threads spin for a while before they sleep."""

Contender = Callable[[Path, Setting], Callable[[], None]]
"""Sets up and returns what is timed. Made of names of a module alone: it is sent to a process."""
Times = Mapping[str, list[float]]


def take_turns(
    running: Mapping[str, Contender], *, twice: str, again: str, setting: Setting, rounds: int, folder: Path, seed: int
) -> tuple[Times, dict[str, tuple[int, int]]]:
    """Seconds of every run by contender, and each one's memory in bytes: with its libraries loaded, and at its peak.

    The contender ``twice`` runs a second time in each round, under the name ``again``: what the machine's noise is.
    """
    context = multiprocessing.get_context("spawn")
    print("exporting the network ...", flush=True)
    exporter = context.Process(target=contenders.prepare, args=(folder, setting))
    exporter.start()
    exporter.join()
    if exporter.exitcode:
        raise SystemExit(f"the network could not be exported (exit code {exporter.exitcode})")
    workers: dict[str, Connection] = {}
    for name, contender in running.items():
        print(f"setting up: {name} ...", flush=True)
        workers[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, name, contender, folder, setting), daemon=True).start()
        theirs.close()
        _answer(workers[name])
    runs = [*running, again]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number, order in enumerate(balanced_orders(runs, rounds, seed=seed), 1):
        for name in order:
            time.sleep(PAUSE)
            worker = workers[twice if name == again else name]
            worker.send("run")
            times[name].append(_answer(worker))
        took = ", ".join(f"{name} {times[name][-1]:.2f}" for name in runs)
        print(f"round {number} of {rounds}: {took} s", flush=True)
    memory = {}
    for name, worker in workers.items():
        worker.send("stop")
        memory[name] = _answer(worker)
    return times, memory


def _serve(connection: Connection, name: str, contender: Contender, folder: Path, setting: Setting) -> None:
    """A contender's process: sets up, then times a run whenever it is told to."""
    try:
        _import_libraries(name)
        loaded = _memory("VmRSS")
        run = contender(folder, setting)
        for _ in range(WARM_UP):
            run()
        connection.send(("ready", 0.0))
        while connection.recv() == "run":
            start = time.perf_counter()
            run()
            connection.send(("seconds", time.perf_counter() - start))
        connection.send(("memory", (loaded, _memory("VmHWM"))))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except UsageError as error:
        connection.send(("error", str(error)))
    except Exception:  # the parent says what a child died of
        connection.send(("error", traceback.format_exc()))


def _answer(worker: Connection) -> Any:
    kind, value = worker.recv()
    if kind == "error":
        raise SystemExit(f"a contender failed:\n{value}")
    return value


def _import_libraries(name: str) -> None:
    if name.startswith("torch"):
        import torch  # noqa: F401
    elif name.startswith("whymatch"):
        import transforms.beam.explain_queries  # noqa: F401
    else:
        import onnxruntime  # noqa: F401


def _memory(field: str) -> int:
    """Bytes of this process's memory. VmHWM is its own peak, where getrusage's would begin with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")
