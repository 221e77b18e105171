"""What explaining costs beyond bare forward passes: ``python -m benchmarks.cost.overhead``.

Contenders take turns (``benchmarks.cost.turns``), the floor twice in each round. ``benchmarks.cost.contenders`` says
what each of them does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cost import contenders
from benchmarks.cost.contenders import ATTRIBUTES, DIMENSION, SIZE, Setting
from benchmarks.cost.turns import Contender, Times, take_turns
from benchmarks.support.machine import graphics, markdown_table, paragraph, processor, versions, write
from benchmarks.support.statistics import median_of_ratios
from transforms.core.errors import UsageError
from transforms.core.statistics.bootstrap import Interval
from transforms.serving.runtime import resolve_device

CONTENDERS: dict[str, Contender] = {
    "floor": contenders.floor,
    "whymatch, 1 reference": partial(contenders.whymatch, references=1),
    "whymatch, 8 references": partial(contenders.whymatch, references=8),
    "torch loop, 1 reference": partial(contenders.torch_loop, references=1),
    "torch loop, 8 references": partial(contenders.torch_loop, references=8),
}
AGAIN = "floor, again"
RATIOS = (
    ("A/A: the floor against itself", AGAIN, "floor", None),
    ("whymatch, 1 reference / floor", "whymatch, 1 reference", "floor", 1.05),
    ("whymatch, 8 references / 1", "whymatch, 8 references", "whymatch, 1 reference", 1.10),
    ("torch loop / whymatch, 1 reference", "torch loop, 1 reference", "whymatch, 1 reference", None),
    ("torch loop / whymatch, 8 references", "torch loop, 8 references", "whymatch, 8 references", None),
)
"""What is divided by what, and the most that the interval's lower end may be on a CPU."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the table; 1 where a target is missed on a CPU, 2 where the device is not there."""
    options = _parser().parse_args(arguments)
    try:
        resolve_device(options.device)
    except UsageError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    batch = options.batch or (16 if options.device == "cpu" else 256)
    threads = options.threads or len(os.sched_getaffinity(0))
    setting = Setting(options.masks, batch, threads, options.device, options.precision)
    # the children inherit it: a BLAS with threads of its own would take them from the network
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="whymatch-overhead-") as name:
        times, memory = measure(setting, options.rounds, Path(name), options.seed)
    ratios = {label: median_of_ratios(times[above], times[below]) for label, above, below, _ in RATIOS}
    text = report(setting, options.rounds, times, ratios, memory)
    print("\n" + text)
    write(options.out or _default_out(setting), text)
    missed = [label for label, _, _, most in RATIOS if most is not None and ratios[label].low > most]
    return 1 if missed and setting.device == "cpu" else 0


def measure(setting: Setting, rounds: int, folder: Path, seed: int) -> tuple[Times, dict[str, tuple[int, int]]]:
    """Seconds of every run by contender, and each one's memory in bytes: with its libraries loaded, and at its peak."""
    return take_turns(CONTENDERS, twice="floor", again=AGAIN, setting=setting, rounds=rounds, folder=folder, seed=seed)


def report(
    setting: Setting,
    rounds: int,
    times: Times,
    ratios: Mapping[str, Interval],
    memory: Mapping[str, tuple[int, int]],
) -> str:
    """The Markdown page of one measurement."""
    ratio_rows = []
    for label, _, _, most in RATIOS:
        target = "" if most is None else f"{most:.2f}"
        if most is not None and setting.device == "cpu":
            target += ": met" if ratios[label].low <= most else ": missed"
        ratio_rows.append([label, ratios[label].text(), target])
    cost_rows = []
    for name, used in memory.items():
        seconds = float(np.median(times[name]))
        mebibytes = (f"{count / 2**20:,.0f}" for count in used)
        cost_rows.append([name, f"{seconds:.3f}", f"{setting.passes / seconds:,.0f}", *mebibytes])
    machine = processor() if setting.device == "cpu" else f"{graphics()}; {processor()}"
    installed = versions("onnxruntime", "onnxruntime-gpu", "torch", "numpy", "apache-beam")
    what = paragraph(
        f"""EfficientNet-Lite0 at {SIZE[0]} × {SIZE[1]}, embedding of {DIMENSION}; RISE with {setting.masks:,} masks,
        so {setting.passes:,} forward passes an explanation, in batches of {setting.batch}. {rounds} rounds; each
        ratio is the median over rounds of the ratio inside of a round, with its bootstrap 95 % interval."""
    )
    notes = paragraph(
        f"""*Floor*: ONNX Runtime on the network's own ONNX file, without a mask, over as many images, normalised
        beforehand. *whymatch*: from the decoded query to the rows of its pairs, as a worker does it, one pass of an
        attribute network and the ranking of {ATTRIBUTES} attributes among it; the masks are held, the references
        embedded beforehand. *Torch loop*: `image * mask + fill * (1 - mask)`, network, cosines, one product of
        scores and masks; its masks are held too, and the network is in the faster memory format. Memory is of the
        process (VmHWM), each contender in its
        own{"; the GPU's own memory is not in it" if setting.device == "cuda" else ""}."""
    )
    return f"""# What an explanation costs: {setting.device}, {setting.precision}, {setting.threads} CPU threads

{paragraph(f"{machine}. {installed}. {date.today().isoformat()}. Made by")}

    {_command(setting, rounds)}

{what}

{markdown_table(["ratio", "median (95 % interval)", "lower end at most"], ratio_rows)}

{markdown_table(["contender", "seconds (median)", "passes a second", "MiB, libraries loaded", "MiB, peak"], cost_rows)}

{notes}
"""


def _command(setting: Setting, rounds: int) -> str:
    return (
        f"python -m benchmarks.cost.overhead --rounds {rounds} --masks {setting.masks} --batch {setting.batch} "
        f"--threads {setting.threads} --device {setting.device} --precision {setting.precision}"
    )


def _default_out(setting: Setting) -> Path:
    parts = ["overhead", setting.device]
    if setting.precision != "float32":
        parts.append(setting.precision)
    if setting.threads != len(os.sched_getaffinity(0)):
        parts.append(f"{setting.threads}-threads")
    return Path("docs/benchmarks") / f"{'-'.join(parts)}.md"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost.overhead",
        description="Measures what explaining costs beyond bare forward passes, against a floor and a torch loop.",
    )
    parser.add_argument(
        "--rounds", type=int, default=18, help="rounds; a multiple of 6 balances the order (default: 18)"
    )
    parser.add_argument("--masks", type=int, default=500, help="RISE masks of an explanation (default: 500)")
    parser.add_argument("--batch", type=int, help="forward passes at once (default: 16, and 256 on cuda)")
    parser.add_argument("--threads", type=int, help="CPU threads of every contender (default: all cores)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the networks run (default: cpu)"
    )
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the network")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order inside of the rounds")
    parser.add_argument("--out", type=Path, help="Markdown to write (default: docs/benchmarks/overhead-<device>….md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
