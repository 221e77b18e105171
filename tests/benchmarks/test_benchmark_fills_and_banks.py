"""The measurement of fills and banks, end to end on drawn photographs and a hand-built network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.saliency import fills_and_banks
from benchmarks.saliency.fills import _without_top
from tests.support.models.bundles import small_bundle


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Options that name a bundle, a catalogue of eleven drawn photographs, one of them damaged, and a manifest."""
    small_bundle(tmp_path / "bundle", attributes=False)
    rng, names = np.random.default_rng(0), [f"photo{index}" for index in range(11)]
    for name in names[:-1]:
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 24), Image.Resampling.BILINEAR).save(tmp_path / f"{name}.png")
    (tmp_path / f"{names[-1]}.png").write_bytes(b"<html>not a photograph</html>")
    rows = "".join(f"{name},{name}.png\n" for name in names)
    (tmp_path / "products.csv").write_text("id,image\n" + rows)
    pairs = [(names[at], names[(at + step) % 10]) for at in range(8) for step in (1, 2)] + [("photo8", "photo10")]
    (tmp_path / "pairs.csv").write_text("query_id,reference_id\n" + "".join(f"{q},{r}\n" for q, r in pairs))
    named = {"--bundle": "bundle", "--manifest": "pairs.csv", "--catalogue": "products.csv", "--out": "out.md"}
    return [part for flag, name in named.items() for part in (flag, str(tmp_path / name))]


def _asked(**numbers: int) -> list[str]:
    given = {"references": 2, "threads": 1, **numbers}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def test_it_measures_and_writes_a_page(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _asked(fill_queries=5, queries=8, masks=40, banks=3)
    assert fills_and_banks.main([*inputs, *asked]) == 0
    page = (tmp_path / "out.md").read_text()
    assert "photo10.png" in capsys.readouterr().out  # the damaged one is said and left out
    assert "10 product photographs, 12 × 16" in page
    explained = (5 * 5 + 8 * 2 + 3) * 40  # 5 queries under 5 fills; 8 under two more banks, 3 of them under the first
    judged = 5 * (5 + (5 + 4) * (5 * 2 + 8 + 1))  # wholly hidden ones; regions by fills and by four other photographs
    passes = 10 + explained + judged + 5 * 40  # the photographs themselves, and five timed banks
    assert f"{passes:,} forward passes" in page
    assert re.search(r"^\| one for each query +\| .* \| 0 % ", page, re.MULTILINE)
    for fill in ("mean", "auto", "blur", "#808080", "#ffffff", "random region", "centre"):
        assert re.search(rf"^\| {fill} ", page, re.MULTILINE), fill


def test_a_fill_that_repeats_the_mean_is_left_out() -> None:
    kept, said = fills_and_banks._distinct("mean,auto,#808080", (127.0, 127.0, 127.0))
    assert kept == ("mean", "auto")
    assert "#808080 is left out" in said
    assert fills_and_banks._distinct("auto,#808080", (127.0, 127.0, 127.0)) == (("auto", "#808080"), "")
    assert fills_and_banks._distinct("mean,#808080", (124.0, 116.0, 104.0)) == (("mean", "#808080"), "")


@pytest.mark.parametrize(
    ("change", "message"),
    [(["--bundle", "nowhere"], "nowhere is not there"), (["--queries", "9"], "8 queries of at least 2 references")],
)
def test_what_is_missing_is_said(
    inputs: list[str], capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    asked = _asked(fill_queries=2, queries=3, masks=10, banks=2)
    assert fills_and_banks.main([*inputs, *asked, *change]) == 2
    assert message in capsys.readouterr().err


def test_the_highest_fifth_of_a_map_is_hidden() -> None:
    saliency = np.array([[0.0, 5.0, 1.0, 2.0, 0.5], [9.0, -1.0, 1.0, 2.0, 0.1]])
    np.testing.assert_array_equal(_without_top(saliency), [[1, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
