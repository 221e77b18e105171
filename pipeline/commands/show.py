"""``whymatch show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Repeated


@dataclass(frozen=True, config=CONFIG)
class ShowOptions(Options):
    """The options of ``whymatch show``."""

    tables: shared.Tables
    out: Annotated[Path, Option("PNG or JPEG file to write", metavar="PICTURE")]
    run_id: Annotated[str | None, Option("which run; the last when left out")] = None
    where: Annotated[str | None, Option('which explanations, such as "border_share > 0.6"', metavar="SQL")] = None
    count: Annotated[int, Option("how many pairs, of different queries")] = 6
    spread: Annotated[str | None, Option("catalogue column whose values are taken in turn", metavar="COLUMN")] = None
    image_roots: Annotated[
        Repeated,
        Option("local folder that images may lie in; required for local images", flag="--image-root", metavar="FOLDER"),
    ] = ()


def _run(options: ShowOptions) -> int:
    from pipeline.results.pictures.overlay import draw_pairs
    from transforms.storage import Access

    draw_pairs(
        options.tables,
        run_id=options.run_id,
        where=options.where,
        count=options.count,
        spread=options.spread,
        picture=options.out,
        access=Access(roots=options.image_roots),
    )
    return 0


COMMAND = Command(
    "show",
    ShowOptions,
    _run,
    "draw pairs with their saliency maps, from the tables (needs the extra 'sql')",
)
