"""``whymatch priors``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command
from transforms.core.errors import UsageError


def add(commands: Any) -> None:
    parser = command(
        commands,
        "priors",
        _run_priors,
        "find how strongly a bundle's similarity follows each attribute (needs the extra 'priors')",
        "Concept activation vectors (TCAV) of training products, tested on held-out pairs; the priors go into "
        "bundle.json.",
    )
    parser.add_argument("--bundle", required=True, type=Path, help="model bundle with attributes, a local folder")
    parser.add_argument("--catalogue", required=True, help="CSV, JSONL or Parquet with id, image and attribute columns")
    parser.add_argument(
        "--pairs",
        metavar="MANIFEST",
        help="held-out pairs (others are left out); the model's own in the valid split by default",
    )
    parser.add_argument(
        "--columns",
        type=values.mapping,
        default={},
        metavar="OURS=YOURS,…",
        help="other names of the manifest's columns",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="value of the similarity graph; the last feature map if left out"
    )
    parser.add_argument("--counter-sets", type=int, default=10, help="concept vectors of an attribute")
    parser.add_argument("--random-concepts", type=int, default=30, help="random vectors that all are tested against")
    parser.add_argument("--set-size", type=int, default=100, help="products on each side of a vector, at most")
    parser.add_argument("--min-count", type=int, default=10, help="products on each side of a vector, at least")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of all tests together (Bonferroni)")
    parser.add_argument("--step", type=float, default=0.003, help="how far activations move, a share of their length")
    parser.add_argument(
        "--among", choices=("all", "having"), default="having", help="pairs that count: all, or whose query has it"
    )
    parser.add_argument("--queries", type=int, default=200, help="queries of the pairs, at most")
    parser.add_argument("--top-k", type=int, default=5, help="references a query, where the pairs are the model's own")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws")
    parser.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    add_image_root(parser, "local folder that images may lie in, besides the catalogue's and the manifest's")
    parser.add_argument("--allow-http", action="store_true", help="let images lie at http(s) addresses of public hosts")
    add_serving(parser)


def _run_priors(options: argparse.Namespace) -> int:
    from export.ranking.priors.command import priors_command
    from export.ranking.priors.held_out import ManifestPairs
    from export.ranking.priors.settings import PriorSettings
    from pipeline.commands.common import say
    from pipeline.runs.runners import default_threads
    from transforms import storage
    from transforms.serving.models import Serving

    for name in ("threads", "batch"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise UsageError(f"--{name} must be at least 1, not {given}")
    chosen = "layer counter_sets random_concepts set_size min_count alpha step among queries top_k seed"
    threads = options.threads or default_threads(1)
    priors_command(
        Serving(str(options.bundle), options.device, threads, options.batch),
        options.catalogue,
        pairs=None if options.pairs is None else ManifestPairs(options.pairs, options.columns),
        settings=PriorSettings(**{name: getattr(options, name) for name in chosen.split()}),
        access=storage.Access(roots=tuple(options.image_roots), allow_http=options.allow_http),
        echo=say,
    )
    return 0
