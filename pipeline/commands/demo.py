"""``whymatch demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options


@dataclass(frozen=True, config=CONFIG)
class DemoOptions(Options):
    """The options of ``whymatch demo``."""

    out: Annotated[Path, Option("folder to write", metavar="OUT", positional=True)]
    products: Annotated[int, Option("how many garments")] = 600
    seed: Annotated[int, Option("seed of the drawing")] = 0


def _run(options: DemoOptions) -> int:
    import shutil

    from pipeline import demo

    print(demo.draw(options.out, products=options.products, seed=options.seed))
    for name in demo.BUNDLES:
        shutil.copytree(demo.embedded(name), options.out / "bundles" / name, dirs_exist_ok=True)
        print(f"{options.out / 'bundles' / name}: model bundle, similar = of one {name}")
    return 0


COMMAND = Command(
    "demo",
    DemoOptions,
    _run,
    "draw a catalogue of garments with known ground truth",
    "It comes with a manifest of pairs, region masks, two model bundles, and a planted shortcut: one brand's "
    "photographs carry a badge.",
)
