"""``whymatch calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options


@dataclass(frozen=True, config=CONFIG)
class CalibrateOptions(Options):
    """The options of ``whymatch calibrate``."""

    bundle: shared.RankedBundle
    catalogue: shared.Catalogue
    tables: Annotated[str, Option("the --out of the audit", metavar="DIR")]
    run_id: shared.WhichRun = None
    split: Annotated[str, Option("only pairs whose query is of this split; all for every pair")] = "valid"
    method: Annotated[str | None, Option("whose maps, where the run has several")] = None
    scale: Annotated[
        Literal["standard", "quantile", "isotonic", "best"],
        Option("how each part is put on a common scale; best tries all"),
    ] = "best"
    neighbours: Annotated[
        int, Option("products that stand for a query without an attribute, 3 at least"), Field(ge=3)
    ] = 5
    max_distance: Annotated[shared.NotNegative, Option("other columns in which these may differ from the query")] = 0
    record: Annotated[Path | None, Option("JSON file for everything that was tried", metavar="FILE")] = None
    image_roots: shared.BesideTheCatalogue = ()
    allow_http: shared.AllowHttp = False
    device: shared.Device = "auto"
    threads: Annotated[shared.Threads, Field(ge=1)] = None


def _run(options: CalibrateOptions) -> int:
    from export.ranking.calibrate import CalibrationRequest, calibrate_command
    from export.ranking.evidence import AuditMaps
    from pipeline.commands.common import say
    from pipeline.runs.runners import default_threads
    from transforms import storage
    from transforms.core.metrics.removal import Removal
    from transforms.serving.models import Serving
    from transforms.storage.addresses import is_local

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


COMMAND = Command(
    "calibrate",
    CalibrateOptions,
    _run,
    "find how a bundle should weigh confidence, map match and prior when it ranks attributes",
    "It reads the maps of an audit of validation pairs, judges rankings by attribute removal, on queries that they "
    "were not fitted to, and writes the best weights and the scales of the parts into bundle.json.",
)
