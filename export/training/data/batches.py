"""The order of an epoch: which images make a batch, for triplets and for single images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.training.data.dataset import Indices


def label_batches(
    labels: Indices, among: Indices, *, batch: int, per_label: int, rng: np.random.Generator
) -> list[Indices]:
    """One epoch of batches for triplets: every image of ``among`` with a usable label once, in groups of one label.

    A group holds ``per_label`` to 2·per_label − 1 images, or all where the label has fewer. Labels of a single image
    are left out: they have no positive. A last batch of less than half the size is dropped, unless it is the only one.
    """
    groups: list[Indices] = []
    for label in np.unique(labels[among]):
        members = among[labels[among] == label]
        if label >= 0 and len(members) > 1:
            groups += np.array_split(rng.permutation(members), max(1, len(members) // per_label))
    rng.shuffle(groups)
    return _fill_batches(groups, batch)


def plain_batches(among: Indices, *, batch: int, rng: np.random.Generator) -> list[Indices]:
    """One epoch of shuffled batches over ``among``, the last one as in :func:`label_batches`."""
    return _fill_batches([row[None] for row in rng.permutation(among)], batch)


def _fill_batches(groups: Sequence[Indices], batch: int) -> list[Indices]:
    """Groups put together in their order, each batch closed by the group that brings it to ``batch`` images."""
    batches: list[Indices] = []
    filling: list[Indices] = []
    for group in groups:
        filling.append(group)
        if sum(map(len, filling)) >= batch:
            batches.append(np.concatenate(filling))
            filling = []
    if filling and (not batches or sum(map(len, filling)) * 2 >= batch):
        batches.append(np.concatenate(filling))
    return batches
