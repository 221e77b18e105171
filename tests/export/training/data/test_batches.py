"""The batches of an epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from export.training.data.batches import label_batches, plain_batches


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-1, 5), min_size=1, max_size=60),
    st.integers(2, 20),
    st.integers(2, 5),
    st.integers(0, 99),
)
def test_an_epoch_holds_every_usable_image_at_most_once(labels: list[int], batch: int, each: int, seed: int) -> None:
    numbers = np.array(labels)
    among = np.flatnonzero(np.arange(len(labels)) % 5 != 4)
    batches = label_batches(numbers, among, batch=batch, per_label=each, rng=np.random.default_rng(seed))
    usable = [i for i in among if numbers[i] >= 0 and (numbers[among] == numbers[i]).sum() > 1]
    drawn = [int(i) for indices in batches for i in indices]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(map(int, usable))
    assert len(usable) - len(drawn) < max(batch, 1) / 2  # no more than a short last batch is dropped
    for indices in batches:
        counts = np.unique(numbers[indices], return_counts=True)[1]
        assert counts.min() >= 2  # every image has a positive in its batch


def test_plain_batches_hold_everything_once() -> None:
    batches = plain_batches(np.arange(10, 33), batch=8, rng=np.random.default_rng(0))
    assert [len(indices) for indices in batches] == [8, 8, 7]
    assert sorted(np.concatenate(batches).tolist()) == list(range(10, 33))
