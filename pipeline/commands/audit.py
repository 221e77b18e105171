"""``whymatch audit``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command, say


def add(commands: Any) -> None:
    from transforms.core.saliency.methods import METHODS, RiseMethod

    parser = command(
        commands,
        "audit",
        _run_audit,
        "explain every pair of a manifest and write the tables",
        "Arguments after -- go to Beam's runner.",
    )
    data = parser.add_argument_group("what to explain")
    data.add_argument("--manifest", required=True, nargs="+", help="CSV, JSONL or Parquet files or globs of pairs")
    data.add_argument("--bundle", required=True, help="model bundle")
    data.add_argument("--out", required=True, help="folder of the tables; many runs share one")
    data.add_argument("--run-id", help="name of this run; the time when left out")
    data.add_argument("--period", help="what the manifest covers, such as 2026-10; goes into the table runs")
    data.add_argument("--catalogue", help="resolves ids to images, and says which attributes a product has")
    data.add_argument(
        "--columns", type=values.mapping, default={}, metavar="OURS=YOURS,…", help="such as query_id=anchor_sku"
    )
    data.add_argument(
        "--keep", type=values.names, default=(), metavar="COLUMN,…", help="manifest columns to keep, as JSON in `extra`"
    )
    add_image_root(data, "local folder that images may lie in, besides the manifest's and the catalogue's")
    data.add_argument(
        "--allow-http", action="store_true", help="let the manifest name http(s) addresses of public hosts"
    )

    how = parser.add_argument_group("how to explain")
    how.add_argument(
        "--method",
        type=values.names,
        default=("rise",),
        dest="methods",
        metavar="NAME,…",
        help=f"saliency methods, a row each: {', '.join(METHODS)} (default: rise)",
    )
    how.add_argument("--masks", type=int, help=f"RISE: masks an image (default: {RiseMethod.masks})")
    how.add_argument(
        "--sampling",
        choices=("independent", "sobol", "hadamard"),
        help=f"RISE: how masks are drawn (default: {RiseMethod.sampling})",
    )
    how.add_argument(
        "--converge",
        type=float,
        metavar="R",
        help="RISE: stop where two halves of the masks give maps that correlate R, for all references of the image",
    )
    how.add_argument(
        "--set",
        action="append",
        default=[],
        type=values.setting,
        dest="settings",
        metavar="METHOD.PARAMETER=VALUE",
        help="any other parameter of a method; docs/methods.md has them all",
    )
    how.add_argument(
        "--explain", choices=("query", "reference", "both"), default="query", help="which of a pair's images"
    )
    how.add_argument(
        "--perturb",
        choices=("query", "both"),
        default="query",
        help="the explained image only, or the one that it is compared with too",
    )
    how.add_argument(
        "--reference-masks", type=int, default=30, help="with --perturb both: masked versions of the other image"
    )
    how.add_argument(
        "--fill",
        help="what hides a pixel: auto (the image's border colour), mean, blur, #rrggbb (default: auto; blur for mask)",
    )
    how.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    how.add_argument("--top", type=int, default=5, help="attributes kept a pair")
    how.add_argument(
        "--map-size", type=values.size, default=(28, 28), metavar="HxW", help="size of the stored maps (default: 28x28)"
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-failure-rate", type=float, default=0.05, help="exit with 1 where more pairs fail")
    limits.add_argument("--max-pixels", type=int, default=64_000_000, help="of an image")
    limits.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of an image file")
    limits.add_argument(
        "--memory-limit", type=values.size_in_bytes, default=6 * 2**30, metavar="SIZE", help="of a worker, such as 4G"
    )

    run = parser.add_argument_group("where to run")
    run.add_argument("--runner", choices=("local", "spark", "flink", "dataflow"), default="local", help="Beam runner")
    run.add_argument("--workers", type=int, default=1, help="processes of the local runner")
    run.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    run.add_argument("--shards", type=int, default=8, help="files a table")
    run.add_argument("--store-embeddings", action="store_true", help="keep embeddings in the table images")
    add_serving(run)


def _run_audit(options: argparse.Namespace) -> int:
    from pipeline import launch
    from pipeline.options import AuditOptions

    given = {field.name: getattr(options, field.name) for field in fields(AuditOptions)}
    given["run_id"] = options.run_id or f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    given["threads"] = options.threads or launch.default_threads(options.workers, options.runner)
    given["manifest"] = tuple(options.manifest)
    given["settings"] = values.once(options.settings)
    given["image_roots"] = tuple(options.image_roots)
    return 0 if launch.run(AuditOptions(**given), say) else 1
