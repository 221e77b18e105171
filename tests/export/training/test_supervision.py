"""Supervision by saliency maps: the losses by hand and against plain loops, and the maps as tables give them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.training.data.augmentation import warp
from export.training.data.saliency_maps import SaliencyMaps, read_saliency
from export.training.supervision import attribute_smooth_l1, saliency_loss
from transforms import tables
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize, frame_of
from transforms.core.records import Product

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RESIZE = Resize((12, 8), "squash")


def softmax(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    flat = np.asarray(values, np.float64).ravel()
    powers = np.exp(flat - flat.max())
    return np.asarray(powers / powers.sum())


def test_the_nearest_of_the_image_s_own_attributes_counts() -> None:
    evidence = torch.zeros(1, 3, 1, 2)
    evidence[0, :, 0, 0] = torch.tensor([math.log(3), 0.0, math.log(9)])  # shares of the first cell: 3/4, 1/2, 9/10
    maps = torch.zeros(1, 2, 1, 2)
    maps[0, :, 0, 0] = torch.tensor([math.log(9), math.log(4)])  # 9/10 and 4/5
    real = torch.ones(1, 2, dtype=torch.bool)
    has = torch.tensor([[True, True, False]])  # the third, which would fit, is not the image's
    expected = math.sqrt(2) * ((0.9 - 0.75) + (0.8 - 0.75)) / 2
    assert saliency_loss(evidence, maps, real, has).item() == pytest.approx(expected, rel=1e-5)
    alone = saliency_loss(evidence, maps, torch.tensor([[True, False]]), has)
    assert alone.item() == pytest.approx(math.sqrt(2) * 0.15, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(1, 4), st.sampled_from([None, 0.5, 2.0]))
def test_the_loss_is_that_of_a_plain_loop(seed: int, images: int, count: int, temperature: float | None) -> None:
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(images, 4, 3, 2))
    maps = rng.normal(size=(images, count, 6, 4))
    real, has = rng.random((images, count)) < 0.7, rng.random((images, 4)) < 0.5
    distances = []
    for b, k in np.argwhere(real):
        if not has[b].any():
            continue
        small = maps[b, k].reshape(3, 2, 2, 2).mean(axis=(1, 3))
        if temperature is not None:
            small = (small - small.mean()) / small.std() / temperature
        wanted = softmax(small)
        distances.append(min(np.linalg.norm(softmax(evidence[b, a]) - wanted) for a in np.flatnonzero(has[b])))
    expected = float(np.mean(distances)) if distances else 0.0
    tensors = [torch.from_numpy(array) for array in (evidence, maps, real, has)]
    assert saliency_loss(*tensors, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_draws_the_nearest_map_to_the_saliency_and_leaves_the_others() -> None:
    torch.manual_seed(0)
    evidence = torch.randn(1, 3, 4, 3).requires_grad_()
    maps = torch.full((1, 1, 8, 6), -1.0)
    maps[0, 0, :2, 4:] = 1.0
    has = torch.tensor([[True, True, False]])
    before = evidence.detach().clone()
    optimiser = torch.optim.Adam([evidence], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        saliency_loss(evidence, maps, torch.ones(1, 1, dtype=torch.bool), has, temperature=0.5).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    moved = (evidence - before).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.sum() == 1
    assert has[0, moved].all()
    assert evidence[0, moved].flatten().argmax() == 2  # the upper right cell


def test_maps_move_with_their_images() -> None:
    torch.manual_seed(1)
    image_map = torch.rand(1, 1, 4, 6)
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    evidence, real, has = (
        torch.randn(1, 2, 4, 6),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 2, dtype=torch.bool),
    )
    turned = saliency_loss(evidence, image_map, real, has, affine=mirror)
    assert turned.item() == pytest.approx(saliency_loss(evidence, image_map.flip(-1), real, has).item(), abs=1e-6)
    torch.testing.assert_close(warp(image_map, mirror), image_map.flip(-1))


def test_a_flat_map_and_no_map_give_a_finite_loss_and_slope() -> None:
    evidence = torch.zeros(1, 2, 2, 3).requires_grad_()
    has = torch.ones(1, 2, dtype=torch.bool)
    for maps, real in (
        (torch.zeros(1, 1, 4, 6), torch.ones(1, 1, dtype=torch.bool)),
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)),
    ):
        loss = saliency_loss(evidence, maps, real, has, temperature=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(0, abs=1e-5)
        assert evidence.grad is not None
        assert torch.isfinite(evidence.grad).all()


def test_smooth_l1_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0, 4.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    known = torch.tensor([[True, True, True, False], [True, True, True, True], [True, True, True, True]])
    first = [(0.25 - 0.5) ** 2 / 2, 0, 0.25**2 / 2]  # the softmax of what is known: 1/4, 1/2, 1/4
    second = [0.25**2 / 2] * 3 + [0.75**2 / 2]
    expected = np.mean([*first, *second])  # the third has no attribute
    assert attribute_smooth_l1(logits, targets, known).item() == pytest.approx(expected, rel=1e-6)
    assert attribute_smooth_l1(logits[2:], targets[2:], known[2:]).item() == 0


PRODUCTS = tuple(
    Product(name, f"{name}.png", (("colour", "red"),), split)
    for name, split in (("a", "train"), ("b", "train"), ("c", "test"), ("d", "train"))
)
MORE = (*PRODUCTS, *(Product(f"r{at}", f"r{at}.png", (("colour", "red"),), "train") for at in range(30)))


def row(query: str, reference: str, *, value: float, side: str | None = "query", **changed: Any) -> tables.Row:
    frame = frame_of((30, 20), RESIZE)
    map_ = np.full(6, value, np.float32)
    names = ("border_share", "border_area", "background_share", "background_area", "entropy", "weight", "similarity")
    box = dict(zip(("crop_top", "crop_left", "crop_height", "crop_width"), frame.box, strict=True))
    sizes = {"input_height": 12, "input_width": 8, "original_height": 30, "original_width": 20, "passes": 1}
    return {
        **dict.fromkeys(names, 0.0),
        **box,
        **sizes,
        "pair_id": f"p{query}{reference}{side}",
        "query_id": query,
        "reference_id": reference,
        "query": f"{query}.png",
        "reference": f"{reference}.png",
        "side": side,
        "method": "rise",
        "explainer_id": "e1",
        "model_id": "m1",
        "map": map_,
        "map_height": 3,
        "map_width": 2,
        "peak_row": 0,
        "peak_column": 0,
        "fill": "auto",
        "provider": "CPU",
        "stratum": "all",
        **changed,
    }


def write(folder: Path, rows: list[tables.Row], run_id: str = "r1", finished: bool = True) -> str:
    for table in ("explanations", "runs")[: 2 if finished else 1]:
        place = Path(tables.folder(str(folder), table, run_id))
        place.mkdir(parents=True)
        if table == "explanations":
            for shard, some in enumerate((rows[::2], rows[1::2])):
                pq.write_table(tables.to_arrow(table, some), place / tables.part(shard))
        else:
            now = datetime.now(UTC)
            numbers = ("rows_read", "pairs_explained", "pairs_failed", "pairs_not_sampled", "explanations")
            content = {
                **dict.fromkeys((*numbers, "queries", "images", "forward_passes"), 0),
                "started": now,
                "finished": now,
                **dict.fromkeys(("whymatch_version", "versions", "configuration", "model_id"), "x"),
                "explainer_ids": ["e1"],
            }
            pq.write_table(tables.to_arrow(table, [content]), place / tables.part(0))
    return str(folder)


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
