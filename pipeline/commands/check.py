"""``whymatch check``."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from pipeline.commands.common import say
from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Columns


@dataclass(frozen=True, config=CONFIG)
class CheckOptions(Options):
    """The options of ``whymatch check``."""

    manifest: shared.Manifest
    bundle: Annotated[str, Option("model bundle")]
    catalogue: Annotated[str | None, Option("resolves ids to images")] = None
    columns: Annotated[Columns, Option("such as served_score=similarity", metavar="OURS=YOURS,…")] = field(
        default_factory=dict
    )
    image_roots: shared.BesideTheManifest = ()
    allow_http: shared.ManifestAllowsHttp = False
    score_tolerance: Annotated[
        FiniteFloat,
        Option(
            "largest difference of a score; over 1% of the pairs may not be further off, where these are three or "
            "more, or all"
        ),
        Field(ge=0),
    ] = 0.01
    pairs: Annotated[int, Option("pairs with a served score to compare", metavar="N")] = 512
    batch: Annotated[shared.Batch, Field(ge=1)] = None
    max_pixels: shared.MaxPixels = 64_000_000
    max_bytes: shared.MaxBytes = 32 * 2**20
    device: shared.Device = "auto"
    threads: Annotated[shared.AtLeastOne, Option(shared.THREADS, left_out=shared.shared_threads)] = 1


def _run(options: CheckOptions) -> int:
    from pipeline.audit.options import AuditOptions
    from pipeline.audit.served import check

    same = {name: value for name, value in vars(options).items() if name != "pairs"}
    check.check(AuditOptions(out="none", run_id="check", **same), options.pairs, say)
    return 0


COMMAND = Command(
    "check",
    CheckOptions,
    _run,
    "compare a bundle's scores with those that were served, and say what would make them fit",
    "`audit` does the same before it explains anything. Exits with 2 where the bundle is not the model that "
    "served, or where nothing could be compared.",
    config=True,
)
