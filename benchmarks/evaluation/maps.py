"""Do the maps of an audit of real photographs show what the network looks at? ``make evaluation``.

Every step is a command of ``whymatch`` whose result is kept under ``--out``; the page is made of what the commands
report, and of the drawn catalogue, where the truth is known.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.evaluation.truth import KINDS, TRUE_REGION, areas
from benchmarks.support.machine import markdown_table, paragraph, processor, versions, write
from benchmarks.support.steps import Step, Steps
from pipeline.demo.folder import draw
from transforms.core.metrics.curves import curve
from transforms.core.records import Float64, content_id
from transforms.core.statistics.bootstrap import mean
from transforms.tables import runs

PAGE = Path("docs/benchmarks/evaluation.md")


@dataclass(frozen=True)
class Study:
    """The steps of the study of one catalogue and one bundle: ``queries`` of its test split, a reference each."""

    catalogue: Path
    bundle: Path
    out: Path
    queries: int = 240
    workers: int = 2

    @property
    def pairs(self) -> Step:
        """What the model recommends."""
        path = self.out / "pairs.csv"
        given = ("pairs", "--catalogue", str(self.catalogue), "--bundle", str(self.bundle), "--out", str(path))
        drawn = ("--split", "test", "--queries", str(self.queries), "--top-k", "1")
        return Step("pairs", (*given, *drawn), path, reads=(self.catalogue, self.bundle / "bundle.json"))

    @property
    def audit(self) -> Step:
        """RISE, as an audit runs it by default."""
        tables = self.out / "tables"
        given = ("audit", "--manifest", str(self.pairs.makes), "--catalogue", str(self.catalogue))
        where = ("--bundle", str(self.bundle), "--out", str(tables), "--run-id", "rise", *self._workers)
        return Step("audit", (*given, *where), tables / "runs", after=(self.pairs,))

    @property
    def evaluations(self) -> tuple[Step, ...]:
        """Stored maps, full maps, another fill, and the checks of sanity and stability."""
        controls = ("--controls", "random,centre,edges,stranger")
        curves = ("--metrics", "insertion,deletion")
        checks = ("--metrics", "sanity,shuffled,stranger,seeds,noise", "--controls", "random,centre,edges")
        return (
            self._evaluation("stored", *curves, *controls),
            self._evaluation("mean-fill", *curves, *controls, "--fills", "mean", "--sample", "0.5"),
            self._evaluation("full", *curves, "--maps", "full", "--controls", "random,centre", "--sample", "0.5"),
            self._evaluation("sanity", *checks, "--sample", "0.25"),
        )

    def report(self, step: Step) -> Path:
        """The folder of an evaluation's report."""
        return step.makes

    def _evaluation(self, name: str, *arguments: str) -> Step:
        report = self.out / "reports" / name
        given = ("evaluate", str(self.audit.makes.parent), "--run-id", "rise", "--bundle", str(self.bundle))
        # named by what is asked, so that an evaluation that is asked for anew does not find its own id in the tables
        named = ("--evaluation-id", f"{name}-{_digest((*given, *arguments))}", "--report", str(report))
        roots = ("--image-root", str(self.catalogue.parent))
        return Step(
            f"evaluate-{name}", (*given, *named, *roots, *arguments, *self._workers), report, after=(self.audit,)
        )

    @property
    def _workers(self) -> tuple[str, ...]:
        return "--workers", str(self.workers), "--threads", "1"


def _digest(arguments: Sequence[str]) -> str:
    return content_id(*arguments, letter="", digits=8)


def run(study: Study, steps: Steps) -> None:
    """Runs what is not done yet."""
    steps.run(study.pairs)
    steps.run(study.audit)
    for step in study.evaluations:
        steps.run(step)


def page(study: Study, steps: Steps, drawn: Path) -> str:
    """The Markdown page of the study."""
    what = f"""{date.today().isoformat()}. {processor()}. {versions("onnxruntime", "numpy", "apache-beam")}. Made by"""
    sections = []
    titles = (
        "RISE and controls, stored maps, white fill",
        "The same under the mean colour",
        "Maps at the size of the network's input",
        "Sanity and stability",
    )
    for title, step in zip(titles, study.evaluations, strict=True):
        text = (study.report(step) / "summary.md").read_text(encoding="utf-8")
        took = f"{steps.seconds(step):.0f} s. The command:"
        command = f"    whymatch {' '.join(_public(study, step.arguments))}"
        sections.append(f"## {title}\n\n{took}\n\n{command}\n\n{_deeper(text)}")
    how = f"""{study.queries} queries of the test split of real photographs, the first recommendation of each, explained
        by RISE with its defaults; EfficientNet-Lite0 at 112 × 112, trained by the recipe of `make fashion`. The unit is
        the query."""
    return f"""# Are RISE's maps better than maps that explain nothing?

{paragraph(what)}

    make evaluation DATA=CATALOGUE_FOLDER

{paragraph(how)}

![insertion and deletion](evaluation-curves.png)

![agreement with the original map while the network becomes random](evaluation-sanity.png)

{_truth(drawn)}

{_early(study)}
{chr(10).join(sections)}"""


EARLY = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the pixels at which curves are compared."""


def _early(study: Study) -> str:
    """How far two maps' curves are apart where the first pixels go: a map is for finding those."""
    evaluation = study.evaluations[0].arguments
    evaluation_id = evaluation[evaluation.index("--evaluation-id") + 1]
    found: dict[tuple[str, str], dict[str, Float64]] = {}
    columns = ("evaluation_id", "metric", "method", "query_id", "curve")
    for _, address in runs.files(str(study.audit.makes.parent), "metrics"):
        for batch in runs.read_batches(address, "metrics", columns):
            for row in batch.to_pylist():
                if row["evaluation_id"] == evaluation_id and row["curve"] is not None:
                    normalised = curve(np.array(row["curve"], np.float64)).normalised
                    found.setdefault((row["metric"], row["method"]), {})[row["query_id"]] = normalised
    rows = []
    for metric in ("insertion", "deletion"):
        own = found[metric, "rise"]
        for control in ("centre", "edges", "stranger_rise", "random"):
            other = found[metric, control]
            apart = np.stack([own[query] - other[query] for query in sorted(own)])
            rows.append([metric, control, *(mean(apart[:, round(100 * share)]).text() for share in EARLY)])
    header = ["RISE less", "control", *(f"at {share:.0%}" for share in EARLY)]
    told = paragraph(
        """The normalised similarity once this share of the pixels, the most salient first, is shown (insertion) or
        hidden (deletion): RISE less the control, on the same pairs. Above 0 is better for insertion, below 0 for
        deletion. An area over the whole curve weighs the last pixels, background in any order, like the first."""
    )
    return f"## Where the curves differ\n\n{told}\n\n{markdown_table(header, rows)}\n"


def _truth(drawn: Path) -> str:
    rows = []
    for bundle, region in TRUE_REGION.items():
        found = areas(drawn, bundle, 40)
        for kind in KINDS:
            shown, hidden = (mean(found[kind][:, at]) for at in (0, 1))
            rows.append([f"{bundle}: {region}", kind, shown.text(), hidden.text(), str(len(found[kind]))])
    told = paragraph(
        """The drawn catalogue, where it is known what the networks match by. Perfect: the region itself; inverted: all
        but it. White fill, one pair of each query."""
    )
    table = markdown_table(["network: region", "map", "insertion", "deletion", "queries"], rows)
    return f"## Where the truth is known\n\n{told}\n\n{table}"


def _deeper(text: str) -> str:
    """The headings of a report, one level below the page's own."""
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in text.splitlines())


def _public(study: Study, arguments: Sequence[str]) -> list[str]:
    """A command without the folders of one machine."""
    folders = {str(study.catalogue.parent): "CATALOGUE_FOLDER", str(study.bundle): "BUNDLE", str(study.out): "OUT"}
    shown = []
    for argument in arguments:
        for folder, name in folders.items():
            argument = argument.replace(folder, name)
        shown.append(argument)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and writes the page and its pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation.maps", description=__doc__)
    parser.add_argument("--catalogue", type=Path, required=True, help="products.csv of the photographs")
    parser.add_argument("--bundle", type=Path, required=True, help="model bundle of similarity")
    parser.add_argument("--out", type=Path, required=True, help="folder of the steps")
    parser.add_argument("--queries", type=int, default=240, help="queries of the test split (default: 240)")
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown to write; pictures lie beside it")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options.catalogue.resolve(), options.bundle, options.out, options.queries)
    steps = Steps(options.out / "steps")
    run(study, steps)
    drawn = options.out / "demo"
    draw(drawn)
    write(options.page, page(study, steps, drawn))
    for step, name in zip((study.evaluations[0], study.evaluations[-1]), ("curves", "sanity"), strict=True):
        shutil.copy(study.report(step) / f"{name}.png", options.page.parent / f"evaluation-{name}.png")
    print(json.dumps({step.name: steps.seconds(step) for step in (study.pairs, study.audit, *study.evaluations)}))


if __name__ == "__main__":
    main()
