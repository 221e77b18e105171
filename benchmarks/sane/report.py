"""The measured section of ``docs/sane.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from benchmarks.saliency.methods_report import BEGIN, END
from benchmarks.sane.judging import EXPLAINERS, FIGURES, SANE, PrecisionOf, Sums, differences, intervals
from benchmarks.sane.study import Record
from benchmarks.support.machine import markdown_table, paragraph, processor, versions
from transforms.core.errors import UsageError
from transforms.core.statistics.bootstrap import Interval, bootstrap


@dataclass(frozen=True, eq=False)
class Results:
    """All that was measured on photographs.

    ``precision`` and each of ``by_seed`` are of the networks without and with supervision. ``removable`` is the share
    of the test queries' attributes that could be removed, ``known`` are rankings that know the query's attributes,
    ``oracles`` how often the oracle is of each column.
    """

    record: Record
    sums: Mapping[str, Sums] = field(repr=False)
    known: Mapping[str, Sums] = field(repr=False)
    precision: tuple[PrecisionOf, PrecisionOf] = field(repr=False)
    by_seed: tuple[tuple[PrecisionOf, PrecisionOf], ...] = field(repr=False)
    pairs: int
    judged: int
    unscored: int
    not_above_zero: int
    removable: float
    oracles: Mapping[str, float]
    seconds: Mapping[str, float] = field(repr=False)


def rewritten(page: str, results: Results) -> str:
    """``page`` with a new measured section; UsageError where it has no marks."""
    if BEGIN not in page or END not in page:
        raise UsageError(f"the page needs the marks {BEGIN} and {END}")
    before, rest = page.split(BEGIN, 1)
    return before + BEGIN + "\n\n" + section(results) + "\n\n" + END + rest.split(END, 1)[1]


def section(results: Results) -> str:
    """The tables, and what they were measured on."""
    parts = [
        _how(results),
        "### Recognition",
        _recognition(results),
        "### Explanation",
        _explanation(results),
        "SANE less each of the others, over the same queries:",
        _differences(results),
        "Rankings that know which attributes the query has, of which they have to choose one:",
        _known(results),
        "### What the search chose",
        _choices(results),
        _tried(results),
    ]
    return "\n\n".join(parts)


def _how(results: Results) -> str:
    minutes = sum(results.seconds.values()) / 60
    columns = ", ".join(f"{name} {share:.0%}" for name, share in results.oracles.items())
    return paragraph(
        f"{date.today():%Y-%m-%d}, {processor()}, {versions('torch', 'onnxruntime', 'scikit-learn')}. "
        f"{len(results.by_seed)} seeds. {results.pairs:,} test pairs, {results.judged:,} judged; of "
        f"{results.unscored:,} no attribute could be removed, of {results.not_above_zero:,} none makes the similarity "
        f"drop; {results.removable:.0%} of the queries' attributes could be removed. The oracle is of the column "
        f"{columns}. Steps of this table: {minutes:.0f} minutes in all, two trainings side by side counting twice."
    )


def _recognition(results: Results) -> str:
    rows = []
    for name, of in (("without maps", results.precision[0]), ("supervised by maps", results.precision[1])):
        seeds = [one[name != "without maps"] for one in results.by_seed]
        rows.append((name, _of(of).text(3), ", ".join(f"{one(np.arange(one.images)):.3f}" for one in seeds)))
    first, second = results.precision
    difference = bootstrap(lambda drawn: second(drawn) - first(drawn), first.images, resamples=1000)
    rows.append(("difference", difference.text(4), ""))
    head = (f"mAP over {first.attributes} attributes, test", "mean of the seeds, 95 % interval", "each seed")
    return markdown_table(head, rows)


def _of(precision: PrecisionOf) -> Interval:
    return bootstrap(precision, precision.images, resamples=1000)


HEAD = {
    "drop": "similarity that goes with its first attribute",
    "removal": "in units of the oracle's",
    "top1": "oracle is first",
    "top5": "oracle among the first five",
}


def _explanation(results: Results) -> str:
    rows = []
    for explainer in EXPLAINERS:
        found = intervals(results.sums[explainer.name])
        rows.append((explainer.name, *(found[name].text(3) for name in FIGURES)))
    return markdown_table(("explainer", *(HEAD[name] for name in FIGURES)), rows)


def _differences(results: Results) -> str:
    rows = []
    for explainer in EXPLAINERS[:-1]:
        found = differences(results.sums[SANE.name], results.sums[explainer.name])
        rows.append((explainer.name, *(found[name].text(3) for name in FIGURES)))
    return markdown_table(("SANE less", *(HEAD[name] for name in FIGURES)), rows)


def _known(results: Results) -> str:
    rows = [
        (name, *(found[figure].text(3) for figure in ("removal", "top1")))
        for name, found in ((name, intervals(sums)) for name, sums in results.known.items())
    ]
    return markdown_table(("of the query's own attributes", HEAD["removal"], HEAD["top1"]), rows)


def _choices(results: Results) -> str:
    supervision = results.record.supervision
    of_maps = "as they are" if supervision.temperature is None else f"at temperature {supervision.temperature:g}"
    head = paragraph(
        f"Attribute loss {supervision.attribute_loss}, lambda {supervision.weight:g}, maps {of_maps}. Each explainer "
        "has the phi, the scale and the priors that are best for it on the validation split."
    )
    rows = [
        (name, ", ".join(f"{weight:g}" for weight in choice.phi), choice.scale, choice.among if choice.phi[2] else "")
        for name, choice in results.record.choices.items()
    ]
    return head + "\n\n" + markdown_table(("explainer", "phi: confidence, match, prior", "scale", "priors of"), rows)


def _tried(results: Results) -> str:
    rows = [
        (
            row.supervision.name,
            row.among,
            *(f"{value:.3f}" for value in (row.map, row.confidence_and_match, row.sane, row.sane_top1)),
            ", ".join(f"{weight:g}" for weight in row.phi),
        )
        for row in results.record.tried
    ]
    head = ("tried: loss, lambda, temperature", "priors of", "mAP", "confidence + match", "SANE", "SANE, top 1", "phi")
    return "Validation split, first seed; removal in units of the oracle's:\n\n" + markdown_table(head, rows)
