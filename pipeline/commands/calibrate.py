"""``whymatch calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.common import add_image_root, add_serving, command
from transforms.core.errors import UsageError


def add(commands: Any) -> None:
    parser = command(
        commands,
        "calibrate",
        _run_calibrate,
        "find how a bundle should weigh confidence, map match and prior when it ranks attributes",
        "It reads the maps of an audit of validation pairs, judges rankings by attribute removal, on queries that they "
        "were not fitted to, and writes the best weights and the scales of the parts into bundle.json.",
    )
    parser.add_argument("--bundle", required=True, type=Path, help="model bundle with attributes, a local folder")
    parser.add_argument("--catalogue", required=True, help="CSV, JSONL or Parquet with id, image and attribute columns")
    parser.add_argument("--tables", required=True, metavar="DIR", help="the --out of the audit")
    parser.add_argument("--run-id", help="which run; the one that was started last when left out")
    parser.add_argument("--split", default="valid", help="only pairs whose query is of this split; all for every pair")
    parser.add_argument("--method", help="whose maps, where the run has several")
    parser.add_argument(
        "--scale",
        choices=("standard", "quantile", "isotonic", "best"),
        default="best",
        help="how each part is put on a common scale; best tries all",
    )
    parser.add_argument(
        "--neighbours", type=int, default=5, help="products that stand for a query without an attribute, 3 at least"
    )
    parser.add_argument(
        "--max-distance", type=int, default=0, help="other columns in which these may differ from the query"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="JSON file for everything that was tried")
    add_image_root(parser, "local folder that images may lie in, besides the catalogue's")
    parser.add_argument("--allow-http", action="store_true", help="let images lie at http(s) addresses of public hosts")
    add_serving(parser)


def _run_calibrate(options: argparse.Namespace) -> int:
    from export.ranking.calibrate import CalibrationRequest, calibrate_command
    from export.ranking.evidence import AuditMaps
    from pipeline.commands.common import say
    from pipeline.runs.runners import default_threads
    from transforms import storage
    from transforms.core.metrics.removal import Removal
    from transforms.serving.models import Serving
    from transforms.storage.addresses import is_local

    for name, least in {"neighbours": Removal.least, "threads": 1, "max_distance": 0}.items():
        if (given := getattr(options, name)) is not None and given < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {given}")
    beside = [storage.resolve("", options.catalogue)] if is_local(options.catalogue) else []
    calibrate_command(
        CalibrationRequest(
            Serving(str(options.bundle), options.device, options.threads or default_threads(1)),
            options.catalogue,
            AuditMaps(options.tables, options.run_id, options.method),
            split=options.split,
            scale=options.scale,
            removal=Removal(options.neighbours, max_distance=options.max_distance),
            record=options.record,
        ),
        access=storage.Access(roots=(*options.image_roots, *beside), allow_http=options.allow_http),
        echo=say,
    )
    return 0
