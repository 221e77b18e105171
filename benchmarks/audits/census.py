"""What counting a manifest and drawing its sample cost: ``python -m benchmarks.audits.census``.

Manifests of 100,000 and 1,000,000 rows, each step in a process of its own: all of ``whymatch plan``, the census and a
design alone, then the rows as a worker reads and samples them. Memory is the process's peak, which must not grow with
the rows.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks.support.machine import markdown_table, paragraph, processor, versions, write
from transforms.core.records import Pair
from transforms.core.statistics.sampling import SamplingDesign, Stratum
from transforms.inputs import census, manifest
from transforms.inputs.strata import Strata

SIZES = (100_000, 1_000_000)
FORMATS = ("csv", "parquet")
ORDERS = ("neighbours", "shuffled")
STEPS = ("plan", "census", "rows")
PAIRS = 8
"""Pairs of a query, on average."""
STRATA = 20
RATE, MIN_QUERIES, SEED = 0.05, 100, 7
_ROWS_AT_ONCE = 50_000


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audits.census", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of the manifests")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/census.md"))
    parser.add_argument("--measure", nargs=2, metavar=("STEP", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return 0
    found = []
    with tempfile.TemporaryDirectory(prefix="whymatch-benchmark-") as folder:
        for rows in options.sizes:
            for order in ORDERS:
                for kind in FORMATS:
                    file = make(Path(folder) / f"{order}.{kind}", rows, order)
                    for step in STEPS:
                        found.append((rows, order, kind, step, _in_a_process(step, file)))
                        print(*found[-1], flush=True)
                    file.unlink()
    text = report(found)
    print("\n" + text)
    write(options.out, text)
    return 0


def make(file: Path, rows: int, order: str) -> Path:
    """A manifest of ``rows`` pairs whose queries have 1 to 15 references; a query's stratum is one of ``STRATA``."""
    rng = np.random.default_rng(0)
    queries = np.repeat(np.arange(rows), rng.integers(1, 2 * PAIRS, rows))[:rows]
    if order == "shuffled":
        rng.shuffle(queries)
    parts = (_table(queries[start : start + _ROWS_AT_ONCE], rng) for start in range(0, rows, _ROWS_AT_ONCE))
    first = next(parts)
    if file.suffix == ".csv":
        with pa.csv.CSVWriter(file, first.schema) as csv:
            for table in (first, *parts):
                csv.write_table(table)
    else:
        with pa.parquet.ParquetWriter(file, first.schema) as parquet:
            for table in (first, *parts):
                parquet.write_table(table)
    return file


def _table(queries: np.ndarray, rng: np.random.Generator) -> pa.Table:
    references = rng.integers(0, 10**6, len(queries))
    return pa.table(
        {
            "query_id": [f"product-{query:08d}" for query in queries],
            "reference_id": [f"product-{reference:08d}" for reference in references],
            "rank": [str(rank) for rank in rng.integers(0, 50, len(queries))],
            "served_score": [f"{score:.4f}" for score in rng.random(len(queries))],
            "category": [f"category {query * 7919 % STRATA}" for query in queries],
        }
    )


def measure(step: str, file: str) -> dict[str, float]:
    """Seconds of ``step`` by clock and CPU, the process's MiB before it and at its peak, and what was kept."""
    if step != "census":
        import transforms.beam.read_pairs  # noqa: F401  # brings Beam, which a census does not need
    before, start, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    kept = {"plan": _plan, "census": _census, "rows": _rows}[step](file)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "before": before, "peak": _memory("VmHWM"), "kept": kept}


def _plan(file: str) -> int:
    """The exit code of ``whymatch plan``, beside a catalogue of one product and with the embedded bundle."""
    from pipeline import cli, demo

    with tempfile.TemporaryDirectory(prefix="whymatch-benchmark-") as folder, redirect_stdout(io.StringIO()):
        catalogue = Path(folder) / "catalogue.csv"
        catalogue.write_text("id,image\nproduct-00000000,none.jpg\n", encoding="utf-8")
        known = ["--catalogue", str(catalogue), "--bundle", str(demo.embedded("category")), "--out", folder]
        asked = ["--stratify", "category", "--sample", str(RATE), "--min-queries", str(MIN_QUERIES)]
        return cli.main(["plan", "--manifest", file, *known, *asked, "--sampling-seed", str(SEED), "--device", "cpu"])


def _census(file: str) -> int:
    strata = Strata("category")
    with census.take([file], strata=strata, seed=SEED) as counted:
        return sum(stratum.sampled_pairs for stratum in counted.design(RATE, MIN_QUERIES).strata.values())


def _rows(file: str) -> int:
    """The pairs that a worker keeps, by a design that keeps about as many as the census's."""
    from transforms.inputs.sampling import sample

    strata = Strata("category")
    one = Stratum("", queries=20, sampled_queries=1, pairs=20, sampled_pairs=1, rate=RATE)
    names = {f"category {number}": one for number in range(STRATA)}
    design = SamplingDesign(SEED, names, strata.column)
    return sum(isinstance(item, Pair) for item in sample(manifest.read(file, strata=strata), design))


def _in_a_process(step: str, file: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.audits.census", "--measure", step, str(file)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def _memory(field: str) -> float:
    """MiB of this process. Not getrusage's peak, which begins with that of the process that started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def report(found: list[tuple[int, str, str, str, dict[str, float]]]) -> str:
    """The Markdown page of one measurement."""
    says = {"plan": "`whymatch plan`", "census": "census and design", "rows": "reading and sampling"}
    table = markdown_table(
        [
            "rows",
            "rows of a query",
            "format",
            "step",
            "seconds",
            "CPU seconds",
            "rows a CPU second",
            "MiB before",
            "MiB, peak",
        ],
        [
            [
                f"{rows:,}",
                order,
                kind,
                says[step],
                f"{values['seconds']:.1f}",
                f"{values['cpu']:.1f}",
                f"{round(rows / values['cpu'], -2):,.0f}",
                f"{values['before']:.0f}",
                f"{values['peak']:.0f}",
            ]
            for rows, order, kind, step, values in found
        ],
    )
    setting = paragraph(
        f"""Five columns, 1 to 15 pairs a query, {PAIRS} on average, {STRATA} strata; `--sample {RATE} --min-queries
        {MIN_QUERIES}`. Rows of a query are neighbours, or all rows are shuffled. Parquet has row groups of
        {_ROWS_AT_ONCE:,} rows. Each step runs once, in a process of its own."""
    )
    means = paragraph(
        """*whymatch plan*: all of it, with networks and Beam loaded and up to three seconds of probing the network.
        *Census and design*: what the launcher does before a run, once. *Reading and sampling*: what workers do with
        the rows, each of them with some of the manifest's files; rows that are not sampled go no further. *MiB before*:
        the process with its libraries loaded; *peak* is VmHWM. Other work ran beside this, so trust the CPU's seconds
        more than the clock's."""
    )
    return (
        f"# What counting and sampling a manifest cost\n\n{processor()}. {versions('numpy', 'pyarrow')}.\n"
        f"{date.today()}. Made by\n\n    python -m benchmarks.audits.census\n\n{setting}\n\n{table}\n\n{means}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
