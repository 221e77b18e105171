"""Served scores against recomputed ones: how they agree, what else they may be, which pairs causes are tried on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transforms.core.imaging.alternative_preprocessing import Normalised, alternatives
from transforms.core.imaging.images import Resize
from transforms.core.similarity import SimilarityFunction, similarities
from transforms.core.statistics.served_scores import (
    Measures,
    ScoreAgreement,
    Trial,
    agreement,
    blamed,
    other_scale,
    rank_correlation,
    read_as,
    score_scales,
    trial,
    tried_pairs,
)

NOW = Normalised("rgb", 1 / 255, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3))


def scores(seed: int = 0, pairs: int = 200) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).uniform(0.2, 1, pairs)


def test_agreement_by_hand() -> None:
    served = np.array([0.5, 0.6, 0.7, 0.8])
    found = agreement(served, np.array([0.5, 0.625, 0.7, 0.3]), 0.03125)
    assert (found.pairs, found.off, found.agrees) == (4, 1, False)
    assert found.median == pytest.approx(0.0125)
    assert [found.p95, found.largest] == pytest.approx([0.5, 0.5])
    # ranks 1 2 3 4 and 2 3 4 1: 1 - 6 * (1 + 1 + 1 + 9) / (4 * 15)
    assert found.rank_correlation == pytest.approx(-0.2)


def off_by_half(pairs: int, off: int) -> ScoreAgreement:
    served = scores(pairs=pairs)
    recomputed = served.copy()
    recomputed[:off] += 0.5
    return agreement(served, recomputed, 0.01)


@pytest.mark.parametrize(("pairs", "off", "agrees"), [(200, 0, True), (200, 2, True), (200, 3, False), (50, 1, False)])
def test_one_percent_may_be_off(pairs: int, off: int, agrees: bool) -> None:
    assert off_by_half(pairs, off).agrees is agrees


@pytest.mark.parametrize(
    ("pairs", "allowed"),
    [(1, 0), (2, 1), (3, 2), (50, 2), (200, 2), (299, 2), (300, 3), (399, 3), (400, 4), (512, 5), (2900, 29)],
)
def test_a_model_is_not_refused_for_one_or_two_scores_unless_there_are_no_others(pairs: int, allowed: int) -> None:
    assert off_by_half(pairs, allowed).allowed == allowed
    assert [off_by_half(pairs, off).refused for off in (0, allowed, allowed + 1, pairs)] == [False, False, True, True]


@given(st.integers(1, 600), st.data())
def test_refused_is_over_one_percent_and_three_or_all(pairs: int, data: st.DataObject) -> None:
    off = data.draw(st.integers(0, min(pairs, 8)) | st.just(pairs))
    found = off_by_half(pairs, off)
    assert found.refused is ((100 * off > pairs and off >= 3) or off == pairs)
    assert found.refused or found.allowed < pairs


def test_p95_is_what_95_percent_do_not_exceed() -> None:
    apart = np.arange(1, 41) / 64
    found = agreement(np.zeros(40), apart, 1.0)
    assert found.p95 == apart[37]
    assert found.median == 20.5 / 64


def test_a_score_that_is_not_finite_is_off() -> None:
    found = agreement(np.array([0.5, 0.5, 0.5]), np.array([np.nan, 0.5, np.inf]), 0.01)
    assert (found.off, found.largest, found.median, found.rank_correlation) == (2, math.inf, math.inf, None)


@pytest.mark.parametrize("recomputed", [np.zeros(3), np.zeros((2, 1))])
def test_shapes_are_checked(recomputed: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with pytest.raises(ValueError, match="expected scores"):
        agreement(np.zeros(2), recomputed, 0.01)
    with pytest.raises(ValueError, match="expected scores"):
        agreement(np.zeros(0), np.zeros(0), 0.01)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    found = rank_correlation(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def vectors(*, unit: bool) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], ...]:
    rng = np.random.default_rng(4)
    rows = rng.normal(0.5, 0.6, (2, 30, 6))
    if unit:
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return tuple(side.astype(np.float32) for side in rows)


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_measures_are_the_similarities_of_pairs(function: SimilarityFunction) -> None:
    queries, references = vectors(unit=False)
    expected = [similarities(r[None], q[None], function)[0, 0] for q, r in zip(queries, references, strict=True)]
    np.testing.assert_allclose(Measures.of(queries, references).score(function), expected, atol=1e-12)


def test_the_cosine_with_a_zero_vector_is_0() -> None:
    found = Measures.of(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    assert (found.cosine[0], found.dot[0], found.distance[0]) == (0, 0, pytest.approx(math.sqrt(3)))


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_the_way_back_from_every_reading_gives_the_similarity(function: SimilarityFunction) -> None:
    """The formula that a user is told turns the scores into what the bundle with the told function computes."""
    measures = Measures.of(*vectors(unit=function == "cosine"))
    for reading in score_scales(function):
        score = reading.of(measures)
        back = score if reading.back is None else eval(reading.back, {"score": score, "sqrt": np.sqrt})
        np.testing.assert_allclose(back, measures.score(reading.function), atol=1e-6, err_msg=reading.name)
        told = read_as(reading, function)
        assert (f"--similarity-function {reading.function}" in told) == (reading.function != function)
        assert (str(reading.back) in told) == (reading.back is not None)


def test_only_the_right_reading_fits() -> None:
    measures = Measures.of(*vectors(unit=True))
    for right in score_scales("cosine"):
        served = right.of(measures)
        fits = [
            one for one in score_scales("cosine") if trial(None, one, measures, served, "cosine", 0.01).agreement.agrees
        ]
        assert fits == [right]


def test_trials_are_ordered_by_what_agrees_then_by_the_pairs_off_then_by_distance() -> None:
    served = scores()

    def made(off: int, apart: float) -> Trial:
        recomputed = served + apart
        recomputed[:off] += 1
        return Trial("x", None, agreement(served, recomputed, 0.01))

    order = [made(0, 1e-6), made(0, 1e-3), made(2, 1e-7), made(9, 1e-7), made(200, 0.02), made(200, 0.03)]
    assert sorted(reversed(order), key=lambda one: one.order) == order


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 64))
def test_causes_are_tried_on_pairs_that_are_off_and_some_that_agree(off: list[bool], most: int) -> None:
    flags = np.array(off, np.bool_)
    chosen = tried_pairs(flags, most)
    assert len(chosen) == min(most, len(off))
    assert (np.diff(chosen) > 0).all()
    wrong, right = int(flags[chosen].sum()), int((~flags[chosen]).sum())
    assert wrong >= min(int(flags.sum()), most - most // 4)
    assert right >= min(int((~flags).sum()), most // 4)


def test_a_line_through_scores_of_the_same_order() -> None:
    served = scores()
    line = other_scale(3 * served - 0.5, served)
    assert line is not None
    assert [line.slope, line.shift, line.residual] == pytest.approx([3, -0.5, 0], abs=1e-9)
    turned = other_scale(-served, served)
    assert turned is not None
    assert turned.slope == pytest.approx(-1)
    assert other_scale(served, scores(1)) is None
    assert other_scale(served[:5], 2 * served[:5]) is None, "five pairs say nothing"


def test_a_model_is_blamed_only_where_its_pairs_are_off_and_others_agree() -> None:
    off = np.array([True, True, False])
    assert blamed(["v1", "v1", "v2"], off) == "v1"
    assert blamed(["v1", "v2", "v3"], off) is None
    assert blamed(["v1", "v1", "v1"], off) is None
    assert blamed([None, None, "v2"], off) is None
    assert blamed(["v1", "v2"], np.array([False, False])) is None


def fed(
    image: np.ndarray[tuple[int, ...], np.dtype[np.generic]], how: Normalised
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What a network is fed, by the definition, channel by channel."""
    planes = []
    for at in range(3):
        source = at if how.channels == "rgb" else 2 - at
        planes.append((image[..., source].astype(np.float64) * how.scale - how.mean[at]) / how.std[at])
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_pixels_for_another_setting_feed_the_network_what_that_setting_would(channels: str) -> None:
    now = Normalised(channels, NOW.scale, NOW.mean, NOW.std)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    kinds = set()
    for together in (1, 2):
        for setting in alternatives(now, Resize((4, 7), "squash"), together):
            assert setting.normalised is not None
            pixels = now.pixels_for(image, setting.normalised)
            kinds.add(pixels.dtype)
            expected = fed(image, setting.normalised)
            np.testing.assert_allclose(fed(pixels, now), expected, atol=1e-5 * np.abs(expected).max())
    assert kinds == {np.dtype(np.uint8), np.dtype(np.float32)}


@pytest.mark.parametrize("resize", [Resize((12, 16), "squash"), Resize((224, 224), "crop", "bicubic", 256)])
def test_alternatives_are_all_different_and_none_is_the_bundle(resize: Resize) -> None:
    settings = [one for together in (1, 2) for one in alternatives(NOW, resize, together)]
    met = [(one.normalised, one.resize) for one in settings]
    assert (NOW, resize) not in met
    assert len(met) > 100
    assert {one.resize.mode for one in settings} == {"squash", "crop", "pad"}
    flags = [str(one) for one in alternatives(NOW, resize, 1)]
    assert len(set(flags)) == len(flags)
    assert "--channels bgr in place of --channels rgb" in flags


def test_the_flags_say_what_is_and_what_would_be() -> None:
    settings = [str(one) for one in alternatives(None, Resize((224, 168), "crop", "bilinear", 192), 1)]
    assert "--resize squash in place of --resize crop --shorter 192" in settings
    assert "--interpolation bicubic in place of --interpolation bilinear" in settings
    assert not any("--channels" in one or "--mean" in one for one in settings), "of an unknown normalisation"


def test_what_a_bundle_records_of_its_normalisation() -> None:
    record = {"layout": "nchw", "channels": "bgr", "scale": 1, "mean": [1, 2, 3], "std": [1, 1, 2]}
    assert Normalised.recorded(record) == Normalised("bgr", 1.0, (1, 2, 3), (1, 1, 2))
    for wrong in ({}, {**record, "std": [1, 1, 0]}, {**record, "mean": [1, 2]}, {**record, "channels": "grey"}):
        assert Normalised.recorded(wrong) is None
