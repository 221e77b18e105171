"""Attribute removal: by hand on a tiny catalogue, and against its definition in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.removal import by_definition
from transforms.core.metrics.removal import UNNAMED, Oracle, Pool, Removal, attribute_drops, judge
from transforms.core.records import Float64

NAMES = ("type=shirt", "type=shoe", "colour=black", "colour=red")
COLUMNS = np.array([0, 0, 1, 1])

Item = tuple[str | None, str | None, float]

TABLE: list[Item] = [  # type, colour, angle of the embedding in degrees; the pool has 9 products and 4 attributes
    ("shirt", "black", 0),  # 0: the query
    ("shirt", "red", 10),  # 1
    ("shirt", "red", 40),  # 2
    ("shoe", "black", 20),  # 3
    ("shoe", "black", 90),  # 4
    ("shirt", None, 5),  # 5: nobody knows its colour
    ("shoe", "red", 30),  # 6
    ("shirt", "green", 60),  # 7: a colour, but none of the vocabulary
    ("shirt", "red", 180),  # 8
]


def pool(table: list[Item] | None = None) -> Pool:
    rows = TABLE if table is None else table
    has = np.array([[name in (f"type={kind}", f"colour={colour}") for name in NAMES] for kind, colour, _ in rows])
    known = np.array([[kind is not None] * 2 + [colour is not None] * 2 for kind, colour, _ in rows])
    angles = np.radians([angle for _, _, angle in rows])
    return Pool(has, known, COLUMNS, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def drops(query: int, reference: int, *, of: Pool | None = None, **removal: int | None) -> list[float]:
    settings = Removal(**{"neighbours": 2, "least": 1, **removal})  # type: ignore[arg-type]
    (found,) = attribute_drops(of or pool(), np.array([query]), np.array([reference]), settings)
    return [float(drop) for drop in found]


def test_drops_by_hand() -> None:
    # without black: shirts of another known colour, 10, 40, 60 and 180 degrees from the query, the nearest two of them;
    # without shirt: black shoes, at 20 and 90 degrees. The reference, at 30 degrees, is a red shoe.
    found = drops(0, 6)
    assert found[2] == pytest.approx(cosine(30) - (cosine(20) + cosine(10)) / 2, abs=1e-6)
    assert found[0] == pytest.approx(cosine(30) - (cosine(10) + cosine(60)) / 2, abs=1e-6)
    assert found[1] == found[3] == 0.0  # the query is known not to have them


def test_the_reference_does_not_stand_for_the_query() -> None:
    # as before, but the reference is the product at 10 degrees
    assert drops(0, 1)[2] == pytest.approx(cosine(10) - (cosine(30) + cosine(50)) / 2, abs=1e-6)


def test_copies_of_query_and_reference_do_not_stand_for_the_query() -> None:
    table: list[Item] = [*TABLE, ("shirt", "red", 0), ("shirt", "red", 10), ("shirt", "red", 11)]
    assert drops(0, 1, of=pool(table))[2] == pytest.approx(cosine(10) - (cosine(1) + cosine(30)) / 2, abs=1e-6)


def test_copies_are_one_neighbour() -> None:
    table: list[Item] = [*TABLE[:2], *TABLE[1:2] * 4, *TABLE[2:]]
    # without black: red shirts at 10 degrees, five of them, at 40, and the green one at 60
    found = drops(0, 10, of=pool(table), neighbours=3)[2]  # the reference, at 30 degrees, is the red shoe
    assert found == pytest.approx(cosine(30) - (cosine(20) + cosine(10) + cosine(30)) / 3, abs=1e-6)
    copies: list[Item] = [TABLE[0], *TABLE[1:2] * 5, TABLE[6]]
    assert math.isnan(drops(0, 6, of=pool(copies), neighbours=3, least=2)[2])


def test_only_products_of_the_query_s_group_stand_for_it() -> None:
    given = pool()
    of = replace(given, groups=np.array([1, 0, 1, 1, 0, 1, 0, 1, -1]))
    # without black: of the shirts at 10, 40, 60 and 180 degrees those at 40 and 60 are of its group
    assert drops(0, 6, of=of)[2] == pytest.approx(cosine(30) - (cosine(10) + cosine(30)) / 2, abs=1e-6)
    nobody = replace(given, groups=np.full(9, -1))
    assert math.isnan(drops(0, 6, of=nobody)[2])
    with pytest.raises(ValueError, match="groups"):
        replace(given, groups=np.zeros(3, np.int64))


def test_too_few_products_score_nothing() -> None:
    assert math.isnan(drops(0, 7, least=3, neighbours=3)[0])  # two black shoes
    assert not math.isnan(drops(0, 7, least=3, neighbours=3)[2])
    assert not math.isnan(drops(0, 7, least=3, neighbours=3, max_distance=1)[0])


def test_what_is_alike_comes_before_what_looks_alike() -> None:
    # red shoes differ in another column, too: at 30 degrees this one is taken after the black ones, at 20 and at 90
    found = drops(0, 8, max_distance=1, neighbours=3)
    assert found[0] == pytest.approx(cosine(180) - (cosine(160) + cosine(90) + cosine(150)) / 3, abs=1e-6)
    assert drops(0, 8, max_distance=0, neighbours=3)[0] == drops(0, 8, neighbours=2)[0]


def test_unknown_is_neither_with_nor_without() -> None:
    assert math.isnan(drops(5, 6)[2])
    assert math.isnan(drops(5, 6)[3])
    # shoes are a column apart from a shirt of unknown colour, whatever theirs is
    assert math.isnan(drops(5, 6, max_distance=0)[0])
    assert drops(5, 6, max_distance=1)[0] == pytest.approx(cosine(25) - (cosine(10) + cosine(60)) / 2, abs=1e-6)


def test_an_attribute_that_keeps_two_apart_has_a_negative_drop() -> None:
    assert drops(0, 7)[2] == pytest.approx(cosine(60) - (cosine(50) + cosine(20)) / 2, abs=1e-6)
    assert drops(0, 7)[2] < 0


def test_columns_of_several_values_count_by_what_they_hold() -> None:
    has = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
    angles = np.radians([0, 50, 10, 20, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    own = Pool(has, np.ones_like(has), np.arange(3), vectors)
    settings = Removal(1, 1, 0)
    # every attribute its own column, as in AwA2: without the first, product 1 differs in nothing else
    assert [places.tolist() for _, places in own.without(0, Removal(5, 1, None))] == [[1, 2, 3], [3, 4]]
    assert [places.tolist() for _, places in own.without(0, settings)] == [[1], []]
    # the first two are values of one column: it holds {first, second}, and products 1 and 2 hold {second}
    both = Pool(has, np.ones_like(has), np.array([0, 0, 1]), vectors)
    assert [places.tolist() for _, places in both.without(0, settings)] == [[3, 1], [3]]


def test_under_a_condition_other_embeddings_are_compared() -> None:
    given = pool()
    turned = given.embeddings[:, ::-1].copy() * np.array([2, 0.5], np.float32)
    groups = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0])
    found, fresh = given.under(turned, groups), replace(given, embeddings=turned, groups=groups)
    pairs, settings = (np.array([0, 0, 5, 2]), np.array([6, 1, 6, 8])), Removal(2, 1, 1)
    np.testing.assert_array_equal(attribute_drops(found, *pairs, settings), attribute_drops(fresh, *pairs, settings))
    assert (attribute_drops(found, *pairs, settings) != attribute_drops(given, *pairs, settings)).any()
    assert found.values is given.values, "not found again"
    with pytest.raises(ValueError, match="embeddings"):
        given.under(turned[1:])


def test_what_a_condition_takes_for_equal_is_not_one_photograph() -> None:
    # the mask leaves one dimension, in which the red shirts at 60 and at -60 degrees are the same
    table: list[Item] = [("shirt", "black", 0), ("shirt", "red", 60), ("shirt", "red", -60), ("shoe", "red", 10)]
    given = pool(table)
    of = given.under((given.embeddings * np.array([1, 0], np.float32)).astype(np.float32))
    assert math.isfinite(drops(0, 3, of=of, least=2)[2])
    copied: list[Item] = [*table[:2], table[1], table[3]]
    given = pool(copied)
    of = given.under((given.embeddings * np.array([1, 0], np.float32)).astype(np.float32))
    assert math.isnan(drops(0, 3, of=of, least=2)[2])


@pytest.mark.parametrize("wrong", [{"neighbours": 2}, {"least": 0}, {"max_distance": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="least <= neighbours"):
        Removal(**wrong)


def test_wrong_shapes_are_refused() -> None:
    good = pool()
    with pytest.raises(ValueError, match=r"\[I, A\]"):
        Pool(good.has, good.known, COLUMNS[:3], good.embeddings)
    with pytest.raises(ValueError, match="finite"):
        Pool(good.has, good.known, COLUMNS, np.full_like(good.embeddings, np.nan))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cosine", "dot", "euclidean"]), st.sampled_from([0, 1, 2, None]))
def test_as_by_definition(seed: int, function: str, max_distance: int | None) -> None:
    rng = np.random.default_rng(seed)
    count, columns = 24, np.array([0, 0, 1, 2, 2, 2, 1])
    has = rng.random((count, 7)) < 0.4
    known = (rng.random((count, 3)) < 0.9)[:, columns]
    vectors = rng.normal(size=(count, 3)).astype(np.float32)
    vectors[rng.integers(count, size=4)] = vectors[rng.integers(count, size=4)]  # copies
    groups = rng.integers(-1, 2, count) if seed % 2 else None
    of = Pool(has & known, known, columns, vectors, function, groups)  # type: ignore[arg-type]
    removal = Removal(int(rng.integers(1, 5)), 1, max_distance)
    queries, references = rng.integers(count, size=(2, 10))
    found = attribute_drops(of, queries, references, removal)
    expected = [by_definition(of, q, r, removal) for q, r in zip(queries.tolist(), references.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    order = rng.permutation(10)
    np.testing.assert_array_equal(attribute_drops(of, queries[order], references[order], removal), found[order])


def test_all_pairs_of_a_large_pool_are_scored() -> None:
    rng = np.random.default_rng(0)
    columns = np.repeat(np.arange(4), 12)
    has = np.zeros((3000, 48), bool)
    for first in range(0, 48, 12):
        has[np.arange(3000), first + rng.integers(12, size=3000)] = True
    of = Pool(has, np.ones_like(has), columns, rng.normal(size=(3000, 64)).astype(np.float32))
    queries = np.repeat(rng.integers(3000, size=50), 8)
    found = attribute_drops(of, queries, rng.integers(3000, size=400), Removal(max_distance=2))
    assert np.isfinite(found).all()


# Judging


NAN = math.nan
DROPS: Float64 = np.array(
    [
        [0.4, 0.1, 0.0, NAN, 0.0],  # the oracle is the first
        [0.2, 0.0, 0.0, 0.2, 0.1],  # two with the largest drop: the first of them
        [-0.3, 0.0, 0.0, NAN, 0.0],  # nothing makes the similarity drop
        [NAN, 0.0, 0.0, NAN, 0.0],  # nothing could be scored
        [0.0, NAN, -0.1, 0.3, 0.0],
    ]
)
SCORES: Float64 = np.array(
    [
        [0.1, 0.8, 0.2, 0.9, 0.1],  # the fourth is left out: second, third, then first before fifth
        [0.5, 0.1, 0.5, 0.5, 0.0],  # the first of equal ones
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.1, 0.9, 0.7, 0.0, 0.2],
    ]
)


def test_judged_by_hand() -> None:
    found = judge(SCORES, DROPS)
    assert found.judged.tolist() == [True, True, False, False, True]
    np.testing.assert_array_equal(found.first, [0.1, 0.2, NAN, NAN, -0.1])
    np.testing.assert_array_equal(found.oracle, [0.4, 0.2, NAN, NAN, 0.3])
    assert found.rank.tolist() == [3, 1, 0, 0, 4]
    assert found.removal == pytest.approx(0.2 / 0.9)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == 1.0
    oracle = Oracle(DROPS)
    assert (oracle.unscored, oracle.not_above_zero) == (1, 1)
    assert oracle.best[oracle.judged].tolist() == [0, 0, 3]


def test_named_judged_by_hand() -> None:
    found = Oracle(DROPS).judge_named([[3, 1, 0], [1], [0], [0], [1, 0, 2]])
    # of the first the fourth is passed over; the fifth names no oracle, which is its fourth
    assert found.judged.tolist() == [True, True, False, False, True]
    np.testing.assert_array_equal(found.first, [0.1, 0.0, NAN, NAN, 0.0])
    np.testing.assert_array_equal(found.oracle, [0.4, 0.2, NAN, NAN, 0.3])
    assert found.rank.tolist() == [2, UNNAMED, 0, 0, UNNAMED]
    assert found.removal == pytest.approx(0.1 / 0.9)
    assert found.top1 == 0.0
    assert found.top5 == pytest.approx(1 / 3)


def test_what_names_nothing_that_is_scored_is_judged_all_the_same() -> None:
    found = Oracle(DROPS).judge_named([[3], [], [], [3], [1]])
    assert found.judged.tolist() == [True, True, False, False, True]
    np.testing.assert_array_equal(found.first, [0.0, 0.0, NAN, NAN, 0.0])
    assert (found.removal, found.top1, found.top5) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="names of 5 pairs, got 2"):
        Oracle(DROPS).judge_named([[3], []])


def test_top5_needs_more_than_five() -> None:
    drops = np.zeros((2, 7))
    drops[:, 6] = 1.0
    found = judge(np.array([[7.0, 6, 5, 4, 3, 2, 1], [7, 6, 5, 4, 0, 0, 1]]), drops)
    assert found.rank.tolist() == [7, 5]
    assert (found.removal, found.top1, found.top5) == (0.0, 0.0, 0.5)


def test_the_oracle_is_the_best_explainer() -> None:
    rng = np.random.default_rng(2)
    drops = np.where(rng.random((50, 6)) < 0.5, rng.normal(size=(50, 6)), 0.0)
    drops[rng.random((50, 6)) < 0.2] = NAN
    best = judge(np.nan_to_num(drops, nan=9.0), drops)  # what cannot be judged is never the first
    assert (best.removal, best.top1, best.top5) == (1.0, 1.0, 1.0)
    assert judge(rng.random((50, 6)), drops).removal < 1


def test_nothing_to_judge() -> None:
    found = judge(np.ones((2, 3)), np.full((2, 3), NAN))
    assert not found.judged.any()
    assert all(map(math.isnan, (found.removal, found.top1, found.top5)))


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_ranks_are_places_in_the_stable_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drops = rng.integers(-2, 4, (6, 5)) / 4
    drops[rng.random((6, 5)) < 0.3] = NAN
    scores = rng.integers(0, 4, (6, 5)) / 3  # many ties
    found = judge(scores, drops)
    named = Oracle(drops).judge_named(np.argsort(-scores, axis=1, kind="stable").tolist())
    for one, other in ((found.first, named.first), (found.oracle, named.oracle), (found.rank, named.rank)):
        np.testing.assert_array_equal(one, other)
    for pair in range(6):
        ranked = [a for a in np.argsort(-scores[pair], kind="stable").tolist() if not math.isnan(drops[pair, a])]
        most = max((drops[pair, a] for a in ranked), default=NAN)
        assert found.judged[pair] == (most > 0)
        if most > 0:
            oracle = next(a for a in range(5) if drops[pair, a] == most)
            assert found.rank[pair] == 1 + ranked.index(oracle)
            assert (found.first[pair], found.oracle[pair]) == (drops[pair, ranked[0]], most)


@pytest.mark.parametrize("scores", [np.ones((2, 2)), np.full((2, 3), NAN), np.full((2, 3), np.inf)])
def test_scores_that_rank_nothing_are_refused(scores: Float64) -> None:
    with pytest.raises(ValueError, match="finite scores"):
        judge(scores, np.ones((2, 3)))
