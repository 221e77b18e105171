"""``whymatch check``."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command, say


def add(commands: Any) -> None:
    parser = command(
        commands,
        "check",
        _run_check,
        "compare a bundle's scores with those that were served, and say what would make them fit",
        "`audit` does the same before it explains anything. Exits with 2 where the bundle is not the model that "
        "served, or where nothing could be compared.",
    )
    parser.add_argument("--manifest", required=True, nargs="+", help="CSV, JSONL or Parquet files or globs of pairs")
    parser.add_argument("--bundle", required=True, help="model bundle")
    parser.add_argument("--catalogue", help="resolves ids to images")
    parser.add_argument(
        "--columns", type=values.mapping, default={}, metavar="OURS=YOURS,…", help="such as served_score=similarity"
    )
    add_image_root(parser, "local folder that images may lie in, besides the manifest's and the catalogue's")
    parser.add_argument(
        "--allow-http", action="store_true", help="let the manifest name http(s) addresses of public hosts"
    )
    parser.add_argument(
        "--score-tolerance",
        type=float,
        default=0.01,
        help="largest difference of a score; over 1%% of the pairs may not be further off, where these are three or "
        "more, or all",
    )
    parser.add_argument("--pairs", type=int, default=512, metavar="N", help="pairs with a served score to compare")
    parser.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    parser.add_argument("--max-pixels", type=int, default=64_000_000, help="of an image")
    parser.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of an image file")
    add_serving(parser)


def _run_check(options: argparse.Namespace) -> int:
    from pipeline.audit import check_scores
    from pipeline.audit.options import AuditOptions
    from pipeline.runs import runners

    same = "bundle catalogue columns allow_http score_tolerance batch max_pixels max_bytes device"
    audit = AuditOptions(
        manifest=tuple(options.manifest),
        out="none",
        run_id="check",
        image_roots=tuple(options.image_roots),
        threads=options.threads or runners.default_threads(1),
        **{name: getattr(options, name) for name in same.split()},
    )
    check_scores.check(audit, options.pairs, say)
    return 0
