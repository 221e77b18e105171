"""Catalogues as data sets: what cannot be used is counted, what is large lies in a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from export.training.data.dataset import load_dataset
from tests.support.photographs import SIZE, Photographs, take
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize

RESIZE = Resize(SIZE, "squash")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return take(tmp_path_factory.mktemp("photographs") / "catalogue")


def test_what_cannot_be_used_is_counted_and_said(tmp_path: Path) -> None:
    photographs = take(tmp_path / "catalogue", products=30)
    images = tmp_path / "catalogue" / "images"
    (images / "p001.png").write_bytes(b"<html>not found</html>")
    (images / "p002.png").write_bytes((images / "p002.png").read_bytes()[:60])
    (images / "p003.png").unlink()
    with (tmp_path / "catalogue" / "catalogue.csv").open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["", "images/p004.png", "red", "m0", "train"],
                ["x1", "../secret.png", "red", "m0", "train"],
                ["x2", "images/p004.png", "red", "m0", "holdout"],
            ]
        )
    said: list[str] = []
    dataset = load_dataset(photographs.catalogue, RESIZE, echo=said.append)
    assert len(dataset.products) == len(dataset.images) == 27
    assert sum(dataset.skipped.values()) == 6
    assert dataset.skipped["html_not_image"] == dataset.skipped["not_found"] == dataset.skipped["bad_row"] == 1
    assert dataset.skipped["address_refused"] == dataset.skipped["split 'holdout'"] == 1
    assert "6 rows left out" in said[-1]
    # The images behind a gap still belong to their products.
    whole = load_dataset(take(tmp_path / "whole", products=30).catalogue, RESIZE, echo=said.append)
    expected = {product.id: image for product, image in zip(whole.products, whole.images, strict=True)}
    for product, image in zip(dataset.products, dataset.images, strict=True):
        assert np.array_equal(image, expected[product.id])


def test_a_catalogue_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    photographs = take(tmp_path / "catalogue", products=3)
    for path in (tmp_path / "catalogue" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"no image .* can be used: 3 empty"):
        load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None)


def test_large_catalogues_lie_in_a_file(
    photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None)
    monkeypatch.setattr("export.training.data.dataset._IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr("export.training.data.dataset._DECODE_AT_ONCE", 7)
    paged = load_dataset(photographs.catalogue, RESIZE, echo=lambda _: None, threads=2)
    assert isinstance(paged.images, np.memmap)
    assert np.array_equal(paged.images, in_memory.images)
    assert paged.products == in_memory.products


def test_splits_by_the_id_where_the_catalogue_has_none(tmp_path: Path) -> None:
    dataset = load_dataset(take(tmp_path / "c", products=60, split=False).catalogue, RESIZE, echo=lambda _: None)
    parts = {split: len(dataset.part(split)) for split in ("train", "valid", "test")}
    assert sum(parts.values()) == 60
    assert parts["train"] > 40
    assert min(parts.values()) > 0
    fewer = load_dataset(take(tmp_path / "d", products=40, split=False).catalogue, RESIZE, echo=lambda _: None)
    whole = {product.id: product.split for product in dataset.products}
    assert all(product.split == whole[product.id] for product in fewer.products)
