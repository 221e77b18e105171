"""``whymatch evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands import values
from pipeline.commands.common import add_image_root, add_serving, command, say
from pipeline.runs.runners import LOCAL, RUNNERS, profile_of

if TYPE_CHECKING:
    from transforms.evaluating.settings import CascadeStage


def add(commands: Any) -> None:
    parser = command(
        commands,
        "evaluate",
        _run_evaluate,
        "measure a run's explanations: whether its maps show what the network looks at",
        "docs/evaluation.md says what each metric means and when not to trust it. Arguments after -- go to Beam's "
        "runner.",
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("tables", metavar="DIR", help="the --out of the audits; the table metrics is written there")
    what.add_argument("--run-id", help="which run; the one that was started last when left out")
    what.add_argument("--evaluation-id", help="name of this evaluation; the time when left out")
    what.add_argument("--bundle", required=True, help="model bundle that was audited")
    what.add_argument(
        "--metrics",
        type=values.names,
        default=("insertion", "deletion"),
        metavar="NAME,…",
        help="insertion, deletion; pointing, iou, pixel_auc (need regions); removal, average_precision (need "
        "attributes); sanity, shuffled, stranger, seeds, noise (default: insertion,deletion)",
    )
    what.add_argument("--method", type=values.names, default=(), dest="methods", metavar="NAME,…", help="whose maps")
    what.add_argument(
        "--sample", type=float, default=1.0, metavar="RATE", help="share of the queries, drawn whole by a hash"
    )
    what.add_argument("--sampling-seed", type=int, default=0, help="seed of that draw")

    how = parser.add_argument_group("how to measure")
    how.add_argument(
        "--maps",
        choices=("stored", "full"),
        default="stored",
        help="the maps of the table, or maps made again at the size of the network's input",
    )
    how.add_argument(
        "--controls",
        type=values.names,
        default=("random", "centre", "stranger"),
        metavar="NAME,…",
        help="maps that explain nothing, measured beside: random, centre, edges, stranger (another query's map; beside "
        "stored maps only); none for none (default: random,centre,stranger)",
    )
    how.add_argument(
        "--fills",
        type=values.names,
        default=("#ffffff",),
        metavar="FILL,…",
        help="insertion, deletion: what hides pixels: #rrggbb, mean, auto, blur (default: #ffffff)",
    )
    how.add_argument("--noise", type=float, default=5.0, help="noise: its standard deviation, in levels of 255")
    how.add_argument("--stages", type=int, default=6, help="sanity: randomised copies of the network, 3 at least")
    how.add_argument(
        "--scratch", help="sanity: where other runners' workers find these copies; nothing is removed there afterwards"
    )
    how.add_argument("--seed", type=int, default=0, help="seed of what is drawn")

    known = parser.add_argument_group("what is known of the products")
    known.add_argument("--catalogue", help="attributes, and label images in the column regions")
    known.add_argument("--region", help="the region, or attribute column, that a map should find")
    known.add_argument("--legend", help="JSON file that names labels; regions.json beside the catalogue when left out")
    known.add_argument("--tolerance", type=float, default=0.0, help="pointing: pixels that a peak may miss by")
    known.add_argument("--split", help="removal, average_precision: only products of this split of the catalogue")
    known.add_argument(
        "--neighbours", type=int, default=5, help="removal: products that stand for a query without an attribute"
    )
    known.add_argument(
        "--max-distance", type=int, default=0, help="removal: other columns in which these may differ from the query"
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-agreement",
        type=float,
        default=0.5,
        help="sanity: exit with 1 where maps agree more with those of a network half of whose blocks are random",
    )
    limits.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.05,
        help="exit with 1 where more of a method's rows of a metric have no value; those that cannot be judged do not "
        "count",
    )
    limits.add_argument("--max-pixels", type=int, default=64_000_000, help="of an image")
    limits.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of an image file")
    limits.add_argument(
        "--memory-limit", type=values.size_in_bytes, default=6 * 2**30, metavar="SIZE", help="of a worker, such as 4G"
    )

    run = parser.add_argument_group("where to run")
    run.add_argument("--report", metavar="FOLDER", help="summary and pictures of the curves (needs the extra 'report')")
    run.add_argument("--runner", choices=tuple(RUNNERS), default=LOCAL.name, help="Beam runner")
    run.add_argument("--workers", type=int, default=1, help="processes of the local runner")
    run.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    run.add_argument("--shards", type=int, default=8, help="files a table")
    add_image_root(run, "local folder that images may lie in, besides the catalogue's; required for local images")
    run.add_argument("--allow-http", action="store_true", help="let images lie at http(s) addresses of public hosts")
    add_serving(run)


def _run_evaluate(options: argparse.Namespace) -> int:
    from pipeline.evaluation.launch import run
    from pipeline.evaluation.options import EvaluateOptions

    given = {field.name: getattr(options, field.name) for field in fields(EvaluateOptions)}
    given["evaluation_id"] = options.evaluation_id or f"evaluation-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    given["threads"] = options.threads or profile_of(options.runner).threads(options.workers)
    given["image_roots"] = tuple(options.image_roots)
    given["controls"] = () if options.controls == ("none",) else options.controls
    return 0 if run(EvaluateOptions(**given), _cascade, say) else 1


def _cascade(bundle: Path, out: Path, stages: int, seed: int) -> Sequence[CascadeStage]:
    """Randomised copies of a bundle, as the evaluation is told of them."""
    from transforms.core.errors import MissingDependency
    from transforms.evaluating.settings import CascadeStage

    try:
        from export.randomisation.cascade import cascade
    except ImportError as error:
        raise MissingDependency(
            f"sanity randomises the network in its ONNX file, which needs onnx ({error}). Run: pip install onnx"
        ) from None
    made = cascade(bundle, out, stages=stages, seed=seed)
    return [CascadeStage(str(stage.folder), stage.block, stage.depth, judged=not stage.head_only) for stage in made]
