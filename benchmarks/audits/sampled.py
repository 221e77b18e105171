"""``python -m benchmarks.audits.sampled``: a sample of a real catalogue against all of it, and against the next
month's.

Month 1 is two thirds of the products of ``--catalogue``, month 2 the second and the third: half of the products have
changed. Each month has the recommendations of its own products. All of month 1 is audited, then a stratified sample of
each month, and the sample's estimates are compared with what is true of all. ``--redraws`` other samples are drawn from
the rows of the whole audit. Writes a Markdown table to standard output; steps are kept in ``--out``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.support.steps import Step, Steps
from pipeline.results.sql import query
from pipeline.results.summary.quantities import Quantity
from pipeline.results.summary.summarise import summarise_run
from pipeline.results.summary.sums import Selection, add_up
from pipeline.results.summary.survey import survey
from transforms.core.statistics.bootstrap import Interval
from transforms.core.statistics.collapsed_strata import collapse_strata
from transforms.core.statistics.estimates import Resampling, estimate
from transforms.core.statistics.sampling import position
from transforms.tables import runs

RATE, LEAST, REFERENCES = 0.25, 10, 4
RATES = (
    Quantity("explained"),
    Quantity("unexplained", "attribute_by_chance"),
    Quantity("unexplained", "unreliable_map"),
    Quantity("contradicted_on_reference"),
    Quantity("contradicted_on_query"),
    Quantity("peak_in_border"),
    Quantity("border_over_area"),
    Quantity("background_over_area"),
    Quantity("region_peak", "background"),
    Quantity("first_attribute", "gender=Men"),
)
"""The ten rates that are compared."""


@dataclass(frozen=True)
class Study:
    """Where everything lies; ``stratify`` is the column of the strata."""

    catalogue: Path
    bundle: Path
    out: Path
    masks: int
    stratify: str

    def tables(self, run_id: str) -> Path:
        """The folder of the tables of one audit, made anew as a whole when the audit is."""
        return self.out / f"tables-{run_id}"

    def audits(self) -> None:
        """Makes the months, their recommendations and the three audits."""
        steps = Steps(self.out / "steps", lambda line: print(line, file=sys.stderr, flush=True))
        self._months()
        sample = ("--sample", str(RATE), "--stratify", self.stratify, "--min-queries", str(LEAST))
        for month, run_id, asked in ((1, "whole", sample[2:4]), (1, "sample", sample), (2, "next", sample)):
            catalogue, manifest = self.out / f"month-{month}.csv", self.out / f"pairs-{month}.csv"
            known = ("--catalogue", str(catalogue), "--bundle", str(self.bundle))
            roots = ("--image-root", str(self.catalogue.parent))
            pairs = ("pairs", *known, "--top-k", str(REFERENCES), "--out", str(manifest), *roots)
            recommended = Step(f"pairs-{month}", pairs, manifest, reads=(catalogue,))
            steps.run(recommended)
            audit = (
                "audit",
                "--manifest",
                str(manifest),
                *known,
                "--out",
                str(self.tables(run_id)),
                "--run-id",
                run_id,
                *roots,
            )
            makes = self.tables(run_id)
            steps.run(
                Step(run_id, (*audit, "--masks", str(self.masks), "--workers", "2", *asked), makes, (recommended,))
            )

    def _months(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with self.catalogue.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            row["image"] = str((self.catalogue.parent / row["image"]).resolve())
        third = {row["id"]: int(3 * position(row["id"], 20)) for row in rows}
        for month, thirds in ((1, (0, 1)), (2, (1, 2))):
            with (self.out / f"month-{month}.csv").open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(row for row in rows if third[row["id"]] in thirds)


@dataclass(frozen=True)
class Compared:
    """A rate: what is true of all, what the sample says, and how often other samples' intervals held the truth."""

    quantity: Quantity
    truth: float
    sampled: Interval
    covered: float
    width: float
    naive: float


def compare(study: Study, redraws: int) -> list[Compared]:
    """The ten rates."""
    whole, sample = (runs.find(str(study.tables(run_id)), run_id) for run_id in ("whole", "sample"))
    truth = _truth(study, whole)
    said = {line.quantity: line.interval for line in summarise_run(sample).estimates}
    found = survey(whole)
    sums = add_up(whole, found.units, RATES, Selection("rise", "query"), tolerance=0.01)
    above, below = sums.of(0, len(found.units))
    strata, ids = zip(*found.units, strict=True)
    hits, widths, naive = np.zeros((3, redraws, len(RATES)))
    for seed in range(redraws):
        chosen = _drawn(strata, ids, seed + 1)
        intervals = _estimates(above[chosen], below[chosen], [strata[at] for at in chosen], strata)
        for at, one in enumerate(intervals):
            hits[seed, at], widths[seed, at] = one.low <= truth[at] <= one.high, one.high - one.low
            naive[seed, at] = _naive_covers(above[chosen, at], below[chosen, at], truth[at])
    return [
        Compared(
            quantity,
            float(truth[at]),
            said.get(quantity, Interval(0.0, 0.0, 0.0)),
            float(hits[:, at].mean()),
            float(widths[:, at].mean()),
            float(naive[:, at].mean()),
        )
        for at, quantity in enumerate(RATES)
    ]


def _truth(study: Study, whole: runs.Run) -> np.ndarray:
    """The rates of the whole audit, by their sums: nothing is weighed there."""
    found = survey(whole)
    sums = add_up(whole, found.units, RATES, Selection("rise", "query"), tolerance=0.01)
    above, below = sums.of(0, len(found.units))
    rates: np.ndarray = above.sum(axis=0) / below.sum(axis=0)
    return rates


def _drawn(strata: Sequence[str], ids: Sequence[str], seed: int) -> list[int]:
    """The queries that a sample with that seed keeps: the rate, and the least of each stratum."""
    places = np.array([position(one, seed) for one in ids])
    kept: list[int] = []
    for name in sorted(set(strata)):
        own = np.flatnonzero([one == name for one in strata])
        order = own[np.argsort(places[own])]
        count = max(int((places[own] < RATE).sum()), min(LEAST, len(own)))
        kept += order[:count].tolist()
    return kept


def _estimates(above: np.ndarray, below: np.ndarray, drawn: Sequence[str], strata: Sequence[str]) -> list[Interval]:
    population = {name: strata.count(name) for name in set(strata)}
    sampled = {name: drawn.count(name) for name in set(drawn)}
    merged = collapse_strata(sampled, population)
    weights = merged.weights(sampled, population)
    return estimate(
        above,
        below,
        [merged.names[name] for name in drawn],
        merged.population(population),
        weights=[weights[name] for name in drawn],
        resampling=Resampling(resamples=1000),
    )


def _naive_covers(above: np.ndarray, below: np.ndarray, truth: float) -> bool:
    """Whether an interval over pairs, as if each were an observation of its own, holds the truth."""
    pairs, cases = below.sum(), above.sum()
    rate = cases / pairs
    return bool(abs(rate - truth) <= 1.96 * np.sqrt(rate * (1 - rate) / pairs))


def overlap(study: Study) -> dict[str, int]:
    """How the samples of the two months overlap."""
    sampled = [
        {row["query_id"] for row in query(str(study.tables(run_id)), "SELECT query_id FROM explanations").to_pylist()}
        for run_id in ("sample", "next")
    ]
    months = []
    for month in (1, 2):
        with (study.out / f"month-{month}.csv").open(encoding="utf-8", newline="") as stream:
            months.append({entry["id"]: entry[study.stratify] for entry in csv.DictReader(stream)})
    rates = [
        {row["stratum"]: row["rate"] for row in query(str(study.tables(run_id)), "FROM strata").to_pylist()}
        for run_id in ("sample", "next")
    ]
    shared = months[0].keys() & months[1].keys()
    designed = sum(position(one, 0) < min(rates[0][months[0][one]], rates[1][months[1][one]]) for one in shared)
    found = {"first": len(sampled[0]), "second": len(sampled[1]), "both": len(sampled[0] & sampled[1])}
    return {"products in both": len(shared), **found, "designed": designed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/sampled"))
    parser.add_argument("--masks", type=int, default=128)
    parser.add_argument("--stratify", default="sub_category")
    parser.add_argument("--redraws", type=int, default=200)
    options = parser.parse_args()
    study = Study(options.catalogue.resolve(), options.bundle.resolve(), options.out, options.masks, options.stratify)
    study.audits()
    print(
        "| rate | all | sample of 25 % | holds | other samples that hold it | mean width | interval over pairs holds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in compare(study, options.redraws):
        holds = "yes" if one.sampled.low <= one.truth <= one.sampled.high else "**no**"
        name = one.quantity.name + (f" {one.quantity.value}" if one.quantity.value else "")
        print(
            f"| {name} | {one.truth:.3f} | {one.sampled.text()} | {holds} | {one.covered:.1%} | {one.width:.3f} | "
            f"{one.naive:.1%} |"
        )
    print(overlap(study))


if __name__ == "__main__":
    main()
