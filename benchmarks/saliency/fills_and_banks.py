"""What two defaults rest on, measured on real photographs: ``python -m benchmarks.saliency.fills_and_banks --help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.saliency import banks, fills
from benchmarks.support.machine import paragraph, processor, versions, write
from benchmarks.support.photographs import Photographs, load, require
from transforms.core.errors import UsageError
from transforms.core.imaging.fill import check_fill
from transforms.serving import bundle as bundles

ALIKE = 8.0
"""Grey levels: a colour closer than this to the normalisation's mean is not measured beside it."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the tables; 2 where the input is not there."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = _parser().parse_args(arguments)
    start = time.monotonic()
    try:
        require(options.bundle, options.manifest, options.catalogue)
        chosen, dropped = _distinct(options.fills, bundles.read(options.bundle).fill_mean)
        photographs = load(
            options.bundle,
            options.manifest,
            options.catalogue,
            queries=max(options.queries, options.fill_queries),
            references=options.references,
            masks=options.masks,
            threads=options.threads or len(os.sched_getaffinity(0)),
            batch=16,
        )
    except UsageError as error:
        print(f"fills_and_banks: {error}", file=sys.stderr)
        return 2
    print(f"{len(photographs.embeddings)} photographs embedded in {time.monotonic() - start:.0f} s", flush=True)
    fill_section = fills.report(photographs, fills.measure_fills(photographs, chosen, queries=options.fill_queries))
    print("\n" + fill_section)
    bank_section = banks.report(
        photographs, banks.explain_with_banks(photographs, banks=options.banks, fill=options.fill)
    )
    print("\n" + bank_section)
    write(options.out, _page(options, photographs, fill_section + dropped, bank_section, time.monotonic() - start))
    return 0


def _distinct(asked: str, mean: tuple[float, float, float]) -> tuple[tuple[str, ...], str]:
    """The fills to measure, and a word on those that would repeat "mean"."""
    kept: list[str] = []
    dropped: list[str] = []
    for fill in (check_fill(name) for name in asked.split(",")):
        colour = np.array([int(fill[at : at + 2], 16) for at in (1, 3, 5)]) if fill.startswith("#") else None
        alike = colour is not None and "mean" in asked.split(",") and np.abs(colour - mean).max() < ALIKE
        (dropped if alike else kept).append(fill)
    return tuple(kept), f"\n{', '.join(dropped)} is left out: it is this network's mean colour.\n" if dropped else ""


def _page(
    options: argparse.Namespace, photographs: Photographs, fill_section: str, bank_section: str, seconds: float
) -> str:
    what = f"""{len(photographs.embeddings):,} product photographs, {photographs.size[0]} × {photographs.size[1]}.
        {processor()}. {versions("onnxruntime", "numpy")}. {date.today().isoformat()}. {photographs.passes:,} forward
        passes in {seconds / 60:.1f} minutes. Made by"""
    flags = " ".join(
        f"--{name} {getattr(options, name.replace('-', '_'))}"
        for name in ("fill-queries", "queries", "references", "masks", "banks", "fill")
    )
    return f"""# Fills and mask banks, on real photographs

{paragraph(what)}

    python -m benchmarks.saliency.fills_and_banks --bundle BUNDLE --manifest PAIRS --catalogue CATALOGUE \\
        {flags}

{fill_section}
{bank_section}"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saliency.fills_and_banks",
        description="Measures which fill should be the default, and whether sharing a mask bank biases heat maps.",
    )
    parser.add_argument("--bundle", required=True, help="model bundle, as `make fashion` makes one")
    parser.add_argument("--manifest", required=True, help="pairs, as `whymatch pairs` writes them")
    parser.add_argument("--catalogue", required=True, help="catalogue of the photographs")
    parser.add_argument(
        "--fills", default="mean,auto,blur,#808080,#ffffff", help="fills to compare (default: %(default)s)"
    )
    parser.add_argument("--fill", default="auto", help="fill of the measurement of banks (default: auto)")
    parser.add_argument("--fill-queries", type=int, default=60, help="queries for the fills (default: 60)")
    parser.add_argument("--queries", type=int, default=150, help="queries for the banks (default: 150)")
    parser.add_argument("--references", type=int, default=4, help="references of each query (default: 4)")
    parser.add_argument("--masks", type=int, default=500, help="RISE masks (default: 500)")
    parser.add_argument("--banks", type=int, default=4, help="independent banks, at least 2 (default: 4)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks/fills-and-banks.md"), help="Markdown to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
