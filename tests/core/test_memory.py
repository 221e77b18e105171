"""The memory plan is an upper bound of what explaining really takes, and not a wild one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from transforms.core.attributes.ranking import Ranking
from transforms.core.explanation import ExplainedImage, explain
from transforms.core.memory import MemoryPlan, Workload, bank_bytes, megabytes, plan, reference_bytes
from transforms.core.saliency.contract import Design, References
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.rise import rise
from transforms.core.saliency.sliding_window import sliding_window
from transforms.core.similarity import SimilarityFunction, conditioned, for_condition, reduce_perturbed, similarities


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
    return plan(Workload(**{**settings, **changed}))  # type: ignore[arg-type]


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
        Workload(
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
    )
    assert peak <= found.embeddings + found.estimate <= 4 * peak


def peak_of(work: Callable[[], object]) -> int:
    """The bytes that ``work`` holds at most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("function", ["cosine", "euclidean"])
def test_one_condition_after_the_other_stays_within_the_plan(function: SimilarityFunction) -> None:
    """The network's own embeddings stay, and no more than one condition's copy of them lies beside."""
    dimension, chunk = 640, 32
    design = sliding_window((56, 80), stride=8)
    masks = [np.full(dimension, factor, np.float32) for factor in range(1, 6)]

    def work() -> None:
        rng = np.random.default_rng(0)
        perturbed = rng.standard_normal((design.n * 8, dimension), dtype=np.float32)
        references = rng.standard_normal((chunk, dimension), dtype=np.float32)
        for mask in masks:
            seen, others = conditioned(perturbed, mask, function), conditioned(references, mask, function)
            Perturbation(design, seen[:1], seen[: design.n], function).maps(References(others))
            similarities(others, seen, function)

    peak = peak_of(work)
    how: dict[str, int | bool | tuple[int, int]] = {
        "masks": design.n * 8,
        "dimension": dimension,
        "chunk": chunk,
        "size": (56, 80),
        "max_pixels": 1,
    }
    found = planned(**how, grid=1, conditions=True)
    assert peak <= found.embeddings + found.estimate <= 4 * peak
    assert found.embeddings > planned(**how, grid=1).embeddings


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("conditions", [0, 3, 50])
def test_masked_references_stay_within_the_plan(function: SimilarityFunction, conditions: int) -> None:
    count, dimension, chunk = 20, 512, 24
    masks = [np.full(dimension, 1 + number, np.float32) for number in range(conditions)]

    def work() -> None:
        rng = np.random.default_rng(0)
        kept = [
            reduce_perturbed(rng.standard_normal((count, dimension), dtype=np.float32), masks, function)
            for _ in range(chunk)
        ]
        np.stack([for_condition(one, masks[0], 0, conditions, function) for one in kept] if masks else kept)

    peak = peak_of(work)
    assert peak <= reference_bytes(count, dimension, chunk, function, conditions) <= 4 * peak
    assert reference_bytes(0, dimension, chunk, function, conditions) == 0


def test_bytes_in_words() -> None:
    assert megabytes(401_408_000) == "383 MiB"
    assert megabytes(3 * 2**30) == "3,072 MiB"
    assert megabytes(0) == "0 MiB"
