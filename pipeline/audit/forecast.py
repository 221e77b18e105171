"""What an audit will take, before it runs: estimates from the manifest's census, the sample and a short probe.

What is counted is exact; what is estimated is called so. The bytes of a row were measured on runs of 2,000 to 20,000
pairs in shards of 250 to 2,500 rows, those of the launcher as the growth of its resident memory over the same runs: see
the constants.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.options import AuditOptions
from pipeline.audit.probe import Probe
from transforms.core.errors import UsageError
from transforms.core.passes import Passes
from transforms.core.similarity import rows_kept
from transforms.core.statistics.sampling import SamplingDesign, Stratum
from transforms.serving.bundle import Bundle
from transforms.storage import shown
from transforms.storage.addresses import is_local, local_path
from transforms.tables.parquet import ROW_GROUP

_ROW_GROUP_BYTES = 28_000
"""What a row group of explanations takes before it has a row: its many columns have a header each."""
_ROW_BYTES = 100
_KEPT_BYTES = 20
"""A row of explanations, compressed, less its map and attributes; and a column of ``--keep``. Measured: 64."""
_ATTRIBUTE_BYTES = 20
_CELL_BYTES = 4.6
"""A float32 of a map does not compress; with pages and dictionaries it took 15 % more."""
_FILE_BYTES = 3_000
_IMAGE_BYTES = 100
"""A file of the table images, and a row of it."""

_PAIR_MEMORY = 6_000
_EXPLANATION_MEMORY = 10_000
_COPIES = 5
"""What the launcher of the local runner holds of a pair and of an explanation, and how many copies of its vectors.

Resident memory at its peak, one worker, 28 x 28 cells: 2,000 pairs 479 MB, 20,000 pairs 1,015 MB; with maps of one
cell 363 and 633 MB, so 15 kB a pair and 4.7 times the bytes of its map. With a second method, 20,000 pairs and maps of
one cell took 829 MB: 10 kB more for a second explanation. With two workers the launcher took 15 % less.
"""


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What a run will do. Bytes and seconds are estimates, passes are the most that can be, the rest is counted.

    rows, unreadable: of the manifest; those without a query id always fail. strata: with their queries and pairs, in
      the order of their names. column: what the strata are values of, None where there is one.
    passes: forward passes of the sampled pairs, ``gradient_passes`` of them of the gradient; ``early``: it may do with
    fewer.
    read, written: bytes of image files and of tables. seconds: with all workers of the local runner, else of one.
    worker_memory, launcher_memory: bytes; the launcher's where the local runner holds the rows, else None.
    """

    out: str
    runner: str
    workers: int
    rows: int
    unreadable: int
    strata: tuple[Stratum, ...]
    column: str | None
    passes: int
    gradient_passes: int
    early: bool
    probe: Probe
    read: int
    written: int
    seconds: float
    worker_memory: int
    launcher_memory: int | None

    @property
    def queries(self) -> int:
        """Queries of the manifest."""
        return sum(stratum.queries for stratum in self.strata)

    @property
    def sampled_queries(self) -> int:
        """Those that are explained."""
        return sum(stratum.sampled_queries for stratum in self.strata)

    @property
    def pairs(self) -> int:
        """Rows with a readable query id."""
        return sum(stratum.pairs for stratum in self.strata)

    @property
    def sampled_pairs(self) -> int:
        """Those of sampled queries."""
        return sum(stratum.sampled_pairs for stratum in self.strata)


def forecast(
    options: AuditOptions,
    bundle: Bundle,
    design: SamplingDesign,
    passes: Passes,
    probe: Probe,
    *,
    rows: int,
    unreadable: int,
    worker_memory: int,
) -> RunForecast:
    """The forecast of a run; it reads nothing and measures nothing.

    Args:
      options, bundle: of the run. design: its sample. passes: of its explainers.
      probe: what was measured on this machine.
      rows, unreadable: what the census counted. worker_memory: bytes of one worker.
    """
    strata = tuple(design.strata[name] for name in sorted(design.strata))
    queries = sum(stratum.sampled_queries for stratum in strata)
    pairs = sum(stratum.sampled_pairs for stratum in strata)
    sides = options.sides()
    total = passes.most(queries, pairs)
    gradient_passes = passes.gradient_passes_per_query * queries + passes.gradient_passes_per_pair * pairs
    images = queries + pairs
    # every image is loaded to be embedded, and again where it is explained
    loads = images + queries * ("query" in sides) + pairs * ("reference" in sides)
    seconds = (total - gradient_passes) / probe.passes_per_second + loads * probe.seconds_per_image
    if gradient_passes and probe.gradient_passes_per_second:
        seconds += gradient_passes / probe.gradient_passes_per_second
    local = options.profile.here
    explanations = pairs * len(sides) * len(options.methods)
    return RunForecast(
        out=options.out,
        runner=options.runner,
        workers=options.workers,
        rows=rows,
        unreadable=unreadable,
        strata=strata,
        column=design.column,
        passes=total,
        gradient_passes=gradient_passes,
        early=passes.at_most,
        probe=probe,
        read=loads * probe.bytes_per_image,
        written=written_bytes(options, bundle, explanations, images),
        seconds=seconds / (options.workers if local else 1),
        worker_memory=worker_memory,
        launcher_memory=launcher_bytes(options, bundle, pairs) if local else None,
    )


def written_bytes(options: AuditOptions, bundle: Bundle, explanations: int, images: int) -> int:
    """About what the tables of so many explanations and images take."""
    top = min(options.top, len(bundle.vocabulary))
    cells = options.map_size[0] * options.map_size[1]
    row = _ROW_BYTES + _KEPT_BYTES * len(options.keep) + _ATTRIBUTE_BYTES * top + _CELL_BYTES * cells
    groups = max(options.shards, -(-explanations // ROW_GROUP))
    image = _IMAGE_BYTES + 4 * bundle.embedding_size * options.store_embeddings
    return round(groups * _ROW_GROUP_BYTES + explanations * row + options.shards * _FILE_BYTES + images * image)


def launcher_bytes(options: AuditOptions, bundle: Bundle, pairs: int) -> int:
    """About what the launcher of the local runner holds of so many pairs, beyond what it has before the first one.

    It keeps what is grouped in memory: pairs, the vectors of the images that they are compared with, and rows.
    """
    kept = 0
    if options.masked():
        kept = rows_kept(options.reference_masks, len(bundle.conditions), bundle.similarity_function)
    vectors = 4 * bundle.embedding_size * (1 + kept)
    row = _EXPLANATION_MEMORY + _COPIES * 4 * options.map_size[0] * options.map_size[1]
    return pairs * (_PAIR_MEMORY + len(options.sides()) * (_COPIES * vectors + len(options.methods) * row))


@dataclass(frozen=True, slots=True)
class Resources:
    """What the launcher's machine has: ``memory`` and ``disk`` under ``--out`` in bytes, None where that is unknown."""

    memory: int | None
    disk: int | None


def resources_here(out: str, meminfo: Path = Path("/proc/meminfo")) -> Resources:
    """The limits of this machine for tables under ``out``; no disk is known where that is no local folder."""
    return Resources(_available_memory(meminfo), _free_disk(Path(local_path(out))) if is_local(out) else None)


def check_resources(foretold: RunForecast, limits: Resources) -> None:
    """UsageError, which says what to do, where the run cannot end well: it has nothing to explain, or no room."""
    if not foretold.rows:
        raise UsageError("the manifest has no rows; an audit of nothing is no assurance. Check --manifest")
    if not foretold.queries:
        raise UsageError(
            f"none of the {foretold.rows:,} rows of the manifest has a query that can be read; --columns "
            "query=YOURS or query_id=YOURS says which column it stands in"
        )
    if not foretold.sampled_queries:
        raise UsageError(
            f"none of the {foretold.queries:,} queries is in the sample; raise --sample or --budget-passes, or ask for "
            "some of each stratum with --min-queries"
        )
    needed, there = foretold.launcher_memory, limits.memory
    if needed is not None and there is not None and needed > there:
        raise UsageError(
            f"the local runner holds all sampled pairs in memory: {foretold.sampled_pairs:,} of them take about "
            f"{in_words(needed)}, and {in_words(there)} are available here. {_fewer(there / needed)}, take a smaller "
            "--map-size, or take another --runner"
        )
    if limits.disk is not None and foretold.written > limits.disk:
        raise UsageError(
            f"the tables will take about {in_words(foretold.written)}, and {in_words(limits.disk)} are free at "
            f"{shown(foretold.out)}. {_fewer(limits.disk / foretold.written)}, take a smaller --map-size, or choose "
            "another --out"
        )


def _fewer(share: float) -> str:
    return f"Explain at most {max(share, 0):.2%} of these queries with a lower --sample or --budget-passes"


def graph_of(build: Callable[[Any], Any]) -> list[str]:
    """The steps of the Beam pipeline that ``build`` makes, in the order of their making; nothing is run.

    Those within a step follow it, indented by two spaces; what lies deeper is left out.
    """
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from transforms.beam.typed import PipelineVisitor

    steps: list[str] = []

    class Visitor(PipelineVisitor):
        depth = -1  # of the root, which holds all and is no step

        def enter_composite_transform(self, node: Any) -> None:
            self._add(node)
            self.depth += 1

        def leave_composite_transform(self, node: Any) -> None:
            self.depth -= 1

        def visit_transform(self, node: Any) -> None:
            self._add(node)

        def _add(self, node: Any) -> None:
            if 0 <= self.depth <= 1:
                steps.append("  " * self.depth + node.full_label[len(node.parent.full_label) :].lstrip("/"))

    pipeline = beam.Pipeline(runner=FnApiRunner())
    build(pipeline)
    pipeline.visit(Visitor())
    return steps


def in_words(count: int) -> str:
    """``count`` bytes in words, such as "3.4 GiB"."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    value, at = float(count), 0
    while value >= 1023.5 and at < len(units) - 1:
        value, at = value / 1024, at + 1
    return f"{value:,.0f} {units[at]}" if value >= 99.95 or at == 0 else f"{value:.1f} {units[at]}"


def _available_memory(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: sysconf knows less, but it knows something
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _free_disk(folder: Path) -> int | None:
    folder = folder.absolute()
    nearest = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        return shutil.disk_usage(nearest).free
    except OSError:
        return None
