"""``whymatch show``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.common import add_image_root, command


def add(commands: Any) -> None:
    parser = command(
        commands, "show", _run_show, "draw pairs with their saliency maps, from the tables (needs the extra 'sql')"
    )
    parser.add_argument("tables", metavar="DIR", help="the --out of the audits")
    parser.add_argument("--out", required=True, type=Path, metavar="PICTURE", help="PNG or JPEG file to write")
    parser.add_argument("--run-id", help="which run; the last when left out")
    parser.add_argument("--where", metavar="SQL", help='which explanations, such as "border_share > 0.6"')
    parser.add_argument("--count", type=int, default=6, help="how many pairs, of different queries")
    parser.add_argument("--spread", metavar="COLUMN", help="catalogue column whose values are taken in turn")
    add_image_root(parser, "local folder that images may lie in; required for local images")


def _run_show(options: argparse.Namespace) -> int:
    from pipeline.results.pictures.overlay import draw_pairs
    from transforms.storage import Access

    draw_pairs(
        options.tables,
        run_id=options.run_id,
        where=options.where,
        count=options.count,
        spread=options.spread,
        picture=options.out,
        access=Access(roots=tuple(options.image_roots)),
    )
    return 0
