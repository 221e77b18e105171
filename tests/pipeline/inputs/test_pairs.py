"""Exact search against brute force, and the manifest that it becomes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.inputs.manifest_files import SCHEMA
from pipeline.inputs.pairs import PairsSettings, make_pairs, sample
from pipeline.inputs.recommend import Space, _among_their_own
from tests.support.models.bundles import small_bundle
from transforms.core.attributes.neighbours import search_bytes, top_k
from transforms.core.errors import UsageError
from transforms.core.records import Pair
from transforms.core.similarity import similarities
from transforms.inputs import manifest
from transforms.serving import bundle as bundles
from transforms.serving.models import Models, Serving

Function = Literal["cosine", "dot", "euclidean"]
Found = list[tuple[int, list[int], list[float]]]


def search(embeddings: NDArray[np.float32], k: int, groups: NDArray[Any] | None = None, **options: Any) -> Found:
    groups = np.arange(len(embeddings)) if groups is None else groups
    found = top_k(embeddings, k, groups=groups, **options)
    return [(each.query, each.indices.tolist(), each.scores.tolist()) for each in found]


def test_by_hand() -> None:
    points = np.array([[0, 0], [3, 4], [0, 1], [-1, 0], [6, 8]], np.float32)
    assert search(points, 2, function="euclidean", queries=np.array([4, 0])) == [
        (4, [1, 2], [-5.0, -np.sqrt(85)]),
        (0, [2, 3], [-1.0, -1.0]),  # a tie: the smaller index first
    ]
    assert search(points, 9, function="dot", queries=np.array([1])) == [(1, [4, 2, 0, 3], [50.0, 4.0, 0.0, -3.0])]
    (only,) = search(points, 3, function="cosine", queries=np.array([1]))
    assert only[1] == [4, 2, 0]
    assert only[2] == pytest.approx([1.0, 0.8, 0.0], abs=1e-15)  # a zero vector is like nothing


def test_copies_of_one_image_are_no_neighbours() -> None:
    points = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    groups = np.array([7, 3, 7, 5])  # 0 and 2 are one image; 1 is another one that looks alike to the model
    assert search(points, 3, groups, function="cosine") == [
        (0, [1, 3], [1.0, 0.0]),
        (1, [0, 2, 3], [1.0, 1.0, 0.0]),
        (2, [1, 3], [1.0, 0.0]),
        (3, [0, 1, 2], [0.0, 0.0, 0.0]),
    ]
    assert search(points[:2], 3, np.zeros(2, int), function="dot") == [(0, [], []), (1, [], [])]


@settings(max_examples=150, deadline=None)
@given(
    # few distinct values, so that ties and copies abound
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 14), st.integers(1, 5)), elements=st.sampled_from([-2, -1, 0, 1, 3])
    ),
    st.integers(1, 6),
    st.sampled_from(["cosine", "dot", "euclidean"]),
    st.integers(1, 16),
    st.data(),
)
def test_equals_brute_force_and_no_chunk_changes_a_bit(
    embeddings: NDArray[np.float32], k: int, function: Function, chunk: int, data: st.DataObject
) -> None:
    count = len(embeddings)
    groups = np.array(data.draw(st.lists(st.integers(0, count), min_size=count, max_size=count)))
    found = search(embeddings, k, groups, function=function, chunk=chunk)
    assert found == search(embeddings, k, groups, function=function, chunk=count)
    oracle = similarities(embeddings, embeddings, function)
    assert [query for query, _, _ in found] == list(range(count))
    for query, indices, scores in found:
        others = [index for index in range(count) if groups[index] != groups[query]]
        assert set(indices) <= set(others)
        assert len(indices) == min(k, len(others))
        np.testing.assert_allclose(scores, oracle[query, indices], atol=1e-12)
        assert scores == sorted(scores, reverse=True)
        assert [(-score, index) for score, index in zip(scores, indices, strict=True)] == sorted(
            (-score, index) for score, index in zip(scores, indices, strict=True)
        )
        left = [oracle[query, index] for index in others if index not in indices]
        assert not left or max(left) <= scores[-1] + 1e-12


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_dense_vectors_with_near_ties(function: Function) -> None:
    """Rows that differ in the last bits of float32, where a matrix product's rounding alone would choose."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=(8, 67)).astype(np.float32)
    embeddings = np.repeat(base, 9, axis=0)
    embeddings[1::3] = np.nextafter(embeddings[1::3], np.float32(np.inf))
    whole = search(embeddings, 12, function=function, chunk=len(embeddings))
    for chunk in (1, 5, 16):
        assert search(embeddings, 12, function=function, chunk=chunk) == whole
    some = rng.permutation(len(embeddings))[:20]
    by_query = {query: (indices, scores) for query, indices, scores in whole}
    for query, indices, scores in search(embeddings, 12, function=function, queries=some, chunk=3):
        assert (indices, scores) == by_query[query]
    exact = embeddings.astype(np.longdouble)
    if function == "cosine":
        exact /= np.sqrt(np.square(exact).sum(axis=1, keepdims=True))
    for query, indices, scores in whole:
        oracle = (
            -np.sqrt(np.square(exact - exact[query]).sum(axis=1)) if function == "euclidean" else exact @ exact[query]
        )
        np.testing.assert_allclose(scores, oracle[indices].astype(np.float64), rtol=1e-13, atol=1e-12)
        left = np.delete(oracle, [query, *indices])
        assert left.max() <= oracle[indices].min() + 1e-12


def test_the_search_refuses_what_it_cannot_order() -> None:
    with pytest.raises(ValueError, match="finite"):
        search(np.array([[1, np.nan]], np.float32), 1, function="dot")
    with pytest.raises(ValueError, match=r"\[I, D\]"):
        search(np.ones((2, 2), np.float32), 1, np.arange(3), function="dot")


def test_stated_memory_covers_the_search() -> None:
    import tracemalloc

    embeddings = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    tracemalloc.start()
    try:
        for _ in top_k(embeddings, 4, function="euclidean", groups=np.arange(3000), chunk=100):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    stated = search_bytes(3000, 32, 100)
    assert 0.8 * stated < peak < 1.05 * stated


# The manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    small_bundle(folder)
    return str(folder)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Nine usable products, two of which are one file's bytes, and one each of what a catalogue has of bad rows."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = [["id", "image", "colour", "split"]]
    for number in range(8):
        pixels = (rng.random((20, 15, 3)) * rng.integers(60, 255, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append([f"00{number}", f"images/{number}.png", "red", "test" if number % 2 else "train"])
    (folder / "images/copy.png").write_bytes((folder / "images/3.png").read_bytes())
    (folder / "images/torn.png").write_bytes((folder / "images/4.png").read_bytes()[:200])
    rows += [
        ["=copy,\r of 3", "images/copy.png", "red", "test"],
        ["torn", "images/torn.png", "red", "test"],
        ["gone", "images/gone.png", "red", "test"],
        ["outside", "/etc/hostname", "red", "test"],
        ["twice", "images/1.png", "red", "test"],
        ["twice", "images/2.png", "red", "test"],
        ["", "images/1.png", "red", "test"],
    ]
    with (folder / "catalogue.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def made(
    shop: Path, bundle: str, name: str = "pairs.csv", **options: Any
) -> tuple[list[dict[str, str]], Any, list[str]]:
    said: list[str] = []
    out = shop / name
    settings = PairsSettings(str(shop / "catalogue.csv"), bundle, str(out), device="cpu", **options)
    summary = make_pairs(settings, said.append)
    rows = list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline=""))) if name.endswith("csv") else []
    return rows, summary, said


def test_the_manifest_is_what_the_model_would_recommend(shop: Path, bundle: str) -> None:
    rows, summary, said = made(shop, bundle, top_k=3, batch=4, chunk=2)
    assert (summary.pairs, summary.queries, summary.products) == (27, 9, 9)
    assert summary.failures == {
        "ambiguous_product": 2, "bad_row": 1, "not_found": 1, "damaged_image": 1, "address_refused": 1
    }  # fmt: skip
    text = "\n".join(said)
    for word in ("1 not_found, the first: gone: nothing lies at", "exact search: 9 queries in 9 products", " left"):
        assert word in text
    assert said[-1].startswith("27 pairs of 9 queries and 9 products")

    models = Models(Serving(bundle, batch=1))
    ids = [*(f"00{number}" for number in range(8)), "=copy,\r of 3"]
    from transforms.core.imaging.images import ImageLimits
    from transforms.serving.load_image import ImageLoader
    from transforms.storage import Access

    load = ImageLoader(Access(roots=(str(shop),)), ImageLimits(), models.bundle.resize)
    names = [*(f"{number}.png" for number in range(8)), "copy.png"]
    vectors = np.concatenate(
        [models.similarity.embed(load(str(shop / "images" / name)).pixels[None]) for name in names]
    )
    oracle = similarities(vectors, vectors, "cosine")
    copies = {3: 8, 8: 3}
    expected = []
    for query in range(9):
        others = [index for index in range(9) if index not in (query, copies.get(query))]
        best = sorted(others, key=lambda index: (-round(oracle[query, index], 12), index))[:3]
        expected += [(ids[query], ids[index], str(rank)) for rank, index in enumerate(best, 1)]
    assert [(row["query_id"], row["reference_id"], row["rank"]) for row in rows] == expected
    scores = {(row["query_id"], row["reference_id"]): float(row["served_score"]) for row in rows}
    for (query_id, reference_id), score in scores.items():
        assert score == pytest.approx(oracle[ids.index(query_id), ids.index(reference_id)], abs=1e-6)
    assert {row["served_model"] for row in rows} == {bundles.read(bundle).model_id}


def test_a_split_bounds_both_sides(shop: Path, bundle: str) -> None:
    rows, summary, _ = made(shop, bundle, split="test", top_k=8)
    of_split = {"001", "003", "005", "007", "=copy,\r of 3"}
    assert {row["query_id"] for row in rows} == {row["reference_id"] for row in rows} == of_split
    assert summary.pairs == 4 + 3 + 4 + 4 + 3
    assert summary.failures["bad_row"] == 1
    with pytest.raises(UsageError, match=r"0 usable products of split 'tset' \(its splits: 'test', 'train'\)"):
        made(shop, bundle, name="other.csv", split="tset")


def test_queries_are_drawn_by_their_ids(shop: Path, bundle: str) -> None:
    rows, summary, _ = made(shop, bundle, queries=4, seed=3, top_k=8)
    assert summary.queries == len({row["query_id"] for row in rows}) == 4
    assert len({row["reference_id"] for row in rows}) == 9
    lines = (shop / "catalogue.csv").read_bytes().split(b"\r\n")
    (shop / "catalogue.csv").write_bytes(b"\r\n".join([lines[0], *reversed(lines[1:-1]), b""]))
    again, _, _ = made(shop, bundle, name="again.csv", queries=4, seed=3, top_k=8)
    assert {row["query_id"] for row in again} == {row["query_id"] for row in rows}
    key = ("query_id", "reference_id", "served_score")
    assert {tuple(row[name] for name in key) for row in again} == {tuple(row[name] for name in key) for row in rows}


@given(st.lists(st.text(max_size=4), unique=True, max_size=30), st.integers(1, 40), st.integers(0, 5))
def test_a_smaller_sample_is_part_of_a_larger_one(ids: list[str], count: int, seed: int) -> None:
    some, more = sample(ids, count, seed), sample(ids, count + 3, seed)
    assert len(some) == min(count, len(ids))
    assert list(some) == sorted(set(some))
    assert set(some) <= set(more)
    backwards = sample(ids[::-1], count, seed)
    assert {ids[index] for index in some} == {ids[::-1][index] for index in backwards}
    assert len(sample(ids, None, seed)) == len(ids)


def test_the_first_products_are_not_the_sample() -> None:
    ids = [str(number) for number in range(1000)]
    drawn = [sample(ids, 100, seed) for seed in (0, 1)]
    assert len({*drawn[0]} & {*drawn[1]}) < 30
    for each in drawn:
        assert 400 < each.mean() < 600


def test_every_format_is_a_manifest(shop: Path, bundle: str) -> None:
    expected, _, _ = made(shop, bundle, top_k=2)
    made(shop, bundle, name="pairs.jsonl", top_k=2)
    made(shop, bundle, name="pairs.parquet", top_k=2)
    lines = [json.loads(line) for line in (shop / "pairs.jsonl").read_text().splitlines()]
    table = pq.read_table(shop / "pairs.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.to_pylist() == lines
    assert [{name: "" if value is None else str(value) for name, value in line.items()} for line in lines] == expected
    for name in ("pairs.csv", "pairs.jsonl", "pairs.parquet"):
        pairs = list(manifest.read(str(shop / name)))
        assert all(isinstance(pair, Pair) for pair in pairs)
        assert [{name: getattr(pair, name) for name in SCHEMA.names} for pair in pairs] == lines


def test_wrong_options_end_before_any_work(shop: Path, bundle: str) -> None:
    (shop / "taken.csv").write_text("mine")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "pairs.txt"}, r"pairs.txt must end in .csv, .jsonl, .parquet"),
        ({"name": "taken.csv"}, "exists already"),
        ({"top_k": 0}, "--top-k must be at least 1, not 0"),
        ({"queries": 0}, "--queries must be at least 1"),
    ]
    for options, message in wrong:
        with pytest.raises(UsageError, match=message):
            made(shop, bundle, **options)
    assert (shop / "taken.csv").read_text() == "mine"


# Under conditions

MASKS = {"coat+hat": (0.0, 2.0, 0.5, 0.0, 0.0), "hat+hat": (1.0, 0.0, 0.0, 3.0, 0.2)}
TYPES = {"coat+hat": ["coat", "hat"], "hat+hat": ["hat", "hat"]}
KINDS = ["coat", "hat", "hat", "coat", "hat", "shoe", "hat", None]
"""Of products 000 to 007; the copy of 003, a coat, is a hat."""


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small bundle with two conditions, and the types that they join."""
    folder = tmp_path_factory.mktemp("conditional")
    record = {"similarity": {"conditions": {"column": "kind", "types": TYPES}}}
    bundles.write(replace(small_bundle(folder), conditions=MASKS, training=record), folder)
    return str(folder)


@pytest.fixture
def typed_shop(shop: Path) -> Path:
    """The shop with a column kind."""
    with (shop / "catalogue.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    kinds = ["kind", *(kind or "" for kind in KINDS), "hat", *["coat"] * (len(rows) - 10)]
    with (shop / "catalogue.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([*row, kind] for row, kind in zip(rows, kinds, strict=True))
    return shop


def embedded(shop: Path, bundle: str) -> NDArray[np.float32]:
    """The embeddings of products 000 to 007 and of the copy of 003."""
    from transforms.core.imaging.images import ImageLimits
    from transforms.serving.load_image import ImageLoader
    from transforms.storage import Access

    models = Models(Serving(bundle, batch=1))
    load = ImageLoader(Access(roots=(str(shop),)), ImageLimits(), models.bundle.resize)
    names = [*(f"{number}.png" for number in range(8)), "copy.png"]
    return np.concatenate([models.similarity.embed(load(str(shop / "images" / name)).pixels[None]) for name in names])


def ranked(shop: Path, bundle: str, name: str, allowed: Any, k: int) -> list[tuple[str, str, int, float]]:
    """The pairs of ``allowed(query, reference)`` by the definition: cos(m * x, m * y)."""
    ids = [*(f"00{number}" for number in range(8)), "=copy,\r of 3"]
    vectors = embedded(shop, bundle).astype(np.float64) * np.array(MASKS[name])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for query in range(9):
        others = [other for other in range(9) if {query, other} not in ({query}, {3, 8}) and allowed(query, other)]
        best = sorted(others, key=lambda other: -(vectors[query] @ vectors[other]))[:k]
        found += [(ids[query], ids[o], rank, float(vectors[query] @ vectors[o])) for rank, o in enumerate(best, 1)]
    return found


def check_rows(rows: list[dict[str, str]], expected: list[tuple[str, str, int, float]], name: str) -> None:
    assert [(row["query_id"], row["reference_id"], int(row["rank"])) for row in rows] == [row[:3] for row in expected]
    assert [float(row["served_score"]) for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-6)
    assert {row["condition"] for row in rows} == {name}


@pytest.mark.parametrize("k", [1, 2, 8])
def test_two_types_are_each_others_references(typed_shop: Path, conditional: str, k: int) -> None:
    rows, summary, said = made(typed_shop, conditional, condition="coat+hat", top_k=k, chunk=2)
    kinds = [*KINDS, "hat"]
    expected = ranked(typed_shop, conditional, "coat+hat", lambda a, b: {kinds[a], kinds[b]} == {"coat", "hat"}, k)
    check_rows(rows, expected, "coat+hat")
    assert (summary.queries, summary.products) == (7, 7)  # neither the shoe nor the product of no kind
    # Coats 0 and 3 have five hats to be paired with, but 3's own copy is no match of it; each hat has two coats.
    assert len(rows) == min(k, 5) + min(k, 4) + 4 * min(k, 2) + 1
    assert "condition 'coat+hat': products whose kind is 'coat' with those whose it is 'hat'" in said
    assert {row["served_model"] for row in rows} == {bundles.read(conditional).model_id}


def test_one_type_is_its_own_reference(typed_shop: Path, conditional: str) -> None:
    rows, summary, _ = made(typed_shop, conditional, condition="hat+hat", top_k=2)
    kinds = [*KINDS, "hat"]
    expected = ranked(typed_shop, conditional, "hat+hat", lambda a, b: kinds[a] == kinds[b] == "hat", 2)
    check_rows(rows, expected, "hat+hat")
    assert summary.products == 5


def test_without_the_types_all_products_are_compared(
    shop: Path, conditional: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, _, said = made(shop, conditional, condition="coat+hat", top_k=3)
    check_rows(rows, ranked(shop, conditional, "coat+hat", lambda a, b: True, 3), "coat+hat")
    assert any("the catalogue has no column 'kind'; all products are compared" in line for line in said)
    folder = tmp_path_factory.mktemp("unrecorded")
    unrecorded = replace(small_bundle(folder), conditions=MASKS)
    odd: list[Any] = [{}, {"similarity": {"conditions": {"column": "kind", "types": {"coat+hat": ["coat"]}}}}]
    for number, training in enumerate(odd):
        bundles.write(replace(unrecorded, training=training), folder)
        again, _, said = made(shop, str(folder), name=f"{number}.csv", condition="coat+hat", top_k=3)
        assert again == rows
        assert any("does not say which types it joins; all products are compared" in line for line in said)


def test_each_condition_orders_by_itself(shop: Path, conditional: str, bundle: str) -> None:
    orders = [
        [(row["query_id"], row["reference_id"]) for row in made(shop, of, f"{n}.csv", condition=name)[0]]
        for n, (of, name) in enumerate([(bundle, None), (conditional, "coat+hat"), (conditional, "hat+hat")])
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])


def test_pairs_under_a_condition_say_so_in_every_format(typed_shop: Path, conditional: str, bundle: str) -> None:
    for extension in ("csv", "jsonl", "parquet"):
        for of, name in ((conditional, "hat+hat"), (bundle, None)):
            out = f"pairs-{name}.{extension}"
            made(typed_shop, of, out, condition=name, top_k=1)
            pairs = list(manifest.read(str(typed_shop / out)))
            assert {pair.condition for pair in pairs if isinstance(pair, Pair)} == {name}


def test_wrong_conditions_end_before_any_work(typed_shop: Path, conditional: str, bundle: str) -> None:
    wrong: list[tuple[str, str | None, str]] = [
        (conditional, None, r"has the conditions 'coat\+hat', 'hat\+hat'; products are compared under one of them"),
        (conditional, "hat+coat", r"the conditions .*; 'hat\+coat' is none of them: --condition must name one"),
        (bundle, "hat+hat", r"the bundle has no conditions; 'hat\+hat' is none of them"),
    ]
    for of, name, message in wrong:
        with pytest.raises(UsageError, match=message):
            made(typed_shop, of, condition=name)
    assert not (typed_shop / "pairs.csv").exists()


def test_a_type_without_a_product_is_named(typed_shop: Path, conditional: str) -> None:
    wrong = [
        (
            "a,images/0.png,coat,train\nb,images/1.png,hat,test",
            "1 usable products of split 'train'.* what the condition",
        ),
        ("a,images/0.png,coat,train\nb,images/1.png,coat,train", "no product whose kind is 'hat' can be used"),
        ("a,images/0.png,hat,train\nb,gone.png,coat,train\nc,images/2.png,hat,train", "whose kind is 'coat' can"),
    ]
    for rows, message in wrong:
        (typed_shop / "catalogue.csv").write_text(f"id,image,kind,split\n{rows}\n")
        with pytest.raises(UsageError, match=message):
            made(typed_shop, conditional, condition="coat+hat", split="train")


def test_only_products_that_agree_are_paired(typed_shop: Path, bundle: str) -> None:
    everything, _, _ = made(typed_shop, bundle, top_k=9)
    ids = [*(f"00{number}" for number in range(8)), "=copy,\r of 3"]
    kinds = dict(zip(ids, [*KINDS, "hat"], strict=True))
    splits = {one: "test" if one in ids[1::2] or one == ids[8] else "train" for one in ids}
    by_kind = {one: None if kind is None else (kind,) for one, kind in kinds.items()}
    by_both = {one: None if kind is None else (kind, splits[one]) for one, kind in kinds.items()}
    values: dict[tuple[str, ...], Mapping[str, tuple[str, ...] | None]] = {
        ("kind",): by_kind,
        ("kind", "split"): by_both,
    }
    for columns, of in values.items():
        rows, _, _ = made(typed_shop, bundle, f"{'-'.join(columns)}.csv", top_k=2, similar_by=columns, chunk=2)
        expected: dict[str, list[str]] = {}
        for row in everything:
            if of[row["query_id"]] is not None and of[row["query_id"]] == of[row["reference_id"]]:
                expected.setdefault(row["query_id"], []).append(row["reference_id"])
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["query_id"], []).append(row["reference_id"])
            assert int(row["rank"]) == len(found[row["query_id"]])
        assert found == {query: references[:2] for query, references in expected.items()}
        assert found
    with pytest.raises(UsageError, match="no column 'colours'"):
        made(typed_shop, bundle, "none.csv", similar_by=("colours",))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_pairs_of_their_own_come_in_the_catalogue_s_order(typed_shop: Path, bundle: str, chunk: int) -> None:
    """Coats, hats, a shoe and one of no kind: the queries alternate as in the catalogue, and all others are said."""
    rows, summary, said = made(typed_shop, bundle, "own.csv", top_k=9, similar_by=("kind",), chunk=chunk)
    everything, _, _ = made(typed_shop, bundle, "all.csv", top_k=9)
    kinds = dict(zip([*(f"00{number}" for number in range(8)), "=copy,\r of 3"], [*KINDS, "hat"], strict=True))
    key = ("query_id", "reference_id", "served_score")
    wanted = [
        tuple(row[name] for name in key)
        for row in everything
        if kinds[row["query_id"]] == kinds[row["reference_id"]] and kinds[row["query_id"]]
    ]
    assert [tuple(row[name] for name in key) for row in rows] == wanted
    assert (summary.queries, summary.pairs) == (9, len(wanted))
    text = "1 queries with an empty cell in 'kind', 1 with which no other product agrees there"
    assert f"paired with none: {text}" in said
    assert any(line.startswith("searching: 7 of 7 queries (100%)") for line in said)


def test_drawn_queries_are_searched_for_among_their_own(typed_shop: Path, bundle: str) -> None:
    whole, _, _ = made(typed_shop, bundle, "own.csv", top_k=9, similar_by=("kind",))
    some, summary, _ = made(typed_shop, bundle, "some.csv", top_k=9, similar_by=("kind",), queries=5, seed=2)
    queries = {row["query_id"] for row in some}
    assert summary.queries == 5
    assert some == [row for row in whole if row["query_id"] in queries]
    assert 0 < len(queries) <= 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=16), st.integers(1, 4), st.data())
def test_among_their_own_is_a_search_in_each_label(labels: list[int], k: int, data: st.DataObject) -> None:
    of, count = np.array(labels), len(labels)
    vectors = np.random.default_rng(count).integers(-2, 3, (count, 3)).astype(np.float32)
    asked = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))), np.intp)
    groups = np.array(data.draw(st.lists(st.integers(0, count), min_size=count, max_size=count)))
    found = {one.query: one for one in _among_their_own(Space(vectors, groups, "dot", k), asked, 4, of)}
    assert found.keys() == set(asked.tolist())
    for query, one in found.items():
        others = [i for i in range(count) if of[i] == of[query] and groups[i] != groups[query]]
        best = sorted(others, key=lambda i: (-float(vectors[i] @ vectors[query]), i))[:k]
        assert one.indices.tolist() == best


def test_a_wrong_split_is_no_condition(typed_shop: Path, bundle: str) -> None:
    with pytest.raises(UsageError, match=r"0 usable products of split 'nope' \(its splits: .*\); a pair needs two"):
        made(typed_shop, bundle, split="nope", similar_by=("kind",))
