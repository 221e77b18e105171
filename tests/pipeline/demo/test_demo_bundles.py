"""The embedded bundles: small, and what their recipe builds explains alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audits.demo_bundles import agreement, uses_badge
from benchmarks.saliency.shortcut import Finding, look, near_badge
from pipeline import demo
from transforms.serving import bundle as bundles

ROOT = Path(__file__).parents[3]


def test_the_bundles_are_small_and_whole(tmp_path: Path) -> None:
    size = 0
    for name in demo.BUNDLES:
        folder = tmp_path / name
        folder.mkdir()
        bundles.fetch(demo.embedded(name), folder)
        size += sum(file.stat().st_size for file in Path(demo.embedded(name)).iterdir())
    assert size <= 2 * 2**20


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.draw(folder, products=200)
    return folder


def test_the_brand_network_looks_at_the_badge_and_the_category_network_does_not(catalogue: Path) -> None:
    brand, category = (
        look(catalogue, demo.embedded(name), [0], masks=400, queries=8, references=2) for name in ("brand", "category")
    )
    assert uses_badge(brand) is True
    assert uses_badge(category) is False
    assert brand.near.mean() >= 0.8
    assert np.median(brand.drop_badge) > 0.5 > 0.1 > abs(np.median(category.drop_badge))


@pytest.mark.parametrize(
    ("auc", "drop", "verdict"),
    [
        (0.95, 0.6, True),
        (0.95, 0.2, None),  # the maps say so, the similarities do not
        (0.6, 0.2, False),
        (0.6, 0.6, None),
        (0.8, 0.2, None),
    ],
)
def test_a_verdict_needs_maps_and_similarities(auc: float, drop: float, verdict: bool | None) -> None:
    pairs = np.ones(10)
    found = Finding(
        np.ones((1, 10), bool), auc * pairs[None], drop * pairs, np.zeros((10, 2, 3)), drop_elsewhere=0.4 * pairs
    )
    assert uses_badge(found) is verdict


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_recipe_builds_bundles_that_explain_alike(catalogue: Path, tmp_path: Path) -> None:
    """Another seed: other first weights and other batches, the same findings."""
    recipe = ROOT / "examples" / "demo" / "train.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "ONLY": "similarity", "PATH": path}
    subprocess.run([recipe, tmp_path / "out", "1"], check=True, env=environment, capture_output=True, timeout=2300)
    for name in demo.BUNDLES:
        found = agreement(catalogue, demo.embedded(name), str(tmp_path / "out/bundles" / name), queries=6, masks=600)
        assert found.alike, (name, found)
    swapped = agreement(catalogue, demo.embedded("category"), str(tmp_path / "out/bundles/brand"), queries=6, masks=600)
    assert not swapped.alike
    assert swapped.correlation < 0.3


@pytest.mark.parametrize(
    ("peak", "near"), [((10, 10), True), ((9, 20), True), ((4, 12), True), ((3, 12), False), ((10, 25), False)]
)
def test_half_a_cell_around_the_badge(peak: tuple[int, int], near: bool) -> None:
    # a frame of 80 x 64 has cells of 10 x 8; the badge lies at rows 9 to 18, columns 10 to 19
    assert near_badge(peak, (9, 10, 10, 10), (80, 64)) is near
