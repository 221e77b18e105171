"""``whymatch priors``."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Columns, Repeated


@dataclass(frozen=True, config=CONFIG)
class PriorsOptions(Options):
    """The options of ``whymatch priors``."""

    bundle: shared.RankedBundle
    catalogue: shared.Catalogue
    pairs: Annotated[
        str | None,
        Option(
            "held-out pairs (others are left out); the model's own in the valid split by default", metavar="MANIFEST"
        ),
    ] = None
    columns: Annotated[Columns, Option("other names of the manifest's columns", metavar="OURS=YOURS,…")] = field(
        default_factory=dict
    )
    layer: Annotated[
        str | None,
        Option("value of the similarity graph; the last feature map if left out", metavar="NAME"),
    ] = None
    counter_sets: Annotated[int, Option("concept vectors of an attribute")] = 10
    random_concepts: Annotated[int, Option("random vectors that all are tested against")] = 30
    set_size: Annotated[int, Option("products on each side of a vector, at most")] = 100
    min_count: Annotated[int, Option("products on each side of a vector, at least")] = 10
    alpha: Annotated[float, Option("level of all tests together (Bonferroni)")] = 0.05
    step: Annotated[float, Option("how far activations move, a share of their length")] = 0.003
    among: Annotated[Literal["all", "having"], Option("pairs that count: all, or whose query has it")] = "having"
    queries: Annotated[int, Option("queries of the pairs, at most")] = 200
    top_k: Annotated[int, Option("references a query, where the pairs are the model's own")] = 5
    seed: Annotated[int, Option("seed of all draws")] = 0
    batch: Annotated[shared.Batch, Field(ge=1)] = None
    image_roots: Annotated[
        Repeated,
        Option(
            "local folder that images may lie in, besides the catalogue's and the manifest's",
            flag="--image-root",
            metavar="FOLDER",
        ),
    ] = ()
    allow_http: shared.AllowHttp = False
    device: shared.Device = "auto"
    threads: Annotated[shared.Threads, Field(ge=1)] = None


def _run(options: PriorsOptions) -> int:
    from export.ranking.priors.command import priors_command
    from export.ranking.priors.held_out import ManifestPairs
    from export.ranking.priors.settings import PriorSettings
    from pipeline.commands.common import say
    from pipeline.runs.runners import default_threads
    from transforms import storage
    from transforms.serving.models import Serving

    chosen = "layer counter_sets random_concepts set_size min_count alpha step among queries top_k seed"
    threads = options.threads or default_threads(1)
    priors_command(
        Serving(str(options.bundle), options.device, threads, options.batch),
        options.catalogue,
        pairs=None if options.pairs is None else ManifestPairs(options.pairs, options.columns),
        settings=PriorSettings(**{name: getattr(options, name) for name in chosen.split()}),
        access=storage.Access(roots=options.image_roots, allow_http=options.allow_http),
        echo=say,
    )
    return 0


COMMAND = Command(
    "priors",
    PriorsOptions,
    _run,
    "find how strongly a bundle's similarity follows each attribute (needs the extra 'priors')",
    "Concept activation vectors (TCAV) of training products, tested on held-out pairs; the priors go into bundle.json.",
)
