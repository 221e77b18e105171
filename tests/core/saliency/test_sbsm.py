"""SBSM against its definition and against xaitk-saliency, on frames that are not square."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from transforms.core.records import Float64
from transforms.core.saliency.sbsm import Sbsm, sbsm
from transforms.core.saliency.sliding_window import sliding_window

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
PARAMETERS = st.tuples(SIZES, st.integers(1, 14), st.integers(1, 15))


def xaitk(module: str) -> Any:
    """A module of xaitk-saliency, or a skipped test; what its own dependencies deprecate is not ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pytest.importorskip("xaitk_saliency")
        return import_module(f"xaitk_saliency.impls.{module}")


def some_scores(design: Sbsm, references: int, n: int | None = None) -> tuple[Float64, Float64]:
    """Scores [R, n] and base [R] with drops of both signs."""
    rng = np.random.default_rng(design.n + 31 * references)
    return rng.normal(0.8, 0.1, (references, n or design.n)), rng.normal(0.8, 0.05, references)


def slow_estimate(hidden: Any, scores: Float64, base: Float64) -> Float64:
    """The formula, one pixel at a time; ``hidden`` [N, H, W] is 1 in the windows."""
    maps = np.zeros((len(scores), *hidden.shape[1:]))
    for r, y, x in np.ndindex(*maps.shape):
        drops = [max(float(base[r] - f), 0.0) for f, window in zip(scores[r], hidden, strict=False) if window[y, x]]
        if drops:
            maps[r, y, x] = math.fsum(drops) / len(drops)
    return maps


def test_a_map_by_hand() -> None:
    design = sbsm((2, 5), window=2, stride=2)  # windows over columns 0-1, 2-3 and 3-4
    maps = design.estimate(np.array([[0.5, 0.9, 0.3], [1.0, 0.6, 0.7]]), np.array([0.7, 0.8]))
    expected = [[0.2, 0.2, 0, (0 + 0.4) / 2, 0.4], [0, 0, 0.2, (0.2 + 0.1) / 2, 0.1]]
    np.testing.assert_allclose(maps, np.repeat(np.array(expected)[:, None], 2, axis=1), atol=1e-15)
    assert (maps[0, :, 2] == 0).all()


@settings(deadline=None, max_examples=60)
@given(PARAMETERS, st.integers(1, 3), st.data())
def test_the_estimate_is_the_literal_mean(
    parameters: tuple[tuple[int, int], int, int], references: int, data: st.DataObject
) -> None:
    size, window, stride = parameters
    design = sbsm(size, window=window, stride=stride)
    n = data.draw(st.integers(1, design.n), label="windows scored so far")
    scores, base = some_scores(design, references, n)
    maps = design.estimate(scores, base)
    assert maps.dtype == np.float64
    assert maps.min() >= 0
    expected = slow_estimate(1 - design.masks(0, design.n), scores, base)
    np.testing.assert_allclose(maps, expected, atol=1e-12)
    np.testing.assert_array_equal(maps > 0, expected > 0)  # 0 means exactly 0


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((14, 21), 5, 2), ((21, 14), 5, 3), ((1, 30), 4, 1), ((9, 8), 20, 4)]
)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_maps_are_those_of_xaitk(size: tuple[int, int], window: int, stride: int, metric: str) -> None:
    scoring = xaitk("gen_descriptor_sim_sal.similarity_scoring").SimilarityScoring(metric)
    design = sbsm(size, window=window, stride=stride)
    rng = np.random.default_rng(3)
    references, query = rng.normal(size=(4, 6)), rng.normal(size=6)
    perturbed = query + 0.5 * rng.normal(size=(design.n, 6))
    theirs = scoring.generate(query, references, perturbed, design.masks(0, design.n))
    # a distance that grows is a similarity that falls; theirs is scaled by its maximum
    maps = design.estimate(-cdist(references, perturbed, metric), -cdist(references, query[None], metric)[:, 0])
    peaks = maps.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps / np.where(peaks > 0, peaks, 1), theirs, atol=1e-6)
    assert (peaks > 0).any()
    assert ((maps == 0).any() and (maps > 0).any()) or design.n == 1


class Means:
    """A describer of images for xaitk-saliency: the mean colour of each quarter, eight numbers of them."""

    def generate_arrays_from_images(self, images: Iterable[Any]) -> Iterator[Float64]:
        for image in images:
            halves = [part for half in np.array_split(image, 2) for part in np.array_split(half, 2, axis=1)]
            yield np.concatenate([part.mean(axis=(0, 1))[:2] for part in halves])


def test_the_whole_method_is_that_of_xaitk_where_its_windows_lie_as_ours() -> None:
    stack = xaitk("gen_image_similarity_blackbox_sal.sbsm").SBSMStack((4, 4), (4, 4), fill=[255, 255, 255])
    rng = np.random.default_rng(0)
    query, *others = rng.integers(0, 256, (4, 12, 20, 3), dtype=np.uint8)
    theirs = stack.generate(query, others, Means())
    design = sbsm((12, 20), window=4, stride=4)
    masks = design.masks(0, design.n)[..., None]
    masked = (masks * query + (1 - masks) * 255).astype(np.uint8)
    perturbed, references, base = (
        np.array(list(Means().generate_arrays_from_images(x))) for x in (masked, others, query[None])
    )
    maps = design.estimate(-cdist(references, perturbed), -cdist(references, base)[:, 0])
    np.testing.assert_allclose(maps / maps.max(axis=(1, 2), keepdims=True), theirs, atol=1e-6)
    assert 0 < (maps == 0).mean() < 1


@settings(deadline=None, max_examples=40)
@given(PARAMETERS)
def test_masks_and_key_are_those_of_the_sliding_window(parameters: tuple[tuple[int, int], int, int]) -> None:
    size, window, stride = parameters
    design, windows = sbsm(size, window=window, stride=stride), sliding_window(size, window=window, stride=stride)
    assert (design.key, design.n, design.size) == (windows.key, windows.n, windows.size)
    np.testing.assert_array_equal(design.masks(0, design.n), windows.masks(0, windows.n))
    scores, base = some_scores(design, 2)
    assert (design.estimate(scores, base) >= windows.estimate(scores, base) - 1e-15).all()
    lower = np.minimum(scores, base[:, None])
    np.testing.assert_allclose(design.estimate(lower, base), windows.estimate(lower, base), atol=1e-14)


def test_the_defaults_share_a_bank_with_the_sliding_window() -> None:
    assert sbsm((112, 80)).key == sliding_window((112, 80)).key
    assert sbsm((112, 112)).n == 441


@settings(deadline=None, max_examples=40)
@given(PARAMETERS, st.integers(1, 6), st.data())
def test_a_map_depends_on_its_own_scores_alone_to_the_bit(
    parameters: tuple[tuple[int, int], int, int], references: int, data: st.DataObject
) -> None:
    design = sbsm(parameters[0], window=parameters[1], stride=parameters[2])
    scores, base = some_scores(design, references)
    whole = design.estimate(scores, base)
    order = data.draw(st.permutations(range(references)))
    cut = data.draw(st.integers(0, references))
    parts = [design.estimate(scores[some], base[some]) for some in (order[:cut], order[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    np.testing.assert_array_equal(design.estimate(np.asfortranarray(scores), base), whole)


def test_a_thousand_references_and_one_are_the_same() -> None:
    design = sbsm((6, 9), window=3, stride=2)
    scores, base = some_scores(design, 1000)
    whole = design.estimate(scores, base)
    for at in (0, 517, 999):
        np.testing.assert_array_equal(design.estimate(scores[at : at + 1], base[at : at + 1])[0], whole[at])


@pytest.mark.parametrize("score", [0.3, 0.1 + 0.2, 1.0, 5.0])
def test_no_window_that_lowers_the_similarity_gives_exact_zeros(score: float) -> None:
    design = sbsm((9, 14), window=4, stride=3)
    np.testing.assert_array_equal(design.estimate(np.full((1, design.n), score), np.array([0.3])), np.zeros((1, 9, 14)))


def test_a_frame_one_pixel_high_and_pixels_between_windows() -> None:
    maps = sbsm((1, 9), window=2, stride=5).estimate(np.array([[0.1, 0.2, 0.3]]), np.array([0.5]))
    np.testing.assert_allclose(maps[0, 0], [0.4, 0.4, 0, 0, 0, 0.3, 0.3, 0.2, 0.2], atol=1e-15)
    assert (maps[0, 0, 2:5] == 0).all()


def test_impossible_parameters_and_scores_are_named() -> None:
    with pytest.raises(ValueError, match="window >= 1 and stride >= 1, got 0 and 4"):
        sbsm((9, 14), window=0)
    design = sbsm((9, 14), window=4, stride=3)
    with pytest.raises(ValueError, match=f"n' <= {design.n}"):
        design.estimate(np.zeros((1, design.n + 1)), np.zeros(1))
    with pytest.raises(ValueError, match="base"):
        design.estimate(np.zeros((2, design.n)), np.zeros(1))
    assert design.estimate(np.zeros((0, design.n)), np.zeros(0)).shape == (0, 9, 14)
