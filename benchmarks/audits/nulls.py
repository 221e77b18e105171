"""``python -m benchmarks.audits.nulls``: does an audit say where there is no explanation? Prints
docs/benchmarks/nulls.md.

The drawn catalogue plants a shortcut, a badge on one brand's photographs. A network that was trained on brands matches
by the badge, of which no attribute of the vocabulary tells; one that was trained on categories matches by the garment.
Both are audited with the same attribute network, on the pairs that each would recommend, and on shuffled pairs.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.steps import Step, Steps
from pipeline import demo
from pipeline.results.sql import query

NETWORKS = ("category", "brand")
BADGE = "badge"
REFERENCES, SHUFFLED = 4, 8
GROUPS = {
    "all": "true",
    "alike": "of_query = of_reference",
    "badge on both": "badged",
    "different": "of_query <> of_reference",
    "less similar": "less_similar",
}
"""Pairs whose products share what the network knows, or both carry the badge; of a query's pairs the half that is less
similar than their median."""


@dataclass(frozen=True)
class Audit:
    """A run of the study: its network, its manifest, and whether the catalogue gives regions."""

    network: str
    manifest: str
    regions: bool

    @property
    def id(self) -> str:
        return f"{self.network}-{self.manifest}-{'regions' if self.regions else 'plain'}"


AUDITS = tuple(
    Audit(network, manifest, regions)
    for network in NETWORKS
    for manifest, regions in (("recommended", False), ("recommended", True), ("shuffled", False))
)


def run(out: Path, masks: int) -> list[dict[str, Any]]:
    """Draws, pairs and audits; one record for each audit."""
    steps = Steps(out / "steps")
    drawn = Step("draw", ("demo", str(out / "demo")), out / "demo")
    steps.run(drawn)
    catalogue, plain = out / "demo" / "catalogue.csv", out / "demo" / "plain.csv"
    _without_regions(catalogue, plain)
    found = []
    for network in NETWORKS:
        bundle = assembled(network, out / f"bundle-{network}")
        recommended = out / f"recommended-{network}.csv"
        ask = (
            "pairs",
            "--catalogue",
            str(plain),
            "--bundle",
            str(bundle),
            "--split",
            "test",
            "--out",
            str(recommended),
        )
        steps.run(Step(f"pairs-{network}", (*ask, "--top-k", str(REFERENCES)), recommended, (drawn,)))
        shuffled = out / "demo" / "shuffled.csv"
        _shuffle(plain, shuffled)
        for audit in AUDITS:
            if audit.network != network:
                continue
            manifest = recommended if audit.manifest == "recommended" else shuffled
            tables = out / f"tables-{audit.id}"
            options = ("--catalogue", str(catalogue if audit.regions else plain), "--masks", str(masks))
            arguments = ("audit", "--manifest", str(manifest), "--bundle", str(bundle), "--out", str(tables), *options)
            steps.run(Step(audit.id, (*arguments, "--run-id", audit.id), tables, (drawn,)))
            found.append({"audit": audit, **shares(tables, audit)})
    return found


def assembled(network: str, folder: Path) -> Path:
    """The embedded bundle of ``network``, in ``folder``, with the attribute network of the other one if it has none."""
    source, other = Path(demo.embedded(network)), Path(demo.embedded("category"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    content, known = (json.loads((one / "bundle.json").read_text(encoding="utf-8")) for one in (source, other))
    if content["attributes"] is None:
        shutil.copy(other / "attributes.onnx", folder)
        for name in ("attributes", "vocabulary", "priors", "phi", "scales"):
            if name in known:
                content[name] = known[name]
        (folder / "bundle.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def _without_regions(catalogue: Path, out: Path) -> None:
    with catalogue.open(encoding="utf-8", newline="") as stream:
        rows = [{name: cell for name, cell in row.items() if name != "regions"} for row in csv.DictReader(stream)]
    _write(out, rows)


def _shuffle(catalogue: Path, out: Path) -> None:
    """Every product of the test split with ``SHUFFLED`` others, drawn at random."""
    with catalogue.open(encoding="utf-8", newline="") as stream:
        ids = [row["id"] for row in csv.DictReader(stream) if row["split"] == "test"]
    rng = np.random.default_rng(0)
    rows = []
    for one in ids:
        others = [other for other in ids if other != one]
        drawn = rng.choice(len(others), SHUFFLED, replace=False)
        rows += [{"query_id": one, "reference_id": others[at]} for at in drawn]
    _write(out, rows)


def _write(out: Path, rows: Sequence[dict[str, str]]) -> None:
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def shares(tables: Path, audit: Audit) -> dict[str, Any]:
    """What the audit says of its pairs, by group."""
    shared = "brand" if audit.network == "brand" else "category"
    asked = f"""
        WITH known AS (
          SELECT e.*, [a FOR a IN q.attributes IF starts_with(a, '{shared}=')][1] AS of_query,
                 [a FOR a IN r.attributes IF starts_with(a, '{shared}=')][1] AS of_reference,
                 list_contains(q.attributes, 'brand=clover') AND list_contains(r.attributes, 'brand=clover') AS badged,
                 coalesce(unexplained_reason, '') AS why,
                 len([s FOR s IN region_shares IF s.peak AND s.name = '{BADGE}']) > 0 AS peak_on_badge,
                 similarity < median(similarity) OVER (PARTITION BY query_id) AS less_similar
          FROM explanations e
          JOIN products q ON q.product_id = e.query_id JOIN products r ON r.product_id = e.reference_id)
        SELECT count(*) AS pairs, count(DISTINCT query_id) AS queries, avg(explained::INT) AS explained,
               avg((why = 'unreliable_map')::INT) AS unreliable_map,
               avg((why = 'same_for_any_reference')::INT) AS same_for_any_reference,
               avg((why = 'evidence_elsewhere')::INT) AS evidence_elsewhere,
               avg((why = 'attribute_by_chance')::INT) AS attribute_by_chance,
               avg((NOT explained OR peak_on_badge)::INT) AS unexplained_or_on_badge,
               avg(null_agreement) AS null_agreement, avg(map_reliability) AS map_reliability
        FROM known WHERE """
    return {name: query(str(tables), asked + which).to_pylist()[0] for name, which in GROUPS.items()}


def score_alone(tables: Path, shuffled: Path, rate: float) -> dict[str, float]:
    """The share of recommended pairs beyond what ``rate`` of less similar shuffled ones reach: by score, match."""
    half = "SELECT *, similarity < median(similarity) OVER (PARTITION BY query_id) AS less_similar FROM explanations"
    found = {}
    for statistic in ("score", "match"):
        (limit,) = query(
            str(shuffled), f"SELECT quantile_cont(top[1].{statistic}, {1 - rate}) AS x FROM ({half}) WHERE less_similar"
        ).to_pylist()
        (power,) = query(
            str(tables), f"SELECT avg((top[1].{statistic} > {limit['x']})::INT) AS x FROM explanations"
        ).to_pylist()
        found[statistic] = power["x"]
    return found


def report(records: Sequence[dict[str, Any]], alone: dict[str, float]) -> Iterator[str]:
    """The page, line by line."""
    columns = {
        "explained": "explained",
        "unreliable_map": "unreliable map",
        "same_for_any_reference": "same for any reference",
        "evidence_elsewhere": "evidence elsewhere",
        "attribute_by_chance": "attribute by chance",
        "unexplained_or_on_badge": "unexplained, or peak on the badge",
    }
    for record in records:
        audit: Audit = record["audit"]
        regions = "label images given" if audit.regions else "no regions given"
        yield f"**{audit.network.capitalize()} network, {audit.manifest} pairs, {regions}**"
        yield ""
        yield f"| pairs | number | queries | {' | '.join(columns.values())} |"
        yield "| --- |" + " --- |" * (len(columns) + 2)
        for group in GROUPS:
            values = record[group]
            if values["pairs"] and (group != "less similar" or audit.manifest == "shuffled"):
                cells = " | ".join(f"{values[name]:.1%}" for name in columns)
                yield f"| {group} | {values['pairs']:,} | {values['queries']:,} | {cells} |"
        yield ""
    yield (
        f"Beyond the 95 % quantile of the less similar shuffled pairs lie {alone['score']:.1%} of the pairs that the "
        f"category network recommends by the score e_a of their first attribute, and {alone['match']:.1%} by its match "
        "alone."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/nulls"))
    parser.add_argument("--masks", type=int, default=512)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    records = run(options.out, options.masks)
    tables = {record["audit"].id: options.out / f"tables-{record['audit'].id}" for record in records}
    alone = score_alone(tables["category-recommended-plain"], tables["category-shuffled-plain"], 0.05)
    for line in report(records, alone):
        print(line)


if __name__ == "__main__":
    main()
