"""Which products train, validate and test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from export.training.splits import with_splits
from transforms.core.records import Product

WRITTEN = st.sampled_from([None, "train", "Train", "VAL", "dev", "test", "x"])


def split_of(*rows: tuple[str, str | None]) -> dict[str, str | None]:
    return {one.id: one.split for one in with_splits([Product(name, f"{name}.jpg", split=s) for name, s in rows])}


def test_given_splits_are_kept_under_their_own_names() -> None:
    rows = (("a", "Train"), ("b", "VALIDATION"), ("c", "dev"), ("d", "test"), ("e", None), ("f", "holdout"))
    assert split_of(*rows) == {"a": "train", "b": "valid", "c": "valid", "d": "test", "e": "train"}


def test_without_splits_a_tenth_is_valid_and_a_tenth_test() -> None:
    splits = list(split_of(*((f"p{number}", None) for number in range(2000))).values())
    assert {name: round(splits.count(name) / 2000, 1) for name in ("train", "valid", "test")} == {
        "train": 0.8, "valid": 0.1, "test": 0.1,
    }  # fmt: skip


def test_where_nothing_is_valid_a_tenth_of_train_becomes_so() -> None:
    splits = split_of(*((f"p{number}", "test" if number % 2 else "train") for number in range(2000)))
    assert sum(split == "test" for split in splits.values()) == 1000
    assert 70 < sum(split == "valid" for split in splits.values()) < 130


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), WRITTEN), max_size=30))
def test_a_product_never_changes_sides(rows: list[tuple[str, str | None]]) -> None:
    """Its split depends on its id and on which splits there are, not on its place."""
    unique = list(dict(rows).items())
    assert split_of(*unique) == split_of(*unique[::-1])
    again = [(name, split) for name, split in split_of(*unique).items()]
    if any(split == "valid" for _, split in again):
        assert split_of(*again) == dict(again)
