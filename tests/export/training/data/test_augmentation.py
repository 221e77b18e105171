"""Augmentation on hand-made images."""

from __future__ import annotations

import pytest
import torch

from export.training.data.augmentation import Augmentation, augment
from transforms.core.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_augmentation_off_changes_nothing_and_a_flip_is_a_mirror() -> None:
    pixels = torch.arange(2 * 3 * 6 * 4, dtype=torch.float32).reshape(2, 3, 6, 4).repeat(8, 1, 1, 1)
    off, _ = augment(pixels, Augmentation(flip=False, shift=0.0, zoom=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(off, pixels)
    flipped, _ = augment(pixels, Augmentation(flip=True, shift=0.0, zoom=0.0), torch.Generator().manual_seed(0))
    mirrored = [torch.allclose(new, old.flip(-1), atol=1e-3) for new, old in zip(flipped, pixels, strict=True)]
    same = [torch.allclose(new, old, atol=1e-3) for new, old in zip(flipped, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(pixels)


def test_a_shift_moves_by_its_share_of_the_frame_at_most() -> None:
    pixels = torch.zeros(64, 3, 40, 20)
    pixels[:, :, 20, 10] = 255
    moved, _ = augment(pixels, Augmentation(flip=False, shift=0.2, zoom=0.0), torch.Generator().manual_seed(0))
    rows = moved.sum(dim=(1, 3)).argmax(dim=1)
    columns = moved.sum(dim=(1, 2)).argmax(dim=1)
    assert 12 <= rows.min() < 15
    assert 25 < rows.max() <= 28
    assert 6 <= columns.min() < 8
    assert 12 < columns.max() <= 14


def test_augmentation_stays_within_pixels() -> None:
    pixels = torch.rand(8, 3, 12, 10) * 255
    strong = Augmentation(shift=0.5, zoom=0.5, jitter=0.9)
    changed, _ = augment(pixels, strong, torch.Generator().manual_seed(1))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(changed, augment(pixels, strong, torch.Generator().manual_seed(1))[0])
    with pytest.raises(UsageError, match="zoom is a share"):
        Augmentation(zoom=1.0)
