"""The measurement of methods: what it computes of its measurements, the page's promises, and a small run."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from benchmarks.saliency import methods
from benchmarks.saliency.methods_picture import TILE, heading, sheet, unlike
from benchmarks.saliency.methods_report import (
    BEGIN,
    END,
    Areas,
    Cost,
    Judged,
    Results,
    cost_table,
    quality_table,
    rewritten,
)
from tests.support.models.bundles import small_bundle
from transforms.core.errors import UsageError
from transforms.core.saliency.methods import METHODS
from transforms.serving import bundle as bundles

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def judged(inserted: list[float], deleted: list[float], passes: int = 5) -> Judged:
    """Curves of a map that is not looked at."""
    return Judged(np.zeros((2, 3), np.float32), np.array(inserted), np.array(deleted), passes)


def test_every_method_is_measured_with_its_defaults() -> None:
    by_name = {one.name: one for one in methods.SETTINGS}
    assert len(by_name) == len(methods.SETTINGS)
    assert len({one.explainer.id for one in methods.SETTINGS}) == len(methods.SETTINGS)
    for name, kind in METHODS.items():
        explainer = by_name[name].explainer
        assert (explainer.method, explainer.fill, explainer.perturb) == (kind(), kind.fill, "query")
    assert {one.explainer.method.name for one in methods.SETTINGS if one.both} == {
        "rise",
        "sliding_window",
        "lime",
        "mask",
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_page_has_every_parameter_with_its_default(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.search(rf"^## {name}$", text, re.MULTILINE)
    assert re.search(rf"^\| \[`{name}`\]\(#{name}\) ", text, re.MULTILINE)
    kind = METHODS[name]
    settable = [field.name for field in fields(kind) if field.name != "seed"]
    found = dict(re.findall(rf"^\| `{name}\.(\w+)` \| (\S+) \|", text, re.MULTILINE))
    assert found == {parameter: str(getattr(kind(), parameter)).replace("None", "none") for parameter in settable}


def test_the_page_s_links_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= sections
    rewritten(PAGE, "the marks are there")


def test_only_the_section_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    first = rewritten(page, "\nnew\n")
    assert first == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    page.write_text(first, encoding="utf-8")
    assert rewritten(page, "new") == first
    assert rewritten(tmp_path / "none.md", "new") == f"{BEGIN}\n\nnew\n\n{END}\n"


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}", f"{BEGIN} {END} {END}"])
def test_a_page_without_its_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"page\.md must have one line"):
        rewritten(page, "new")


def test_areas_are_those_of_every_query() -> None:
    # normalised 0, 1, 1 and 1, 0.5, 0; the trapezoids' areas are 0.75 and 0.5
    areas = Areas.of([judged([0.2, 0.6, 0.6], [3, 2, 1]), judged([0, 0, 1], [1, 0, 0])])
    np.testing.assert_allclose(areas.inserted, [0.75, 0.25])
    np.testing.assert_allclose(areas.deleted, [0.5, 0.25])
    np.testing.assert_allclose(areas.raw_inserted, [0.5, 0.25])
    np.testing.assert_allclose(areas.raw_deleted, [2, 0.25])
    np.testing.assert_allclose(areas.lead, [0.25, 0])


def test_settings_are_compared_query_by_query() -> None:
    good, bad = judged([0, 1, 1], [1, 0, 0]), judged([0, 0, 1], [1, 1, 0])  # leads 0.5 and -0.5
    lines = quality_table({"first": [good, bad], "same": [good, bad], "worse": [bad, bad]}).splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header[-2:] == ["lead", "against first"]
    assert rows[0][1] == "0.500 (0.250 to 0.750)"
    assert [row[-2:] for row in rows[:2]] == [["0.000", ""], ["0.000", "0.000 (0.000 to 0.000)"]]
    assert rows[2][-1] == "-0.500 (-1.000 to 0.000)"


def test_the_table_of_costs_has_both_numbers_of_references() -> None:
    cost = Cost("rise", (1.234, 0.1567), (513, 520), 300 * 2**20, 312 * 2**20)
    of_queries = [judged([0, 1], [1, 0], 513), judged([0, 1], [1, 0], 1025)]
    results = Results({"rise": of_queries, "random": []}, [cost], (2, 3), 8, 3, 2)
    cells = [cell.strip() for cell in cost_table(results).splitlines()[-1].strip("|").split("|")]
    assert cells == ["rise", "769", "513", "520", "1.23", "0.157", "12 (300)"]


def test_a_map_with_its_curves_is_kept(tmp_path: Path) -> None:
    one = Judged(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.1, 0.2]), np.array([0.3, 0.4]), 7)
    path = tmp_path / "new" / "one.npz"
    one.write(path)
    again = Judged.read(path)
    for name in ("saliency", "inserted", "deleted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(one, name))
    assert again.passes == 7
    assert [found.name for found in path.parent.iterdir()] == ["one.npz"]


@pytest.mark.parametrize("size", [(5, 9), (1, 8), (12, 16)])
def test_baselines_are_maps_of_the_frame(size: tuple[int, int]) -> None:
    for name, make in methods.BASELINES.items():
        found = make(size, np.random.default_rng(3))
        assert found.shape == size, name
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, make(size, np.random.default_rng(3)))
    gaussian = methods.centre(size, np.random.default_rng(0))
    np.testing.assert_allclose(gaussian, gaussian[::-1, ::-1])
    assert gaussian.max() == gaussian[size[0] // 2, size[1] // 2]


def test_random_cells_are_coarse() -> None:
    def roughness(found: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float(np.abs(np.diff(found, axis=0)).mean() + np.abs(np.diff(found, axis=1)).mean())

    fine, coarse = (make((80, 64), np.random.default_rng(0)) for make in (methods.random_pixels, methods.random_cells))
    assert roughness(coarse) < roughness(fine) / 4


def test_unlike_images_are_chosen_far_from_each_other() -> None:
    angles = np.radians([0, 5, 90, 180, 183, 270])
    assert unlike(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), 4)[:2] == [0, 3]
    assert sorted(unlike(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), 4)) == [0, 2, 3, 5]
    assert unlike(np.ones((3, 2), np.float32), 3) == [0, 1, 2]


def test_the_picture_has_a_row_for_each_pair() -> None:
    tile = np.full((TILE, TILE // 2, 3), 200, np.uint8)
    one, two = (sheet([("similarity 0.50", [("query", tile)] * columns)] * 2) for columns in (3, 5))
    assert one.size[1] == two.size[1]
    assert two.size[0] - one.size[0] == 2 * (TILE + 5)
    assert all(max(map(len, heading(name).splitlines())) <= 14 for name in METHODS)


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Options that name a bundle without a gradient, a catalogue of five drawn photographs, and a manifest."""
    small_bundle(tmp_path / "bundle", attributes=False)
    rng = np.random.default_rng(0)
    for at in range(5):
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        PIL.Image.fromarray(coarse).resize((32, 24), PIL.Image.Resampling.BILINEAR).save(tmp_path / f"photo{at}.png")
    (tmp_path / "products.csv").write_text("id,image\n" + "".join(f"photo{at},photo{at}.png\n" for at in range(5)))
    pairs = "".join(f"photo{at},photo{(at + step) % 5}\n" for at in range(4) for step in (1, 2))
    (tmp_path / "pairs.csv").write_text("query_id,reference_id\n" + pairs)
    named = {"--bundle": "bundle", "--pairs": "pairs.csv", "--catalogue": "products.csv", "--cache": "cache"}
    options = [part for flag, name in named.items() for part in (flag, str(tmp_path / name))]
    return [*options, "--threads", "1", "--out", str(tmp_path / "page.md")]


def test_a_run_measures_what_the_bundle_allows_and_resumes(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_memory_of", lambda _: lambda at: [2**20 * at, 2**21 * at])
    assert methods.main([*inputs, "--quick"]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "nan" not in page.lower()
    bundle = bundles.read(str(tmp_path / "bundle"))
    assert (bundle.gradient, bundle.projection is None) == (None, False)
    for one in methods.SETTINGS:
        rows = re.findall(rf"^\| {re.escape(one.name)} +\| \d", page, re.MULTILINE)
        left_out = one.explainer.method.needs.graph == "gradient"
        assert len(rows) == (0 if left_out else 2), one.name
        assert (f"Not measured, {one.name}: no gradient" in page) == left_out
    with PIL.Image.open(tmp_path / "page.png") as picture:
        assert picture.size[0] > 6 * TILE

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(methods, "costs", fail)
    monkeypatch.setattr(methods.Bench, "_judge", fail)
    assert methods.main([*inputs, "--quick"]) == 0
    again = (tmp_path / "page.md").read_text()
    assert again[again.index("### Insertion") :] == page[page.index("### Insertion") :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--bundle", "nowhere"], "nowhere is not there"),
        (["--queries", "9"], "0 queries of at least 8 references; 9 were asked for"),
    ],
)
def test_what_is_missing_is_said(
    inputs: list[str], capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert methods.main([*inputs, *change]) == 2
    assert message in capsys.readouterr().err


def test_a_page_without_marks_stops_the_run_before_it_measures(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("by hand")
    assert methods.main([*inputs, "--quick"]) == 2
    assert "must have one line" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "by hand"


def test_pairs_are_the_first_of_each_query_whatever_their_number(inputs: list[str], tmp_path: Path) -> None:
    pairs, products = str(tmp_path / "pairs.csv"), str(tmp_path / "products.csv")
    chosen = methods.chosen_pairs(pairs, products, 3, 2)
    assert methods.chosen_pairs(pairs, products, 4, 1)[:3] == [found[:1] for found in chosen]
    for found in chosen:
        number = int(found[0].query_id[-1])
        assert [int(pair.reference_id[-1]) for pair in found] == [(number + 1) % 5, (number + 2) % 5]
        assert {pair.query for pair in found} == {str(tmp_path / f"photo{number}.png")}
