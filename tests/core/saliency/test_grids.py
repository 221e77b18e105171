"""Sampling designs: their balance, their prefixes, and what they cannot do."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.saliency.grids import SHIFTED, Sampling, block, draw
from transforms.core.saliency.rise import rise

SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)


def drawn(sampling: Sampling, masks: int, cells: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return draw(sampling, masks, cells, (5, 7), 0.5, np.random.default_rng(seed))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SAMPLINGS), st.integers(1, 300), st.integers(1, 9), st.integers(0, 99))
def test_any_design_has_the_masks_and_shifts_that_it_should(
    sampling: Sampling, masks: int, cells: int, seed: int
) -> None:
    grids, shifts = drawn(sampling, masks, cells, seed)
    assert grids.shape == (masks, cells, cells)
    assert grids.dtype == np.float32
    assert set(np.unique(grids)) <= {0.0, 1.0}
    assert shifts.shape == (masks, 2)
    assert shifts.dtype == np.int64
    assert shifts.min() >= 0
    assert (shifts < [5, 7]).all()
    again = drawn(sampling, masks, cells, seed)
    np.testing.assert_array_equal(again[0], grids)
    np.testing.assert_array_equal(again[1], shifts)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_seeds_draw_other_masks_and_shifts(sampling: Sampling) -> None:
    first, second = drawn(sampling, 128, seed=1), drawn(sampling, 128, seed=2)
    assert (first[0] != second[0]).any()
    assert (first[1] != second[1]).any()


@pytest.mark.parametrize(("cells", "order"), [(8, 64), (4, 16), (7, 64), (6, 64), (3, 16), (2, 4), (1, 2), (9, 128)])
def test_a_hadamard_block_mixes_no_cell_with_another(cells: int, order: int) -> None:
    assert block("hadamard", cells) == 2 * order
    grids, shifts = drawn("hadamard", 2 * order, cells)
    signs = 2 * grids.reshape(2 * order, -1) - 1
    # rows, then the design folded over: each mask is followed by its complement, at the same shift
    np.testing.assert_array_equal(signs[1::2], -signs[::2])
    np.testing.assert_array_equal(shifts[1::2], shifts[::2])
    np.testing.assert_array_equal(signs[::2].T @ signs[::2], order * np.eye(cells * cells))
    # over block and complements, no cell is mixed with the product of any two
    pairs = np.einsum("na,nb->nab", signs, signs).reshape(2 * order, -1)
    np.testing.assert_array_equal(signs.T @ pairs, 0)
    np.testing.assert_array_equal(signs.sum(axis=0), 0)


def test_groups_of_rows_share_a_shift_and_blocks_are_drawn_anew() -> None:
    grids, shifts = drawn("hadamard", 256)
    groups = shifts.reshape(-1, 2 * SHIFTED, 2)
    np.testing.assert_array_equal(groups, groups[:, :1].repeat(2 * SHIFTED, axis=1))
    assert len(np.unique(groups[:, 0], axis=0)) > 8
    assert (grids[:128] != grids[128:]).any()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_cells_are_kept_by_half_on_average(sampling: Sampling) -> None:
    grids, shifts = drawn(sampling, 1024, 4)
    assert np.abs(grids.mean(axis=0) - 0.5).max() < 5 * 0.5 / 32
    assert np.abs(shifts.mean(axis=0) - [2, 3]).max() < 0.35


def test_a_sobol_design_keeps_cells_more_evenly_than_draws_do() -> None:
    spread = [np.abs(drawn(sampling, 256, 4)[0].mean(axis=0) - 0.5).max() for sampling in ("sobol", "independent")]
    assert spread[0] < spread[1] / 2


def test_independent_draws_and_sobol_points_keep_any_share() -> None:
    for sampling in ("independent", "sobol"):
        grids, _ = draw(sampling, 2048, 4, (5, 7), 0.2, np.random.default_rng(0))
        assert abs(float(grids.mean()) - 0.2) < 0.01
    with pytest.raises(ValueError, match=r"p must be 0\.5, not 0\.2"):
        rise((20, 30), cells=4, p=0.2, sampling="hadamard")


@pytest.mark.parametrize("wrong", [{"sampling": "latin"}, {"estimator": "median"}])
def test_unknown_designs_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        rise((20, 30), cells=4, **wrong)  # type: ignore[arg-type]
