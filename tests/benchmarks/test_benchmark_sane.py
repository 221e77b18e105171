"""The study of SANE: its steps, its figures by hand, and a small version of both of its halves from nothing."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from benchmarks.saliency.methods_report import BEGIN, END
from benchmarks.sane import garments, real, report
from benchmarks.sane.judging import (
    EXPLAINERS,
    SANE,
    Judged,
    Sums,
    differences,
    intervals,
    mean_average_precision,
    random_scores,
)
from benchmarks.sane.study import RECORD, SEARCHED, UNSUPERVISED, Choice, Garments, Real, Record, Supervision, Tried
from benchmarks.support.steps import Step, Steps
from pipeline import cli
from transforms.core.errors import RunError, UsageError
from transforms.core.metrics.removal import judge
from transforms.tables import runs

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Commands:
    """In place of whymatch: notes what it is asked for, and writes what the last argument names."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.code = 0

    def __call__(self, arguments: Sequence[str], log: Path) -> int:
        self.asked.append(tuple(arguments))
        log.write_text("so much for that\n", encoding="utf-8")
        if not self.code:
            target = Path(arguments[1])
            target.mkdir(parents=True, exist_ok=True)
            (target / str(len(self.asked))).touch()
        return self.code


def test_a_step_is_done_once_and_again_when_it_changes(tmp_path: Path) -> None:
    commands = Commands()
    steps = Steps(tmp_path / "steps", lambda _: None, commands)
    first = Step("first", ("do", str(tmp_path / "a")), tmp_path / "a")
    second = Step("second", ("do", str(tmp_path / "b")), tmp_path / "b", (first,))
    steps.run(first)
    steps.run(first, second)
    assert len(commands.asked) == 2
    changed = replace(first, arguments=("do", str(tmp_path / "a"), "otherwise"))
    steps.run(changed)
    steps.run(replace(second, after=(changed,)))  # what it reads from is another
    assert len(commands.asked) == 4
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["3"]  # the old result is gone
    assert steps.seconds(first) >= 0
    assert steps.total() == pytest.approx(steps.seconds(changed) + steps.seconds(second))


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    commands = Commands()
    steps = Steps(tmp_path / "steps", lambda _: None, commands)
    step = Step("training", ("train", str(tmp_path / "a")), tmp_path / "a", resumes=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "of another").touch()
    commands.code = 3
    with pytest.raises(RunError, match=r"training ended with 3; the end of .*training\.log:\nso much for that"):
        steps.run(step)
    assert not list((tmp_path / "a").parent.glob("a/*"))
    commands.code = 0
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "state").touch()
    steps.run(step)
    assert commands.asked[-1] == ("train", str(tmp_path / "a"), "--resume")
    assert (tmp_path / "a" / "state").exists()  # a training goes on from what it left


def test_a_step_may_begin_as_a_copy(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "steps", lambda _: None, Commands())
    made = Step("made", ("do", str(tmp_path / "a")), tmp_path / "a")
    steps.run(made)
    one, other = (
        Step(name, ("change", str(tmp_path / name)), tmp_path / name, (made,), begins_as=made.makes)
        for name in ("one", "other")
    )
    steps.run(one, other)
    assert [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("a", "one", "other")] == [
        ["1"], ["1", "2"], ["1", "3"],
    ]  # fmt: skip


def test_a_file_that_is_read_counts_by_its_content(tmp_path: Path) -> None:
    catalogue = tmp_path / "products.csv"
    catalogue.write_text("id\n1\n")
    step = Step("read", ("do",), tmp_path, reads=(catalogue,))
    before = step.key
    assert step.key == before
    catalogue.write_text("id\n2\n")
    assert step.key != before


def test_a_record_is_what_was_written(tmp_path: Path) -> None:
    supervision = Supervision(0.1, 0.5, "smooth-l1")
    tried = Tried(UNSUPERVISED, "having", 0.5, 0.6, 0.7, 0.8, (0.1, 0.2, 0.7), "quantile")
    record = Record(supervision, {"one": Choice((0.5, 0.5, 0.0), "isotonic", "all")}, (tried,))
    record.write(tmp_path / "new" / "record.json")
    assert Record.read(tmp_path / "new" / "record.json") == record
    assert (supervision.name, UNSUPERVISED.name) == ("smooth-l1-0.1-t0.5", "bce-0")
    assert UNSUPERVISED.arguments((tmp_path,)) == ("--attribute-loss", "bce")


def test_an_explainer_s_grid_has_its_own_parts_only() -> None:
    sizes = {explainer.name: len(explainer.grid()) for explainer in EXPLAINERS}
    assert list(sizes.values()) == [0, 1, 21, 21, 231, 21, 231]
    assert all(phi[1] == 0 for phi in EXPLAINERS[2].grid())


DROPS = np.array([[0.4, 0.1, 0.0], [0.2, 0.1, 0.0], [0.1, 0.3, 0.0]])
QUERIES = np.array(["a", "a", "b"])


def test_figures_by_hand() -> None:
    scores = np.array([[1.0, 2, 0], [3.0, 2, 1], [1.0, 2, 3]])
    sums = Sums.of([Judged(QUERIES, judge(scores, DROPS))])
    whole = sums.figures(np.arange(2))
    assert whole == pytest.approx({"drop": 0.3 / 3, "removal": 0.3 / 0.9, "top1": 1 / 3, "top5": 1})
    assert sums.figures(np.array([1, 1]))["removal"] == 0
    best = Sums.of([Judged(QUERIES, judge(DROPS, DROPS))])
    assert intervals(best)["removal"].low == 1
    difference = differences(best, sums)["removal"]
    assert difference.estimate == pytest.approx(2 / 3)
    # of two queries a resample is one of three: 0.3 of 0.6, 0.3 of 0.9 and 0 of 0.3 are what the other gets
    assert (difference.low, difference.high) == pytest.approx((0.5, 1))


def test_seeds_are_means_over_the_same_queries() -> None:
    good, bad = (Judged(QUERIES, judge(scores, DROPS)) for scores in (DROPS, -DROPS))
    both = Sums.of([good, bad]).figures(np.arange(2))
    alone = [Sums.of([one]).figures(np.arange(2)) for one in (good, bad)]
    assert both == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in both})


def test_a_random_ranking_is_right_by_chance() -> None:
    drops = np.zeros((400, 4))
    drops[:, 2] = 1
    judged = [Judged(np.arange(400).astype(str), judge(scores, drops)) for scores in random_scores(drops.shape, 0)]
    assert Sums.of(judged).figures(np.arange(400))["top1"] == pytest.approx(0.25, abs=0.02)


class Scored:
    def __init__(self, seed: int, images: int) -> None:
        rng = np.random.default_rng(seed)
        self.scores = rng.random((images, 3))
        self.has = rng.random((images, 3)) < 0.4
        self.known = rng.random((images, 3)) < 0.8


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(5, 30))
def test_mean_average_precision_is_sklearn_s(seed: int, images: int) -> None:
    of = Scored(seed, images)
    expected = []
    for a in range(3):
        known = of.known[:, a]
        if of.has[known, a].any() and not of.has[known, a].all():
            expected.append(average_precision_score(of.has[known, a], of.scores[known, a]))
    found = mean_average_precision([of])
    assert found.attributes == len(expected)
    if expected:
        assert found(np.arange(images)) == pytest.approx(np.mean(expected))
        # each image twice is the same images, up to what the copies see of each other
        drawn = np.repeat(np.arange(images), 2)
        twice = [
            average_precision_score(of.has[k, a], of.scores[k, a], sample_weight=np.full(k.sum(), 2))
            for a in range(3)
            for k in [of.known[:, a]]
            if of.has[k, a].any() and not of.has[k, a].all()
        ]
        assert found(drawn) == pytest.approx(np.mean(twice))


def test_the_overlap_by_hand() -> None:
    region = np.zeros((4, 6), np.bool_)
    region[:2, :3] = True
    activation = np.array([[3.0, 0.0], [0.0, 0.0]], np.float32)
    assert garments.overlap(activation, region) == 1
    assert garments.overlap(-activation, region) == 0
    assert np.isnan(garments.overlap(activation, np.zeros((4, 6), np.bool_)))
    wide = np.zeros((2, 4), np.bool_)
    wide[0] = True  # of the upper half, the left one is found with the left of the lower half
    assert garments.overlap(np.array([[1.0, 0.0]], np.float32), wide) == pytest.approx(2 / 6)


def test_who_shares_the_first_place_has_a_part_of_it() -> None:
    values = np.array([[2.0, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]])
    wanted = np.array([[True, False, False]] * 3 + [[True, True, False]])
    assert garments.share_of_first(values, wanted) == pytest.approx([1, 0.5, 0, 2 / 3])


def in_this_process(arguments: Sequence[str], log: Path) -> int:
    """Much quicker than a process for each command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(list(arguments))
    log.write_text(said.getvalue(), encoding="utf-8")
    return code


SMALL = ("--backbone", "export.training.networks.small_network:network", "--size", "48x40")


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_study_of_real_photographs_from_nothing(tmp_path: Path) -> None:
    """Of drawn ones, in fact: every step of ``make sane``, and the page."""
    assert in_this_process(["demo", str(tmp_path / "demo"), "--products", "150"], tmp_path / "log") == 0
    plan = Real(
        catalogue=tmp_path / "demo" / "catalogue.csv",
        out=tmp_path / "study",
        columns="category,colour",
        similar_by="category",
        network=SMALL,
        similarity=("--epochs", "2", "--threads", "1"),
        attributes=("--min-count", "5", "--epochs", "2"),
        recipe=("--learning-rate", "3e-3"),
        factory="export.training.networks.small_network:network",
        seeds=(0, 1),
        positives=2,
        train_masks=16,
        references=3,
        masks=16,
        workers=1,
        max_distance=1,
    )
    steps = Steps(plan.out / "steps", lambda _: None, in_this_process)
    supervision = Supervision(0.1, 1.0)
    record = real.make_record(plan, replace_parallel(steps), (UNSUPERVISED, supervision))
    record.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == record
    assert record.supervision == supervision
    assert {row.supervision for row in record.tried} == {UNSUPERVISED, supervision}
    assert set(record.choices) == {explainer.name for explainer in EXPLAINERS[1:]}
    results = real.real(plan, record, replace_parallel(steps))
    assert results.judged + results.unscored + results.not_above_zero == results.pairs
    assert sum(results.oracles.values()) == pytest.approx(1)
    assert len(results.by_seed) == 2
    audits = runs.complete(str(plan.audit("train").makes))
    maps = sum(batch.num_rows for audit in audits for batch in audit.batches(["map"]))
    of_maps = json.loads((plan.train_attributes(supervision, 1).makes / "attributes.json").read_text())
    assert of_maps["training"]["saliency"]["maps"] == maps > 50
    page = report.rewritten(f"before\n{BEGIN}\nold\n{END}\nafter\n", results)
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    assert all(page.count(f"| {explainer.name} ") == 3 for explainer in EXPLAINERS[1:-1])
    assert page.count(f"| {SANE.name} ") == 2
    logs = len(list((plan.out / "steps").glob("*.json")))
    again = Commands()
    real.real(plan, record, replace(steps, command=again))
    assert not again.asked  # all of it is kept
    assert logs == len(list((plan.out / "steps").glob("*.json")))
    with pytest.raises(UsageError, match="needs the marks"):
        report.rewritten("no marks", results)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_study_of_garments_from_nothing(tmp_path: Path) -> None:
    plan = Garments(
        tmp_path,
        columns=("category", "neckline"),
        products=120,
        epochs=(2, 2),
        seeds=(0,),
        references=3,
        masks=16,
        network=(*SMALL, "--learning-rate", "3e-3"),
        attributes=("--min-count", "3"),
        of_priors=("--counter-sets", "3", "--set-size", "20", "--min-count", "3"),
    )
    steps = replace_parallel(Steps(tmp_path / "steps", lambda _: None, in_this_process))
    garments.prepare(plan, steps)
    found = garments.overlaps(plan, Supervision(0.1, 1.0), steps)
    assert found.without.shape == found.supervised.shape
    assert (np.isnan(found.without[:, 1]) == np.isnan(found.supervised[:, 1])).all()
    assert 0 < np.nanmean(found.without) < 1
    ranks = garments.known(plan, Supervision(0.1, 1.0), steps)
    assert [one.column for one in ranks] == ["category", "neckline"]
    assert all(0 <= one.prior_first.low <= one.prior_first.estimate <= 1 for one in ranks)
    marks = f"{garments.BEGIN}\n{garments.END}"
    page = garments.rewritten(marks, found, ranks, 1.0, plan)
    assert page.count("\n| category ") == 2
    assert page.count("\n| neckline ") == 2


def replace_parallel(steps: Steps) -> Steps:
    """One command at a time: they share this process's output."""

    class OneByOne(Steps):
        def run(self, *todo: Step, at_once: int = 1) -> None:
            super().run(*todo, at_once=1)

    return OneByOne(steps.folder, steps.echo, steps.command)


def test_the_committed_record_is_complete() -> None:
    record = Record.read(Path(__file__).parents[2] / RECORD)
    assert record.supervision.weight > 0
    assert set(record.choices) == {explainer.name for explainer in EXPLAINERS[1:]}
    assert {row.supervision for row in record.tried} == set(SEARCHED)
