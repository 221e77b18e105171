"""What an evaluation costs beyond its forward passes: ``python -m benchmarks.evaluation.cost --photographs FOLDER``."""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cost import contenders
from benchmarks.cost.contenders import PASSES_A_PAIR, SIZE, Setting
from benchmarks.cost.turns import Contender, Times, take_turns
from benchmarks.support.machine import markdown_table, paragraph, processor, versions, write
from benchmarks.support.statistics import median_of_ratios
from transforms.core.statistics.bootstrap import Interval

MOST = 1.10
"""What the lower end of the ratio's interval may be at most."""
AGAIN = "floor, again"


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the page; 1 where the target is missed."""
    options = _parser().parse_args(arguments)
    rounds, pairs = options.rounds, options.pairs
    # as many passes as a run of the evaluation makes; the floor's setting counts one unmasked pass of its own
    setting = Setting(pairs * PASSES_A_PAIR - 1, threads=options.threads or len(os.sched_getaffinity(0)))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    running: dict[str, Contender] = {
        "floor": contenders.floor,
        "evaluation": partial(
            contenders.evaluation, photographs=options.photographs.resolve(), pairs=pairs, all_pairs=rounds * pairs
        ),
    }
    with tempfile.TemporaryDirectory(prefix="whymatch-evaluation-") as name:
        times, memory = take_turns(
            running, twice="floor", again=AGAIN, setting=setting, rounds=rounds, folder=Path(name), seed=options.seed
        )
    ratio = median_of_ratios(times["evaluation"], times["floor"])
    text = report(setting, rounds, pairs, times, ratio, memory)
    print("\n" + text)
    write(options.out, text)
    return 1 if ratio.low > MOST else 0


def report(
    setting: Setting, rounds: int, pairs: int, times: Times, ratio: Interval, memory: dict[str, tuple[int, int]]
) -> str:
    """The Markdown page of one measurement."""
    same = median_of_ratios(times[AGAIN], times["floor"])
    target = f"{MOST:.2f}: {'met' if ratio.low <= MOST else 'missed'}"
    ratios = [["A/A: the floor against itself", same.text(), ""], ["evaluation / floor", ratio.text(), target]]
    costs = [
        [
            name,
            f"{np.median(times[name]):.3f}",
            f"{setting.passes / np.median(times[name]):,.0f}",
            f"{used[1] / 2**20:,.0f}",
        ]
        for name, used in memory.items()
    ]
    whole = float(np.sum(times["evaluation"]))
    what = paragraph(
        f"""EfficientNet-Lite0 at {SIZE[0]} × {SIZE[1]}; insertion and deletion of {pairs * rounds:,} pairs of real
        photographs, {pairs} a run, {setting.passes:,} forward passes, in batches of {setting.batch}. {rounds} rounds;
        each ratio is the median over rounds of the ratio inside of a round, with its bootstrap 95 % interval. All
        {pairs * rounds:,} pairs took {whole:.0f} s."""
    )
    notes = paragraph(
        """*Floor*: ONNX Runtime on the network's own ONNX file, without a mask, over as many images, normalised
        beforehand. *Evaluation*: as a worker does it, from the image files of query and reference to the rows of the
        table metrics: decoding, the check that the images are those that were audited, the order of the pixels, 202
        masks, similarities and curves. Nothing of it is prepared beforehand but the sessions."""
    )
    installed = versions("onnxruntime", "onnxruntime-gpu", "numpy")
    return f"""# What an evaluation costs: {setting.device}, {setting.threads} CPU threads

{paragraph(f"{processor()}. {installed}. {date.today().isoformat()}. Made by")}

    python -m benchmarks.evaluation.cost --photographs FOLDER --rounds {rounds} --pairs {pairs}

{what}

{markdown_table(["ratio", "median (95 % interval)", "lower end at most"], ratios)}

{markdown_table(["contender", "seconds (median)", "passes a second", "MiB, peak"], costs)}

{notes}
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation.cost", description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of image files")
    parser.add_argument("--rounds", type=int, default=40, help="rounds (default: 40)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs a round (default: 5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order inside of the rounds")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks/evaluation-cost.md"), help="Markdown to write"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
