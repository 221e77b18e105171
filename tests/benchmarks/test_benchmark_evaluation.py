"""The study of evaluation: its commands are such as the command line takes, and its figures, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.evaluation.maps import EARLY, Study, _early, _public
from pipeline import cli
from pipeline.evaluation.options import EvaluateOptions
from pipeline.options.command_line import options_of
from transforms import tables
from transforms.core.records import Pair


def study(folder: Path) -> Study:
    (folder / "bundle").mkdir()
    (folder / "products.csv").write_text("id,image\n")
    (folder / "bundle" / "bundle.json").write_text("{}")
    return Study(folder / "products.csv", folder / "bundle", folder / "out", queries=2)


def test_every_step_is_a_command(tmp_path: Path) -> None:
    made = study(tmp_path)
    steps = (made.pairs, made.audit, *made.evaluations)
    assert len({step.name for step in steps}) == len({step.key for step in steps}) == len(steps)
    for step in steps:
        given = cli.build_parser().parse_args(step.arguments)
        assert given.word == step.name.partition("-")[0]
        assert str(tmp_path) not in " ".join(_public(made, step.arguments))
    for step in made.evaluations:
        options = options_of(cli.build_parser().parse_args(step.arguments))
        assert isinstance(options, EvaluateOptions)
        assert options.evaluation_id.startswith(step.name.removeprefix("evaluate-"))


def test_where_the_curves_differ_by_hand(tmp_path: Path) -> None:
    made = study(tmp_path)
    evaluation = made.evaluations[0].arguments
    evaluation_id = evaluation[evaluation.index("--evaluation-id") + 1]
    share = np.arange(101) / 100
    rows = []
    for query in ("q1", "q2"):
        for metric in ("insertion", "deletion"):
            for method in ("rise", "centre", "edges", "stranger_rise", "random"):
                # RISE's rises as the root, the others' as the share itself: a tenth of the pixels makes 0.316 and 0.1
                shown = np.sqrt(share) if method == "rise" else share
                curve = (shown if metric == "insertion" else 1 - shown).astype(np.float32)
                pair = Pair(f"p-{query}", query, "r")
                rows.append(
                    tables.metric_row(
                        evaluation_id, metric, method, pair, 0.5, side="query", control=method != "rise", curve=curve
                    )
                )
    folder = tmp_path / "out" / "tables" / "metrics" / "run_id=rise"
    folder.mkdir(parents=True)
    pq.write_table(tables.to_arrow("metrics", rows), folder / tables.part(0, evaluation_id))
    lines = [line.split("|") for line in _early(made).splitlines() if line.startswith("| insertion | centre")]
    ((*_, third),) = [[cell.strip() for cell in line[3:-1]] for line in lines]
    assert len(EARLY) == 5
    assert third == "0.207 (0.207 to 0.207)"  # at a half: 0.7071 - 0.5
    assert "0.216 (0.216 to 0.216)" in _early(made)  # at a tenth, insertion
    assert "-0.216 (-0.216 to -0.216)" in _early(made)  # and deletion
