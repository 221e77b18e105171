"""The saliency maps that supervise, as an audit's tables give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.training.data.saliency_maps import SaliencyMaps, read_saliency
from tests.support.tables.saliency import RESIZE, row, write
from transforms import tables
from transforms.core.errors import UsageError
from transforms.core.records import Product

PRODUCTS = tuple(
    Product(name, f"{name}.png", (("colour", "red"),), split)
    for name, split in (("a", "train"), ("b", "train"), ("c", "test"), ("d", "train"))
)


MORE = (*PRODUCTS, *(Product(f"r{at}", f"r{at}.png", (("colour", "red"),), "train") for at in range(30)))


def quiet(*folders: str, **changed: Any) -> SaliencyMaps:
    return read_saliency(folders, MORE, RESIZE, **{"echo": lambda _: None, **changed})


def test_maps_come_to_the_products_that_they_explain(tmp_path: Path) -> None:
    rows = [
        row("a", "b", value=1),
        row("a", "d", value=2, side=None),  # tables of version 1
        row("a", "b", value=3, side="reference"),
        row("c", "a", value=4),  # of the test split: not for training
        row("z", "a", value=5),  # no product of the catalogue
        row("a", "c", value=6),  # the map is what a test product's image makes of it
        row("c", "b", value=7, side="reference"),
        row("b", "z", value=8),
    ]
    said: list[str] = []
    found = quiet(write(tmp_path, rows), echo=said.append)
    assert "3 were read; not used: 2 of products that do not train, 3 of pairs with one that does not" in said[0]
    found = SaliencyMaps(found.maps, found.first[:5], found.source)
    assert np.diff(found.first).tolist() == [2, 1, 0, 0]
    assert sorted(found.maps[:2, 0, 0].tolist()) == [1, 2]
    assert found.maps[2, 0, 0] == 3
    maps, real = found.of(np.array([1, 3, 0]))
    assert maps.shape == (3, 2, 3, 2)
    assert real.tolist() == [[True, False], [False, False], [True, True]]
    assert (maps[~real] == 0).all()
    assert found.source == {
        "maps": 3,
        "products": 2,
        "models": ["m1"],
        "methods": ["rise"],
        "explainers": ["e1"],
        "runs": ["r1"],
        "limit": 20,
    }


def test_of_many_maps_the_same_are_kept_in_whatever_order(tmp_path: Path) -> None:
    rows = [row("a", f"r{at}", value=at) for at in range(30)]
    first = quiet(write(tmp_path / "one", rows), limit=7)
    second = quiet(write(tmp_path / "two", rows[::-1]), limit=7)
    assert first.maps.shape == (7, 3, 2)
    assert np.array_equal(first.maps, second.maps)
    more = quiet(str(tmp_path / "one"), limit=8)
    assert set(first.maps[:, 0, 0]) < set(more.maps[:, 0, 0])


def test_an_explanation_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    rows = [row("a", f"r{at}", value=at) for at in range(9)]
    one = write(tmp_path / "one", rows)
    expected = quiet(one)
    for limit in (4, 20):
        np.testing.assert_array_equal(quiet(one, one, limit=limit).maps, quiet(one, limit=limit).maps)
    write(tmp_path / "one", rows[::-1], run_id="r2")
    again = quiet(one)
    np.testing.assert_array_equal(again.maps, expected.maps)
    np.testing.assert_array_equal(again.first, expected.first)
    assert again.source["runs"] == ["r1", "r2"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "sbsm"}, "several methods: rise, sbsm"),
        ({"explainer_id": "e2"}, "several explainers of m1: e1, e2"),
    ],
)
def test_what_was_made_in_several_ways_does_not_supervise_together(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    one = write(tmp_path / "one", [row("a", "b", value=1)])
    other = [row("b", "a", value=2, **changed)]
    # who asks for two folders knows it; the record says it
    both = quiet(one, write(tmp_path / "two", other, run_id="r2")).source
    assert len(both["methods"]) + len(both["explainers"]) == 3
    assert both["runs"] == ["r1", "r2"]
    write(tmp_path / "one", other, run_id="r2")
    with pytest.raises(UsageError, match=message):
        quiet(one)
    # of what does not supervise it does not matter
    write(tmp_path / "three", [row("a", "b", value=1), row("c", "a", value=1, **changed)])
    assert quiet(str(tmp_path / "three")).source["methods"] == ["rise"]


def test_maps_of_several_audits_come_together(tmp_path: Path) -> None:
    write(tmp_path, [row("a", "b", value=1)])
    write(tmp_path, [row("a", "b", value=2, model_id="m2")], run_id="r2")
    write(tmp_path, [row("a", "b", value=9, model_id="m3")], run_id="unfinished", finished=False)
    found = quiet(str(tmp_path))
    assert sorted(found.maps[:, 0, 0].tolist()) == [1, 2]
    assert found.source["models"] == ["m1", "m2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("c", "a", value=1)], "no map is of a pair .*: 1 of products that do not train"),
        ([row("a", "c", value=1)], "no map is of a pair .* 1 of pairs with one that does not"),
        ([row("a", "b", value=1, map_height=2)], "the map of pair pabquery in run r1 is none of 2x2 finite numbers"),
        ([row("a", "b", value=1, map_height=-3, map_width=-2)], "is none of -3x-2 finite numbers"),
        ([row("a", "b", value=1, map=[1.0, None, 1, 1, 1, 1])], "is none of 3x2 finite numbers"),
        ([row("a", "b", value=1, input_height=24)], "an input frame of 24x8"),
        ([row("a", "b", value=1, crop_height=20.0)], "this training's shows"),
        ([row("a", "b", value=float("nan"))], "NaN"),
        (
            [row("a", "b", value=1), row("b", "a", value=1, map=np.zeros(4, np.float32), map_height=2)],
            "several sizes",
        ),
    ],
)
def test_maps_that_cannot_supervise_are_refused(rows: list[tables.Row], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        quiet(write(tmp_path, rows))


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no complete run"):
        quiet(write(tmp_path, [row("a", "b", value=1)], finished=False))


def test_tables_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, [row("a", "b", value=1), row("b", "a", value=1)])
    (tmp_path / "runs" / "stray.parquet").write_bytes(b"")  # of no run
    assert len(quiet(folder).maps) == 2
    place = tmp_path / "explanations" / "run_id=r1" / tables.part(1)
    whole = pq.read_table(place, partitioning=None)
    for changed in (whole.drop_columns(["crop_top"]), whole.drop_columns(["map"])):
        pq.write_table(changed, place)
        with pytest.raises(UsageError, match=r"part-00001.parquet has 0 columns"):
            quiet(folder)
    place.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(UsageError, match=r"part-00001.parquet cannot be read"):
        quiet(folder)
