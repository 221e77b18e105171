"""``whymatch audit``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command, say
from pipeline.runs.runners import LOCAL, RUNNERS, profile_of

if TYPE_CHECKING:
    from pipeline.audit.options import AuditOptions


def add(commands: Any) -> None:
    parser = command(
        commands,
        "audit",
        _run_audit,
        "explain every pair of a manifest, or of a sample of its queries, and write the tables",
        "Arguments after -- go to Beam's runner.",
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an audit, which ``plan`` has too."""
    from transforms.core.saliency.methods import METHODS, RiseMethod

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

    sampling = parser.add_argument_group("which queries")
    sampling.add_argument(
        "--sample", type=float, default=1.0, metavar="RATE", help="share of the queries, drawn whole by a hash"
    )
    sampling.add_argument("--sampling-seed", type=int, default=0, help="seed of that draw; keep it from month to month")
    sampling.add_argument(
        "--stratify", metavar="COLUMN", help="draw by the values of this column of the manifest, or of the catalogue"
    )
    sampling.add_argument(
        "--min-queries", type=int, default=0, metavar="N", help="queries of each stratum at least, where it has them"
    )
    sampling.add_argument(
        "--budget-passes", type=int, metavar="N", help="lower the rate until so many forward passes are enough"
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
    how.add_argument(
        "--contrast",
        action="store_true",
        help="explain the similarity less its mean over 64 random references: what is particular to the pair",
    )
    how.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.05,
        metavar="RATE",
        help="share of shuffled pairs that may be called explained; it sets what `explained` asks for",
    )
    how.add_argument(
        "--legend",
        help="JSON file that names the labels of label images; regions.json beside the catalogue when left out",
    )
    how.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    how.add_argument("--top", type=int, default=5, help="attributes kept a pair")
    how.add_argument(
        "--map-size", type=values.size, default=(28, 28), metavar="HxW", help="size of the stored maps (default: 28x28)"
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.05,
        help="exit with 1 where more pairs fail, of the catalogue as estimated, or of a stratum's sampled pairs; of "
        "fewer than 20 of these two at least must fail",
    )
    limits.add_argument(
        "--score-tolerance",
        type=float,
        default=0.01,
        help="exit with 2 before anything is explained where over 1%% of the first 512 served scores, and three "
        "at least or all, are further off",
    )
    limits.add_argument("--max-pixels", type=int, default=64_000_000, help="of an image")
    limits.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of an image file")
    limits.add_argument(
        "--memory-limit", type=values.size_in_bytes, default=6 * 2**30, metavar="SIZE", help="of a worker, such as 4G"
    )

    run = parser.add_argument_group("where to run")
    run.add_argument("--runner", choices=tuple(RUNNERS), default=LOCAL.name, help="Beam runner")
    run.add_argument("--workers", type=int, default=1, help="processes of the local runner")
    run.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    run.add_argument("--shards", type=int, default=8, help="files a table")
    run.add_argument("--store-embeddings", action="store_true", help="keep embeddings in the table images")
    add_serving(run)


def _run_audit(options: argparse.Namespace) -> int:
    from pipeline.audit import launch

    return 0 if launch.run(options_of(options), say) else 1


def options_of(options: argparse.Namespace) -> AuditOptions:
    """The options of an audit as the command line gives them."""
    from pipeline.audit.options import AuditOptions

    given = {field.name: getattr(options, field.name) for field in fields(AuditOptions)}
    given["run_id"] = options.run_id or f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    given["threads"] = options.threads or profile_of(options.runner).threads(options.workers)
    given["manifest"] = tuple(options.manifest)
    given["settings"] = values.once(options.settings)
    given["image_roots"] = tuple(options.image_roots)
    return AuditOptions(**given)
