"""``whymatch pairs``."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command


def add(commands: Any) -> None:
    parser = command(
        commands, "pairs", _run_pairs, "write the manifest of what a model would recommend, by exact search"
    )
    parser.add_argument("--catalogue", required=True, help="CSV, JSONL or Parquet with id and image")
    parser.add_argument("--bundle", required=True, help="model bundle")
    parser.add_argument("--out", required=True, help="manifest to write: .csv, .jsonl or .parquet")
    parser.add_argument("--top-k", type=int, default=8, help="references a query")
    parser.add_argument(
        "--condition",
        metavar="NAME",
        help="compare under this condition of the bundle, products of one of its types with those of the other",
    )
    parser.add_argument(
        "--similar-by",
        type=values.names,
        default=(),
        metavar="COLUMN,…",
        help="pair only products that agree in these columns, such as a training's positives",
    )
    parser.add_argument("--split", help="only products of this split of the catalogue")
    parser.add_argument("--queries", type=int, help="how many queries, drawn by a hash of their ids; all when left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw")
    parser.add_argument("--chunk", type=int, default=256, help="queries searched at once; it bounds memory")
    parser.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    add_image_root(parser, "local folder that images may lie in, besides the catalogue's")
    parser.add_argument("--allow-http", action="store_true", help="let images lie at http(s) addresses of public hosts")
    add_serving(parser)


def _run_pairs(options: argparse.Namespace) -> int:
    from pipeline.inputs.pairs import PairsSettings, make_pairs

    names = "catalogue bundle out top_k condition similar_by split queries seed device threads batch chunk image_roots"
    make_pairs(PairsSettings(**{name: getattr(options, name) for name in (*names.split(), "allow_http")}))
    return 0
