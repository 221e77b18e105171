"""Does SANE explain better than its parts? ``make sane``, or ``python -m benchmarks.sane.real --help``.

Photographs: attribute recognition with and without supervision by saliency maps, and explanations by attributes judged
by attribute removal. Every step is a command of ``whymatch`` whose result is kept under ``--out``. What was searched
for (how maps supervise, which pairs the priors are of, phi and scales) is read from a committed record; ``--search``
makes that record anew, on the validation split.

The page's text is written by hand; this rewrites what stands between its marks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.sane.judging import (
    EXPLAINERS,
    SANE,
    Explainer,
    Judged,
    Sums,
    limits,
    mean_average_precision,
    random_scores,
    scores,
    search,
)
from benchmarks.sane.report import Results, rewritten
from benchmarks.sane.study import RECORD, SEARCHED, UNIFORM, UNSUPERVISED, Choice, Real, Record, Supervision, Tried
from benchmarks.support.steps import Steps
from export.ranking.catalogue_embeddings import embed_catalogue
from export.ranking.evidence import AuditMaps, RankingDataset, collect
from transforms.core.attributes.names import column_of
from transforms.core.errors import UsageError
from transforms.core.metrics.removal import Oracle, Removal
from transforms.core.records import Failure, Float64
from transforms.core.statistics.calibration import Evidence, fit_scales
from transforms.inputs import catalogue as catalogues
from transforms.serving import bundle as bundles
from transforms.serving.models import Serving

SPLITS = ("train", "valid", "test")
AMONG = ("all", "having")
"""Which held-out pairs a prior is of: all, as in the paper, or those whose query has the attribute."""


@dataclass(frozen=True, eq=False)
class Seed:
    """What one attribute network says: its parts of both splits, and its scores [I, A] of the test split's products,
    which have attributes ``has`` where they are ``known``, bool [I, A]."""

    valid: RankingDataset
    test: RankingDataset
    scores: Float64 = field(repr=False)
    has: NDArray[np.bool_] = field(repr=False)
    known: NDArray[np.bool_] = field(repr=False)


def prepare(plan: Real, steps: Steps) -> None:
    """The similarity network that is explained, and the maps of its pairs."""
    steps.run(plan.train_similarity)
    steps.run(plan.export_similarity)
    for split in SPLITS:
        steps.run(plan.pairs(split))
        steps.run(plan.audit(split))


def real(plan: Real, record: Record, steps: Steps) -> Results:
    """The study on photographs with the settings of ``record``."""
    prepare(plan, steps)
    variants = (unsupervised(record.supervision), record.supervision)
    trained = [plan.train_attributes(variant, seed) for seed in plan.seeds for variant in variants]
    exported = [plan.export(variant, seed) for seed in plan.seeds for variant in variants]
    among = sorted({choice.among for choice in record.choices.values()})
    of_priors = [plan.priors(variants[0], seed, one) for seed in plan.seeds for one in among]
    steps.run(*trained, at_once=2)
    steps.run(*exported)
    steps.run(*of_priors, at_once=2)
    seen = {(variant, seed): read_seed(plan, variant, seed) for seed in plan.seeds for variant in variants}
    sums: dict[str, Sums] = {}
    for explainer in EXPLAINERS:
        judged: list[Judged] = []
        for seed in plan.seeds:
            of, choice = seen[variants[explainer.supervised], seed], record.choices.get(explainer.name)
            prior = read_prior(plan, variants[0], seed, choice.among if choice else among[0])
            judged += judge(explainer, choice, of, prior, seed)
        sums[explainer.name] = Sums.of(judged)
    known: dict[str, Sums] = {}
    for supervised, name in enumerate(("unsupervised", "supervised")):
        judged_by: dict[str, list[Judged]] = {}
        for seed in plan.seeds:
            of, prior = seen[variants[supervised], seed], read_prior(plan, variants[0], seed, among[-1])
            for how, some in limits(of.valid, of.test, prior, seed).items():
                judged_by.setdefault(how, []).extend(
                    Judged(np.array(of.test.queries), Oracle(of.test.drops).judge(one)) for one in some
                )
        known |= {f"{how}, {name}" if "match" in how else how: Sums.of(judged) for how, judged in judged_by.items()}
    precision = [mean_average_precision([seen[variant, seed] for seed in plan.seeds]) for variant in variants]
    by_seed = [[mean_average_precision([seen[variant, seed]]) for variant in variants] for seed in plan.seeds]
    test = seen[variants[0], plan.seeds[0]].test
    oracle = Oracle(test.drops)
    every = [plan.train_similarity, plan.export_similarity, *trained, *exported, *of_priors]
    every += [step for split in SPLITS for step in (plan.pairs(split), plan.audit(split))]
    return Results(
        record=record,
        sums=sums,
        known=known,
        precision=(precision[0], precision[1]),
        by_seed=tuple((one[0], one[1]) for one in by_seed),
        pairs=len(test.pairs),
        judged=int(oracle.judged.sum()),
        unscored=oracle.unscored,
        not_above_zero=oracle.not_above_zero,
        removable=float((np.isfinite(test.drops) & test.on_query).sum() / test.on_query.sum()),
        oracles=oracles(test, oracle),
        seconds={step.name: steps.seconds(step) for step in every},
    )


def unsupervised(supervision: Supervision) -> Supervision:
    """The same training without the maps."""
    return replace(UNSUPERVISED, attribute_loss=supervision.attribute_loss)


def read_seed(plan: Real, supervision: Supervision, seed: int) -> Seed:
    """Shows the catalogue to one bundle and collects what its ranking is made of."""
    bundle, catalogue = str(plan.export(supervision, seed).makes), str(plan.catalogue)
    queries = {
        row.id: row.split
        for row in catalogues.read(catalogue)
        if not isinstance(row, Failure) and row.split in SPLITS[1:]
    }
    embeddings = embed_catalogue(Serving(bundle, threads=2), catalogue, queries.keys(), echo=_quiet)
    removal = Removal(max_distance=plan.max_distance)
    valid, test = (
        collect(
            AuditMaps(str(plan.audit(split).makes)),
            Serving(bundle),
            catalogue,
            removal=removal,
            embeddings=embeddings,
            echo=_quiet,
        )
        for split in SPLITS[1:]
    )
    at = [
        embeddings.gallery.places[product]
        for product, split in queries.items()
        if split == "test" and product in embeddings.gallery.places
    ]
    places = np.array([place for place in at if place in embeddings.confidence])
    attributes = len(valid.vocabulary)
    confidence = np.stack([embeddings.confidence[place] for place in places.tolist()]).astype(np.float64)
    return Seed(
        valid,
        test,
        confidence,
        embeddings.gallery.has[places, :attributes],
        embeddings.gallery.known[places, :attributes],
    )


def read_prior(plan: Real, supervision: Supervision, seed: int, among: str) -> Float64:
    """The priors [A] of one seed. They are of the similarity network alone, the same for each of its bundles."""
    return np.array(bundles.read(str(plan.priors(supervision, seed, among).makes)).priors, np.float64)


def judge(explainer: Explainer, choice: Choice | None, of: Seed, prior: Float64, seed: int) -> list[Judged]:
    """An explainer on the test split, on scales that are fitted to the validation split."""
    oracle, queries = Oracle(of.test.drops), np.array(of.test.queries)
    if not any(explainer.parts):
        return [Judged(queries, oracle.judge(some)) for some in random_scores(of.test.drops.shape, seed)]
    if choice is None:
        raise UsageError(f"the record says nothing of {explainer.name!r}: search again")
    valid, test = (Evidence(part.confidence, part.match, prior) for part in (of.valid, of.test))
    scales = fit_scales(choice.scale, valid, Oracle(of.valid.drops))
    return [Judged(queries, oracle.judge(scores(explainer, test, choice.phi, scales)))]


def oracles(parts: RankingDataset, oracle: Oracle) -> Mapping[str, float]:
    """How often the oracle is of each column."""
    columns = [column_of(parts.vocabulary[at]) for at in oracle.best[oracle.judged]]
    return {column: columns.count(column) / len(columns) for column in dict.fromkeys(columns)}


def make_record(plan: Real, steps: Steps, tried: Sequence[Supervision] = SEARCHED) -> Record:
    """Searches, on the validation split and with the first seed, for what the record holds.

    The attribute loss is the one that recognises better without maps; how maps supervise is what makes SANE's removal
    score largest, flat maps left aside; every explainer has its own phi, scale and kind of prior.
    """
    prepare(plan, steps)
    seed = plan.seeds[0]
    steps.run(*(plan.train_attributes(one, seed) for one in tried), at_once=2)
    steps.run(*(plan.export(one, seed) for one in tried))
    seen = {one: read_seed(plan, one, seed) for one in tried}
    plain = [one for one in tried if not one.weight]
    base = max(plain, key=lambda one: recognised(plan, one, seed))
    priors = {}
    for among in AMONG:
        steps.run(plan.priors(base, seed, among))
        priors[among] = read_prior(plan, base, seed, among)
    rows = []
    for one in tried:
        for among, prior in priors.items():
            valid = seen[one].valid
            evidence, oracle = Evidence(valid.confidence, valid.match, prior), Oracle(valid.drops)
            scale, point = search(SANE, evidence, oracle)
            of_maps = search(EXPLAINERS[3], evidence, oracle)[1]
            figures = (recognised(plan, one, seed), of_maps.removal, point.removal, point.top1)
            rows.append(Tried(one, among, *figures, point.phi, scale))
    of_base = [row for row in rows if row.supervision.attribute_loss == base.attribute_loss]
    best = max(
        (row for row in of_base if row.supervision.weight and row.supervision.temperature != UNIFORM),
        key=lambda row: (row.sane, row.sane_top1),
    )
    choices = {}
    for explainer in EXPLAINERS:
        if any(explainer.parts):
            valid = seen[best.supervision if explainer.supervised else base].valid
            choices[explainer.name] = choose(explainer, valid, priors)
    return Record(best.supervision, choices, tuple(rows))


def choose(explainer: Explainer, valid: RankingDataset, priors: Mapping[str, Float64]) -> Choice:
    """What is best for one explainer on validation pairs."""
    found = []
    for among, prior in priors.items():
        scale, point = search(explainer, Evidence(valid.confidence, valid.match, prior), Oracle(valid.drops))
        found.append((point.removal, point.top1, Choice(point.phi, scale, among)))
    return max(found, key=lambda one: one[:2])[2]


def recognised(plan: Real, supervision: Supervision, seed: int) -> float:
    """mAP of an attribute network on the validation split."""
    record = plan.train_attributes(supervision, seed).makes / "attributes.json"
    return float(json.loads(record.read_text(encoding="utf-8"))["training"]["figures"]["valid"]["map"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and rewrites the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sane.real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--catalogue", type=Path, required=True, help="products.csv of the photographs")
    parser.add_argument("--out", type=Path, default=Path("build/sane/real"), help="what is made lies here, and is kept")
    parser.add_argument("--record", type=Path, default=RECORD, help="what the search found")
    parser.add_argument("--search", action="store_true", help="search, and write the record; no page")
    parser.add_argument("--page", type=Path, default=Path("docs/sane.md"), help="the page to rewrite")
    options = parser.parse_args(arguments)
    if not options.catalogue.exists():
        raise SystemExit(f"there is no {options.catalogue}: name products.csv, as in make sane DATA=folder")
    plan, steps = Real(options.catalogue, options.out), Steps(options.out / "steps")
    if options.search:
        make_record(plan, steps).write(options.record)
        print(options.record)
        return
    if not options.record.exists():
        raise SystemExit(f"there is no {options.record}: make it by --search")
    results = real(plan, Record.read(options.record), steps)
    options.page.write_text(rewritten(options.page.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(options.page)


def _quiet(line: str) -> None:
    """Says nothing: a step's own lines are in its log."""


if __name__ == "__main__":
    main()
