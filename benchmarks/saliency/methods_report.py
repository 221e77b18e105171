"""The measured section of ``docs/methods.md``: from maps' curves and costs to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.machine import markdown_table, paragraph, processor, versions
from transforms.core.errors import UsageError
from transforms.core.metrics.curves import curve
from transforms.core.records import Float32, Float64
from transforms.core.statistics.bootstrap import mean

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True, eq=False)
class Judged:
    """A map float32 [H, W] of a pair, its ``inserted`` and ``deleted`` similarities float64 [101], and its passes."""

    saliency: Float32 = field(repr=False)
    inserted: Float64 = field(repr=False)
    deleted: Float64 = field(repr=False)
    passes: int

    def write(self, path: Path) -> None:
        """Into the file ``path``, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("wb") as stream:
            np.savez_compressed(
                stream, saliency=self.saliency, inserted=self.inserted, deleted=self.deleted, passes=self.passes
            )
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Judged:
        """From the file ``path``."""
        with np.load(path) as kept:
            return cls(kept["saliency"], kept["inserted"], kept["deleted"], int(kept["passes"]))


@dataclass(frozen=True)
class Cost:
    """What a setting costs with one reference and with several: ``seconds`` a pair, and ``passes`` of an image in all.

    ``before`` is what a process holds, in bytes, once the networks are open; ``peak`` the most while it explains a
    query.
    """

    name: str
    seconds: tuple[float, float]
    passes: tuple[float, float]
    before: int
    peak: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Cost:
        """From what was kept as JSON."""
        return cls(**{**content, "seconds": tuple(content["seconds"]), "passes": tuple(content["passes"])})


@dataclass(frozen=True, eq=False)
class Results:
    """All that was measured. ``judged`` has one value a query, the first setting's first; some settings have those of
    the first queries only. ``references`` is the greater number of references in ``costs``; ``left_out`` says which
    settings the bundle does not allow, and why."""

    judged: Mapping[str, Sequence[Judged]]
    costs: Sequence[Cost]
    size: tuple[int, int]
    references: int
    rounds: int
    threads: int
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas under the curves of one setting, float64 [Q] each: normalised, and of the similarities as they are."""

    inserted: Float64
    deleted: Float64
    raw_inserted: Float64
    raw_deleted: Float64

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Areas:
        """Of every query's curves."""
        inserted, deleted = ([curve(getattr(one, side)) for one in judged] for side in ("inserted", "deleted"))
        columns = [
            [getattr(one, area) for one in side] for area in ("area", "raw_area") for side in (inserted, deleted)
        ]
        return cls(*(np.array(column) for column in columns))

    @property
    def lead(self) -> Float64:
        """Insertion less deletion [Q]: both in one number, the higher the better."""
        return self.inserted - self.deleted


def rewritten(page: Path, section: str) -> str:
    """The text of ``page`` with ``section`` between the two marks; a page that is not there has nothing else.

    UsageError where the marks are not there once each, in their order.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise UsageError(f"{page} must have one line {BEGIN} and, below it, one line {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section.strip()}\n\n{END}{rest.split(END)[1]}"


def measured_section(results: Results, model_id: str, minutes: float) -> str:
    """The Markdown between the marks."""
    queries, (height, width) = len(next(iter(results.judged.values()))), results.size
    threads = f"{results.threads} thread" + "s" * (results.threads != 1)
    what = f"""{date.today().isoformat()}. {processor()}, {threads}.
        {versions("onnxruntime", "numpy", "scipy", "scikit-image")}. Model {model_id}, {height} × {width}; {minutes:.0f}
        minutes, less what earlier runs had computed. Made by"""
    quality = f"""{queries} queries, one reference each. Maps are full-size, {height} × {width}, and made with each
        method's own default fill; the curves have 101 steps and a white fill. *Insertion* (higher is better) and
        *deletion* (lower is better) are areas under curves that are normalised each to [0, 1], as in SANE's code; *raw*
        are areas under the similarities as they are. *Lead* is insertion less deletion, and *against rise* the
        difference of the leads on the same query: above 0 is better than `rise`. Means with a 95 % interval, a
        bootstrap over queries. The last three rows are maps that know nothing of the pair."""
    left_out = "".join(f"\nNot measured, {name}: {why}.\n" for name, why in results.left_out.items())
    cost = f"""*Passes behind a map* is what the column `passes` says, the mean over the queries. *Passes of an
        image* is all that it takes to explain one image against 1 or {results.references} references, masked versions
        of the references included; a pass of the gradient graph counts as one, and takes about four times as long.
        *Seconds a pair* is the median over {results.rounds} round{"s" * (results.rounds != 1)} of all settings in turn:
        reading and decoding, embedding the references, passes, maps, and the table's row. *Memory* is how far a process
        that explains one query against 2 references rises, at its peak, above what it held with the networks open,
        which stands in brackets."""
    return f"""{paragraph(what)}

    python -m benchmarks.saliency.methods --bundle BUNDLE --pairs PAIRS --catalogue CATALOGUE

### Insertion and deletion

{paragraph(quality)}

{quality_table(results.judged)}
{left_out}
### Cost

{paragraph(cost)}

{cost_table(results)}

{_converged(results.judged)}"""


def quality_table(judged: Mapping[str, Sequence[Judged]]) -> str:
    """A row a setting and baseline; the first is what the last column compares with."""
    areas = {name: Areas.of(of_setting) for name, of_setting in judged.items()}
    first = next(iter(areas))
    rows = [
        [
            name,
            *(mean(values).text() for values in (one.inserted, one.deleted)),
            *(f"{values.mean():.3f}" for values in (one.raw_inserted, one.raw_deleted)),
            f"{one.lead.mean():.3f}",
            "" if name == first else mean(one.lead - areas[first].lead[: len(one.lead)]).text(),
        ]
        for name, one in areas.items()
    ]
    header = ["setting", "insertion", "deletion", "raw insertion", "raw deletion", "lead", f"against {first}"]
    return markdown_table(header, rows)


def cost_table(results: Results) -> str:
    """A row a setting."""
    many = results.references
    rows = [
        [
            cost.name,
            f"{np.mean([one.passes for one in results.judged[cost.name]]):,.0f}",
            *(f"{passes:,.0f}" for passes in cost.passes),
            *(f"{seconds:.3g}" for seconds in cost.seconds),
            f"{(cost.peak - cost.before) / 2**20:,.0f} ({cost.before / 2**20:,.0f})",
        ]
        for cost in results.costs
    ]
    header = ["setting", "passes behind a map", "passes of an image, 1 reference", f"{many} references"]
    header += ["seconds a pair, 1 reference", f"{many} references", "memory, MiB"]
    return markdown_table(header, rows)


def _converged(judged: Mapping[str, Sequence[Judged]]) -> str:
    """How many passes each query took, where a setting stops by itself."""
    lines = []
    for name, of_setting in judged.items():
        passes = np.array([one.passes for one in of_setting])
        if passes.min() != passes.max():
            low, middle, high = np.quantile(passes, [0.1, 0.5, 0.9])
            lines.append(
                paragraph(
                    f"`{name}`: {middle:,.0f} passes in the median, {low:,.0f} to {high:,.0f} for eight queries of "
                    f"ten, {passes.max():,} at most."
                )
            )
    return "\n\n".join(lines)
