"""The memory plan is an upper bound of what explaining really takes, and not a wild one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from transforms.core.attributes import Ranking
from transforms.core.explanation import ExplainedImage, explain
from transforms.core.memory import MemoryPlan, bank_bytes, megabytes, plan
from transforms.core.saliency.contract import Design, References
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.rise import rise
from transforms.core.saliency.sliding_window import sliding_window
from transforms.core.similarity import SimilarityFunction, similarities


def planned(**changed: int | bool | tuple[int, int]) -> MemoryPlan:
    settings: dict[str, int | bool | tuple[int, int]] = {
        "masks": 100,
        "banks": 3,
        "size": (20, 30),
        "batch": 16,
        "dimension": 50,
        "chunk": 8,
        "max_pixels": 1000,
        "hold": True,
    }
    return plan(**{**settings, **changed})  # type: ignore[arg-type]


def test_the_bank_by_hand() -> None:
    assert bank_bytes(2000, (224, 224)) == 401_408_000  # the 400 MB of 2,000 masks of 224 x 224 in float32
    assert planned().bank == 3 * 100 * 20 * 30 * 4
    assert planned(hold=False).bank == 16 * 20 * 30 * 4
    assert planned(hold=False, masks=5).bank == 5 * 20 * 30 * 4


def test_the_total_is_the_sum() -> None:
    found = planned()
    assert found.total == found.bank + found.embeddings + found.estimate + found.decode
    assert found.total > 0
    assert planned(max_pixels=2000).decode == 2 * found.decode


@pytest.mark.parametrize("name", ["masks", "banks", "dimension", "chunk", "max_pixels", "grid"])
def test_more_of_anything_needs_more(name: str) -> None:
    assert planned(**{name: 5000}).total > planned(**{name: 50}).total


@pytest.mark.parametrize("function", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("draw", "grid", "dimension", "chunk"),
    [
        (lambda: rise((112, 80), masks=1000), 64, 64, 1),
        (lambda: rise((112, 80), masks=1000, estimator="average"), 64, 256, 8),
        (lambda: rise((112, 80), masks=1000), 64, 1280, 64),
        (lambda: rise((56, 80), masks=1000, cells=16), 256, 64, 8),
        (lambda: sliding_window((112, 80)), 1, 1280, 8),
    ],
    ids=["one reference", "one reference, average", "long embeddings", "small cells", "sliding window"],
)
def test_explaining_stays_within_the_plan(
    draw: Callable[[], Design], grid: int, dimension: int, chunk: int, function: SimilarityFunction
) -> None:
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        design = draw()
        perturbed = rng.standard_normal((design.n, dimension), dtype=np.float32)
        image = ExplainedImage(np.zeros(design.size, np.bool_))
        references = rng.standard_normal((chunk, dimension), dtype=np.float32)
        similarity = similarities(references, perturbed[:1], function)[:, 0]
        maps = Perturbation(design, perturbed[:1], perturbed, function).maps(References(references))
        for _ in explain(image, similarity, maps, ranking=Ranking(), top=5, map_size=(28, 28)):
            pass
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    size = (design.size[0], design.size[1])
    found = plan(
        masks=design.n,
        banks=1,
        size=size,
        batch=16,
        dimension=dimension,
        chunk=chunk,
        max_pixels=1,
        hold=True,
        grid=grid,
    )
    assert peak <= found.embeddings + found.estimate <= 4 * peak


def test_bytes_in_words() -> None:
    assert megabytes(401_408_000) == "383 MiB"
    assert megabytes(3 * 2**30) == "3,072 MiB"
    assert megabytes(0) == "0 MiB"
