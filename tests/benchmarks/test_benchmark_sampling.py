"""The measurement of sampling designs: what it computes of its measurements, and a small run from end to end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.saliency import sampling
from benchmarks.saliency.sampling_report import (
    INDEPENDENT,
    Localised,
    Measured,
    auc_difference,
    distance_difference,
    mean_auc,
    median_distance,
    page,
    passes_for,
    saving,
)
from tests.support.models.bundles import small_bundle
from transforms.core.errors import UsageError

COUNTS = (64, 128, 256, 512)


def correlation(n: float, c: float) -> float:
    """r of a mean of n draws with the truth, where the variance of one is c times that of the truth."""
    return float(1 / np.sqrt(1 + c / n))


@given(n=st.floats(64, 512), c=st.floats(0.1, 1000))
def test_passes_are_found_where_the_error_falls_as_one_over_n(n: float, c: float) -> None:
    curve = np.array([correlation(count, c) for count in COUNTS])
    assert passes_for(correlation(n, c), COUNTS, curve) == pytest.approx(n, rel=1e-6)


def test_passes_are_clipped_to_what_was_measured() -> None:
    curve = np.array([0.5, 0.7, 0.8, 0.9])
    assert passes_for(0.4, COUNTS, curve) == pytest.approx(64)
    assert passes_for(-0.3, COUNTS, curve) == pytest.approx(64)
    assert passes_for(0.99, COUNTS, curve) == pytest.approx(512)


def test_a_curve_that_falls_by_chance_is_taken_as_level() -> None:
    assert passes_for(0.75, COUNTS, np.array([0.5, 0.7, 0.65, 0.8])) > 256


def measured(factor: float, photographs: int = 6) -> Measured:
    """A contender that is worth ``factor`` times as many independent masks, on photographs of unlike difficulty."""
    hard = np.linspace(20, 60, photographs)
    independent = np.array([[correlation(n, c) for c in hard] for n in (*COUNTS, 1024)])
    other = np.array([[correlation(factor * n, c) for c in hard] for n in COUNTS])
    counts = {INDEPENDENT: (*COUNTS, 1024), "other": COUNTS}
    return Measured("network", counts, {INDEPENDENT: independent, "other": other}, np.full(photographs, 0.9))


def test_the_saving_is_the_factor() -> None:
    found = measured(3.0)
    for at in (0, 1, 2):
        estimate, low, high = (float(part) for part in re.findall(r"[\d.]+", saving(found, "other", at)))
        assert low <= estimate <= high
        assert estimate == pytest.approx(3, abs=0.051)
    assert saving(found, "other", 3) == "> 2.0"  # 512 of them are worth 1,536, and no more than 1,024 were drawn
    assert saving(measured(0.5), "other", 0) == "< 1.0"


def localised() -> Localised:
    """[counts 2, queries 3, seeds 2, references 1], the contender 1 pixel nearer at its first count."""
    distance = np.arange(12.0).reshape(2, 3, 2, 1) + 5
    auc = np.linspace(0.5, 0.9, 12).reshape(2, 3, 2, 1)
    counts = {INDEPENDENT: (64, 128), "other": (64,)}
    return Localised(
        (4, 6), counts, {INDEPENDENT: distance, "other": distance[:1] - 1}, {INDEPENDENT: auc, "other": auc[1:]}
    )


def test_localisation_is_summed_up_by_query() -> None:
    found = localised()
    assert median_distance(found, INDEPENDENT, 0).estimate == 7.5
    assert mean_auc(found, INDEPENDENT, 0).estimate == pytest.approx(np.linspace(0.5, 0.9, 12)[:6].mean())
    nearer = distance_difference(found, "other", 0, 0)
    assert (nearer.estimate, nearer.low, nearer.high) == (-1, -1, -1)
    better = auc_difference(found, "other", 0, 1)
    assert (better.estimate, better.low, better.high) == (0, 0, 0)


def test_distance_to_the_centre_of_a_box() -> None:
    assert sampling.to_centre((3, 4), (2, 3, 3, 3)) == 0  # the middle pixel of 3 x 3
    assert sampling.to_centre((2, 3), (2, 3, 2, 2)) == pytest.approx(np.hypot(0.5, 0.5))
    assert sampling.to_centre((0, 8), (2, 3, 3, 3)) == 5
    np.testing.assert_array_equal(np.argwhere(sampling.region((1, 2, 1, 2), (3, 5))), [[1, 2], [1, 3]])


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Options that name a bundle, a catalogue of five drawn photographs, a manifest, and a folder to draw in."""
    small_bundle(tmp_path / "bundle", attributes=False)
    rng = np.random.default_rng(0)
    for at in range(5):
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 24), Image.Resampling.BILINEAR).save(tmp_path / f"photo{at}.png")
    (tmp_path / "products.csv").write_text("id,image\n" + "".join(f"photo{at},photo{at}.png\n" for at in range(5)))
    pairs = "".join(f"photo{at},photo{(at + step) % 5}\n" for at in range(4) for step in (1, 2))
    (tmp_path / "pairs.csv").write_text("query_id,reference_id\n" + pairs)
    named = {"--manifest": "pairs.csv", "--catalogue": "products.csv", "--demo": "demo", "--cache": "cache"}
    options = [part for flag, name in named.items() for part in (flag, str(tmp_path / name))]
    return [*options, "--networks", f"small={tmp_path / 'bundle'}", "--out", str(tmp_path / "out" / "sampling.md")]


def test_it_measures_and_a_second_run_costs_no_pass(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[tuple[Any, ...]] = []

    def first_only(*given: Any) -> str:
        pages.append(given)
        return page(*given) if len(pages) == 1 else "again"

    monkeypatch.setattr(sampling, "page", first_only)
    assert sampling.main([*inputs, "--quick"]) == 0
    text = (tmp_path / "out" / "sampling.md").read_text()
    designs = 128 + 32 + 64
    passes = 3 * (400 + designs) + 2 * 2 * designs  # three photographs; two badges under two seeds
    assert f"{passes:,} masked passes" in " ".join(text.split())
    for name in sampling.CONTENDERS:
        tables = 3 if name == INDEPENDENT else 4  # correlation, passes saved, distance, AUC
        assert len(re.findall(rf"^\| {name} +\| [-<>\d]", text, re.MULTILINE)) == tables, name
    assert "nan" not in text.lower()
    assert (tmp_path / "out" / "sampling.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(sampling, "plot", lambda *_: None)
    assert sampling.main([*inputs, "--quick"]) == 0
    (((one,), badges, *_), ((other,), other_badges, *_, cost, _)) = pages
    assert re.match(rf"0 masked passes in \S+ minutes, {passes:,} from earlier runs", cost)
    for name in sampling.CONTENDERS:
        np.testing.assert_array_equal(other.correlations[name], one.correlations[name])
        np.testing.assert_array_equal(other_badges.auc[name], badges.auc[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--networks", "small=nowhere"], "nowhere is not there"),
        (["--networks", "nowhere"], "NAME=BUNDLE"),
        (["--photographs", "9"], "4 queries, 9 photographs"),
    ],
)
def test_what_is_missing_is_said(
    inputs: list[str], capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert sampling.main([*inputs, *change]) == 2
    assert message in capsys.readouterr().err


def test_photographs_come_in_an_order_of_their_own(inputs: list[str], tmp_path: Path) -> None:
    pairs, products = str(tmp_path / "pairs.csv"), str(tmp_path / "products.csv")
    chosen = sampling.photograph_pairs(pairs, products, 3)
    assert sampling.photograph_pairs(pairs, products, 4)[:3] == chosen
    for query, reference in chosen:
        assert int(reference[-5]) == int(query[-5]) + 1  # the first reference of each
    with pytest.raises(UsageError, match="4 queries"):
        sampling.photograph_pairs(pairs, products, 5)
