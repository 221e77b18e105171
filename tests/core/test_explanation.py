"""Explanations of a query: each depends on its own reference alone, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.attributes.ranking import Ranking, rank_attributes
from transforms.core.explanation import ExplainedImage, Explanation, explain
from transforms.core.imaging.images import ImageLimits
from transforms.core.imaging.maps import area_average, map_statistics
from transforms.core.records import EmbeddedImage, Float32, Frame, Image, Pair
from transforms.core.saliency.contract import Design, Method, References
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.rise import RiseMethod, rise
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod, sliding_window
from transforms.core.similarity import SimilarityFunction, similarities
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

FUNCTIONS: tuple[SimilarityFunction, ...] = get_args(SimilarityFunction)
SIZE = (7, 11)
Bits = tuple[float, bytes, dict[str, float], tuple[dict[str, float], ...]]


def bits(explanation: Explanation) -> Bits:
    """All fields, such that two compare equal only if they are equal to the bit."""
    assert explanation.map.dtype == np.float32
    ranked = tuple(asdict(one) for one in explanation.attributes)
    return explanation.similarity, explanation.map.tobytes(), asdict(explanation.statistics), ranked


@dataclass(frozen=True)
class Query:
    """An image after its masked passes, and what else explaining needs to know of it."""

    image: ExplainedImage
    design: Design
    base: Float32
    perturbed: Float32


def some_query(design: Design, dimension: int, attributes: int, seed: int = 0) -> Query:
    rng = np.random.default_rng(seed)
    base = rng.normal(0.5, 1, (1, dimension))
    image = ExplainedImage(
        rng.random(design.size) < 0.5,
        rng.random(attributes, np.float32) if attributes else None,
        rng.normal(size=(attributes, 3, 4)).astype(np.float32) if attributes else None,
    )
    perturbed = (base + rng.normal(0, 0.4, (design.n, dimension))).astype(np.float32)
    return Query(image, design, base.astype(np.float32), perturbed)


def some_references(count: int, dimension: int) -> Float32:
    return np.random.default_rng(count).normal(0.5, 1, (count, dimension)).astype(np.float32)


def explained(
    query: Query, references: Float32, function: SimilarityFunction = "cosine", top: int = 2
) -> list[Explanation]:
    maps = Perturbation(query.design, query.base, query.perturbed, function).maps(References(references))
    found = similarities(references, query.base, function)[:, 0]
    return list(explain(query.image, found, maps, ranking=Ranking(), top=top, map_size=(4, 5)))


def split(order: Sequence[int], cuts: Sequence[int]) -> Iterator[list[int]]:
    edges = [0, *sorted(cuts), len(order)]
    for start, stop in pairwise(edges):
        yield list(order[start:stop])


DESIGNS: st.SearchStrategy[Design] = st.one_of(
    st.builds(rise, st.just(SIZE), masks=st.integers(1, 40), cells=st.integers(1, 5), seed=st.integers(0, 9)),
    st.builds(sliding_window, st.just(SIZE), window=st.integers(1, 9), stride=st.integers(2, 5)),
)


@settings(deadline=None, max_examples=150)
@given(
    DESIGNS,
    st.integers(1, 9),
    st.integers(1, 70) | st.sampled_from([128, 1280]),
    st.integers(0, 4),
    st.sampled_from(FUNCTIONS),
    st.data(),
)
def test_permuting_and_splitting_references_changes_nothing(
    design: Design,
    references: int,
    dimension: int,
    attributes: int,
    function: SimilarityFunction,
    data: st.DataObject,
) -> None:
    query, vectors = some_query(design, dimension, attributes), some_references(references, dimension)
    whole = [bits(one) for one in explained(query, vectors, function)]
    order = data.draw(st.permutations(range(references)), label="order")
    cuts = data.draw(st.lists(st.integers(0, references), max_size=4), label="cuts")
    pieces = [bits(one) for part in split(order, cuts) for one in explained(query, vectors[part], function)]
    assert pieces == [whole[at] for at in order]


def test_repeated_references_have_equal_explanations() -> None:
    query = some_query(rise(SIZE, masks=30, cells=3), 33, 3)
    vectors = some_references(2, 33)[[0, 1, 0, 0, 1]]
    found = [bits(one) for one in explained(query, vectors)]
    assert found[0] == found[2] == found[3] != found[1] == found[4]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_explanation_is_the_sum_of_its_parts(function: SimilarityFunction) -> None:
    design = sliding_window(SIZE, window=3, stride=2)
    query, references = some_query(design, 6, 3), some_references(2, 6)
    assert query.image.confidence is not None
    assert query.image.activations is not None

    def similarity(left: Float32, right: Float32) -> float:
        a, b = left.astype(np.float64), right.astype(np.float64)
        if function == "euclidean":
            return -float(np.linalg.norm(a - b))
        return float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) if function == "cosine" else 1)

    for reference, found in zip(references, explained(query, references, function, top=3), strict=True):
        base = similarity(reference, query.base[0])
        drops = base - np.array([similarity(reference, one) for one in query.perturbed])
        hidden = 1 - design.masks(0, design.n).astype(np.float64)
        saliency = np.einsum("n,nyx->yx", drops, hidden) / hidden.sum(axis=0)
        assert found.similarity == pytest.approx(base, abs=1e-12)
        np.testing.assert_allclose(found.map, area_average(saliency, (4, 5)), atol=1e-6)
        assert asdict(found.statistics) == pytest.approx(
            asdict(map_statistics(saliency, query.image.background)), abs=1e-9
        )
        ranked = rank_attributes(query.image.confidence, query.image.activations, saliency, Ranking(), 3)
        assert [one.index for one in found.attributes] == [one.index for one in ranked]
        for left, right in zip(found.attributes, ranked, strict=True):
            assert asdict(left) == pytest.approx(asdict(right), abs=1e-9)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dimension", [5, 33, 128, 1280])
@pytest.mark.parametrize("design", [rise(SIZE, masks=41, cells=3), sliding_window(SIZE, window=3, stride=2)])
def test_a_network_that_masks_do_not_move_has_no_evidence(
    function: SimilarityFunction, dimension: int, design: Design
) -> None:
    """A plain image under a fill of its own colour: all passes give one embedding; rounding is no map."""
    embedding = some_references(1, dimension)
    query = some_query(design, dimension, 2)
    still = replace(query, base=embedding, perturbed=np.repeat(embedding, design.n, 0))
    for found in explained(still, some_references(3, dimension), function):
        np.testing.assert_array_equal(found.map, np.zeros((4, 5)))
        assert found.statistics.border_share == found.statistics.background_share == found.statistics.entropy == 0
        assert [one.match for one in found.attributes] == [0, 0]


def test_a_bundle_without_attributes_has_none() -> None:
    found = explained(some_query(rise(SIZE, masks=9, cells=3), 5, 0), some_references(2, 5))
    assert [one.attributes for one in found] == [(), ()]


def test_no_references_have_no_explanations() -> None:
    assert explained(some_query(rise(SIZE, masks=9, cells=3), 5, 3), some_references(0, 5)) == []


@pytest.fixture(scope="module")
def models(bundle: Path) -> Models:
    return Models(Serving(str(bundle), batch=7))


def photograph(height: int, width: int) -> Image:
    return np.random.default_rng(4).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "method",
    [
        RiseMethod(masks=40, cells=3, banks=2),
        RiseMethod(masks=40, cells=3, sampling="sobol", estimator="average"),
        SlidingWindowMethod(window=4, stride=3),
        SbsmMethod(window=4, stride=3),
        LimeMethod(samples=50),
    ],
    ids=lambda method: method.name,
)
@pytest.mark.parametrize("fill", ["auto", "blur"])
def test_rows_of_a_real_bundle_do_not_depend_on_their_group(models: Models, method: Method, fill: str) -> None:
    explaining = ExplanationSettings((Explainer(method, fill),), top=2, map_size=(4, 5))
    height, width = models.similarity.size
    image = LoadedImage(photograph(height, width), Frame((60, 80), (height, width), (0, 0, 60, 80)), "ab" * 32)
    load = ImageLoader(Access(()), ImageLimits(), models.bundle.resize)
    query = PreparedImage.of(image, explaining, models, load)
    matched: list[Matched] = [
        (
            ExplanationTarget(
                Pair(f"p{at}", "q", f"r{at}", reference_attributes=("colour=red",) if at % 2 else None), "query"
            ),
            EmbeddedImage(f"{at}.jpg", f"{at:064x}", 60, 80, embedding, np.full(3, at / 9, np.float32)),
        )
        for at, embedding in enumerate(some_references(9, models.bundle.embedding_size))
    ]
    whole = list(explanation_rows(query, matched))
    order = [3, 1, 8, 0, 2, 7, 4, 6, 5]
    again = PreparedImage.of(image, explaining, models, load)
    pieces = [row for part in split(order, [1, 4]) for row in explanation_rows(again, [matched[at] for at in part])]
    assert len({str(row) for row in whole}) == 9
    assert [repr(row) for row in pieces] == [repr(whole[at]) for at in order]
    (first, *_) = whole
    assert isinstance(first, dict)
    assert first["passes"] == query.passes == again.passes
