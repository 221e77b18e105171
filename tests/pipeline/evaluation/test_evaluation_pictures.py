"""The pictures of an evaluation: the curves in them by hand, and that they are drawn, the same each time."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pipeline.evaluation.pictures.draw_curves import draw_curves, styles_of
from pipeline.evaluation.pictures.draw_sanity import JUDGED, UNJUDGED, draw_sanity
from pipeline.evaluation.pictures.mean_curves import CurveKey, curves
from pipeline.evaluation.summary.findings import EvaluationSummary
from pipeline.evaluation.summary.summarise import summarise
from tests.support.tables.metrics import row, sanity
from transforms.core.errors import MissingDependency
from transforms.core.metrics import curves as metrics
from transforms.core.statistics.bootstrap import mean_by_query
from transforms.tables import Row

RISE = CurveKey("insertion", "rise", False, "query", "white")


def curved(scores: Sequence[float], query: int = 0, **more: Any) -> Row:
    """A row with a curve."""
    details: dict[str, Any] = {"metric": "insertion", "method": "rise", "fill": "white", "map": "stored", **more}
    value = metrics.curve(np.array(scores)).area
    return {**row(details["metric"], details["method"], query, value), **details, "curve": list(scores)}


def several() -> list[Row]:
    """Curves of three methods and two controls under two fills, 5 queries."""
    rng = np.random.default_rng(3)
    share = np.linspace(0, 1, 101)
    names = (
        ("rise", False, 0.3),
        ("lime", False, 0.5),
        ("mask", False, 0.8),
        ("random", True, 1.0),
        ("edges", True, 0.9),
    )
    rows = []
    for query in range(5):
        for name, control, power in names:
            for metric in ("insertion", "deletion"):
                for fill in ("white", "mean"):
                    curve = share ** (power * rng.uniform(0.8, 1.2)) if metric == "insertion" else 1 - share**power
                    scores = [float(one) for one in curve]
                    rows.append(curved(scores, query, metric=metric, method=name, control=control, fill=fill))
    return rows


def judged() -> EvaluationSummary:
    """Three methods, one of which has no levels to be read against, and a network that is not judged."""
    rows: list[Row] = []
    for method, control in (("rise", False), ("lime", False), ("edges", True)):
        for depth, value in ((0.06, 0.95), (0.5, 0.4), (1.0, -0.1)):
            values = [1.0] * 4 if control else [value, value - 0.05, value + 0.02, value - 0.1]
            rows += sanity(method, depth, values, control=control, judged=depth > 0.1, map="stored")
    for metric, value in (("seeds", 0.93), ("noise", 0.9), ("shuffled", 0.4), ("stranger", 0.15)):
        rows += [row(metric, "rise", query, value + 0.01 * query, map="stored") for query in range(4)]
    return summarise(rows, resamples=100)


def test_a_mean_of_normalised_curves_by_hand() -> None:
    # normalised: 0, 0.5, 1 and 0, 1, 0.75
    rows = [curved([2.0, 3.0, 4.0], 0), curved([-1.0, 3.0, 2.0], 1)]
    (line,) = found = curves(rows, resamples=200)
    assert line == RISE
    curve = found[line]
    np.testing.assert_allclose(curve.mean, [0, 0.75, 0.875])
    np.testing.assert_allclose(curve.low, [0, 0.5, 0.75])
    np.testing.assert_allclose(curve.high, [0, 1, 1])
    # areas 1/2 and (0.5 + 0.875) / 2
    assert curve.area.estimate == pytest.approx((0.5 + 0.6875) / 2)
    assert (curve.area.low, curve.area.high) == pytest.approx((0.5, 0.6875))
    assert (curve.map, curve.pairs, curve.queries) == ("stored", 2, 2)


def test_curves_are_weighted_as_their_pairs_are() -> None:
    rows = [curved([0.0, 0.2, 1.0], 0, weight=3.0), curved([0.0, 0.6, 1.0], 1, weight=1.0)]
    assert curves(rows, resamples=10)[RISE].mean[1] == pytest.approx((3 * 0.2 + 0.6) / 4)


def test_the_area_is_the_one_of_the_summary() -> None:
    rows = several()
    (values, queries) = zip(
        *((one["value"], one["query_id"]) for one in rows if one["method"] == "lime" and one["fill"] == "mean"
          and one["metric"] == "insertion"), strict=True,
    )  # fmt: skip
    expected = mean_by_query(np.array(values), queries, resamples=300, seed=4)
    area = curves(rows, resamples=300, seed=4)[CurveKey("insertion", "lime", False, "query", "mean")].area
    assert (area.estimate, area.low, area.high) == pytest.approx(
        (expected.estimate, expected.low, expected.high), abs=1e-6
    )


def test_one_query_has_a_curve_and_no_interval() -> None:
    curve = curves([curved([0.0, 0.5, 1.0])])[RISE]
    assert curve.queries == 1
    assert np.isnan(curve.low).all()
    np.testing.assert_allclose(curve.mean, [0, 0.5, 1])


def test_the_stored_map_goes_before_the_full_one() -> None:
    full, stored = curved([0.0, 0.1, 1.0], map="full"), curved([0.0, 0.9, 1.0])
    for rows in ([full, stored], [stored, full]):
        curve = curves(rows)[RISE]
        assert (curve.map, curve.mean[1]) == ("stored", pytest.approx(0.9))
    assert curves([full])[RISE].map == "full"


def test_only_curves_of_the_two_metrics_count() -> None:
    rows = [
        curved([0.0, 1.0], metric="insertion_raw"),
        {**curved([0.0, 1.0]), "curve": None},
        {**curved([0.0, 1.0]), "value": None},
        row("iou", "rise", 0, 0.5),
    ]
    assert curves(rows) == {}
    with pytest.raises(ValueError, match="number of points"):
        curves([curved([0.0, 1.0]), curved([0.0, 0.2, 0.5, 1.0], 1)])


def test_equal_rows_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    rows = several()
    mixed = random.Random(1).sample(rows, len(rows))
    for name, some in (("one", rows), ("other", mixed)):
        assert draw_curves(curves(some, resamples=50), tmp_path / "new" / f"{name}.png")
    one, other = ((tmp_path / "new" / f"{name}.png").read_bytes() for name in ("one", "other"))
    assert one == other
    with PIL.Image.open(tmp_path / "new" / "one.png") as picture:
        picture.load()
        assert (picture.format, picture.width) == ("PNG", 1000)
        assert picture.height > 900  # a row for each of the two fills
        assert "Software" not in picture.info


def test_what_the_panels_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("pipeline.evaluation.pictures.draw_curves.save", lambda figure, path: drawn.append(figure))
    found = curves(several(), resamples=50)
    draw_curves(found, tmp_path / "curves.png")
    (figure,) = drawn
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        f"{metric} (fill {fill}, stored maps)" for fill in ("mean", "white") for metric in ("insertion", "deletion")
    ]
    for axis, metric in zip(figure.axes[:2], ("insertion", "deletion"), strict=True):
        shown = [text.get_text().split("  ")[0] for text in axis.get_legend().get_texts()]
        assert shown == ["rise", "lime", "mask", "edges (control)", "random (control)"]  # the best first
        line = axis.get_lines()[0]
        np.testing.assert_allclose(line.get_ydata(), found[CurveKey(metric, "rise", False, "query", "mean")].mean)
        looks = {(one.get_color(), one.get_linestyle(), one.get_marker()) for one in axis.get_lines()}
        patterns = {str(one._dash_pattern) for one in axis.get_lines()[3:]}
        assert len(looks) == 5
        assert len(patterns) == 2  # controls differ in more than their grey
    assert {line.get_color() for line in figure.axes[0].get_lines()} == {
        line.get_color() for line in figure.axes[1].get_lines()
    }


def test_ten_methods_look_different() -> None:
    styles = styles_of([CurveKey("insertion", f"m{at}", False, None, None) for at in range(20)])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 20


def test_the_cascade(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = judged()
    for name in ("one.png", "other.png"):
        assert draw_sanity(summary, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    with PIL.Image.open(tmp_path / "one.png") as picture:
        picture.load()
        assert (picture.format, picture.width) == ("PNG", 1000)
    drawn: list[Any] = []
    monkeypatch.setattr("pipeline.evaluation.pictures.draw_sanity.save", lambda figure, path: drawn.append(figure))
    draw_sanity(summary, tmp_path / "none.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert list(panels) == ["lime", "rise", "edges (control)"]
    labels = {name: set(axis.get_legend_handles_labels()[1]) for name, axis in panels.items()}
    assert "another query's map" in labels["rise"]
    assert "another query's map" not in labels["lime"]
    handles = dict(zip(*reversed(panels["rise"].get_legend_handles_labels()), strict=True))
    hollow, full = (handles[name][0] for name in (UNJUDGED, JUDGED))
    assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([0.06], "white")
    assert list(full.get_xdata()) == [0.5, 1.0]
    np.testing.assert_allclose(list(full.get_ydata()), [0.4 - 0.13 / 4, -0.1 - 0.13 / 4])
    assert panels["rise"].get_ylim()[0] < -0.1 - 0.1  # all of the lowest interval is in view


def test_references_are_resampled_where_they_are_explained() -> None:
    more: dict[str, Any] = {"side": "reference", "reference_id": "r0"}
    rows = [curved([0.0, 0.2, 1.0], query, **more) for query in range(3)]
    curve = curves(rows, resamples=10)[RISE._replace(side="reference")]
    assert (curve.pairs, curve.queries) == (3, 1)
    assert np.isnan(curve.low).all()


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("rise",), {"stranger (control)"}),
        (("rise", "lime"), {"stranger of rise (control)", "stranger of lime (control)"}),
    ],
)
def test_strangers_are_named_by_their_method(
    methods: Sequence[str], expected: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [curved([0.0, 0.5, 1.0], method=method) for method in methods]
    rows += [curved([0.0, 0.4, 1.0], method=f"stranger_{method}", control=True) for method in methods]
    drawn: list[Any] = []
    monkeypatch.setattr("pipeline.evaluation.pictures.draw_curves.save", lambda figure, path: drawn.append(figure))
    draw_curves(curves(rows), tmp_path / "curves.png")
    shown = {text.get_text().split("  ")[0] for text in drawn[0].axes[0].get_legend().get_texts()}
    assert shown == {*methods, *expected}


def test_names_are_text_and_no_formula(tmp_path: Path) -> None:
    rows = [curved([0.0, 0.5, 1.0], method=r"_$\frac{$", fill="$x"), curved([0.0, 1.0, 1.0], method="$\x1b")]
    assert draw_curves(curves(rows), tmp_path / "odd.png")
    odd = sanity(r"_$\frac{$", 0.6, [0.1, 0.2], map="$") + sanity("b", 0.6, [0.1, None])
    assert draw_sanity(summarise(odd, resamples=10), tmp_path / "sanity.png")


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    assert not draw_curves({}, tmp_path / "a.png")
    assert not draw_sanity(summarise([row("iou", "rise", 0, 0.5)], resamples=10), tmp_path / "b.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = curves([curved([0.0, 0.5, 1.0])])
    with pytest.raises(MissingDependency, match=r"pip install 'whymatch\[report\]'"):
        draw_curves(found, tmp_path / "a.png")
    with pytest.raises(MissingDependency, match=r"pip install 'whymatch\[report\]'"):
        draw_sanity(judged(), tmp_path / "b.png")
