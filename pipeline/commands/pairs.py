"""``whymatch pairs``."""

from __future__ import annotations

from typing import Annotated

from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Names


@dataclass(frozen=True, config=CONFIG)
class PairsOptions(Options):
    """The options of ``whymatch pairs``."""

    catalogue: Annotated[str, Option("CSV, JSONL or Parquet with id and image")]
    bundle: Annotated[str, Option("model bundle")]
    out: Annotated[str, Option("manifest to write: .csv, .jsonl or .parquet")]
    top_k: Annotated[int, Option("references a query")] = 8
    condition: Annotated[
        str | None,
        Option(
            "compare under this condition of the bundle, products of one of its types with those of the other",
            metavar="NAME",
        ),
    ] = None
    similar_by: Annotated[
        Names,
        Option("pair only products that agree in these columns, such as a training's positives", metavar="COLUMN,…"),
    ] = ()
    split: Annotated[str | None, Option("only products of this split of the catalogue")] = None
    queries: Annotated[int | None, Option("how many queries, drawn by a hash of their ids; all when left out")] = None
    seed: Annotated[int, Option("seed of that draw")] = 0
    chunk: Annotated[int, Option("queries searched at once; it bounds memory")] = 256
    batch: shared.Batch = None
    image_roots: shared.BesideTheCatalogue = ()
    allow_http: shared.AllowHttp = False
    device: shared.Device = "auto"
    threads: shared.Threads = None


def _run(options: PairsOptions) -> int:
    from pipeline.inputs.pairs import PairsSettings, make_pairs

    make_pairs(PairsSettings(**vars(options)))
    return 0


COMMAND = Command("pairs", PairsOptions, _run, "write the manifest of what a model would recommend, by exact search")
