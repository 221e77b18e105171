"""``whymatch demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.common import command


def add(commands: Any) -> None:
    parser = command(
        commands,
        "demo",
        _run_demo,
        "draw a catalogue of garments with known ground truth",
        "It comes with a manifest of pairs, region masks, two model bundles, and a planted shortcut: one brand's "
        "photographs carry a badge.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--products", type=int, default=600, help="how many garments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing")


def _run_demo(options: argparse.Namespace) -> int:
    import shutil

    from pipeline import demo

    print(demo.draw(options.out, products=options.products, seed=options.seed))
    for name in demo.BUNDLES:
        shutil.copytree(demo.embedded(name), options.out / "bundles" / name, dirs_exist_ok=True)
        print(f"{options.out / 'bundles' / name}: model bundle, similar = of one {name}")
    return 0
