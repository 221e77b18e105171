"""Content ids and the records that flow through the pipeline."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.errors import NotFound, StorageFault
from transforms.core.records import EmbeddedImage, Failure, Frame, LoadFailure, Pair, Product, content_id

PARTS = st.lists(st.none() | st.text(st.sampled_from("ab1:;-"), max_size=3), max_size=4).map(tuple)


def test_an_id_by_hand() -> None:
    raw = b"2:ab" + b"-;" + b"0:" + b"4:\xd7\xa9\xc3\xa9"
    assert content_id("ab", None, "", "שé", letter="p") == "p" + hashlib.sha256(raw).hexdigest()[:24]
    assert content_id("ab", letter="p", digits=8) == "p" + hashlib.sha256(b"2:ab").hexdigest()[:8]
    assert content_id("ab", letter="p") == content_id(b"ab", letter="p")


def test_where_one_part_ends_matters() -> None:
    parts: list[tuple[str | None, ...]] = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("abc", ""),
        ("", "abc"),
        ("abc", None),
        (None, "abc"),
        ("c", "ab"),
        ("1:a",),
        ("1:a", "2:bc"),
        ("a1:b",),
        (None,),
        ("",),
        ("-;",),
        ("None",),
        (),
    ]
    assert len({content_id(*one, letter="p") for one in parts}) == len(parts)


@given(PARTS, PARTS)
def test_equal_ids_mean_equal_parts(left: tuple[str | None, ...], right: tuple[str | None, ...]) -> None:
    assert (content_id(*left, letter="p") == content_id(*right, letter="p")) == (left == right)


def test_any_text_has_an_id() -> None:
    assert content_id("\udcff", letter="p") != content_id("\udcfe", letter="p")
    assert content_id("e\u0301", letter="p") != content_id("\u00e9", letter="p")


def test_the_failure_of_a_pair_keeps_what_tells_it() -> None:
    pair = Pair("p1", "q", "r", query="s3://b/q.jpg", stratum="shoes", weight=2.5, source="pairs.csv row 17")
    failure = Failure.of(pair, StorageFault("the storage timed out"))
    assert failure == Failure(
        "p1", "q", "r", "load", "storage_fault", "the storage timed out", True, None, "shoes", 2.5
    )


def test_the_failure_of_an_image_becomes_that_of_its_pairs() -> None:
    error = NotFound("nothing lies at a.jpg")
    load = LoadFailure.of(error)
    assert load == LoadFailure("load", "not_found", "nothing lies at a.jpg", False)
    pairs = [Pair("p1", "q", "r"), Pair("p2", "q", "s")]
    assert [Failure.of(pair, load) for pair in pairs] == [Failure.of(pair, error) for pair in pairs]


def test_a_product_names_its_attributes_in_order() -> None:
    product = Product("1", "a.jpg", (("colour", "red"), ("category", "dress")))
    assert product.names() == ("colour=red", "category=dress")


@pytest.mark.parametrize(
    "record",
    [
        Pair("p", "q", "r"),
        Failure("p", "q", "r", "load", "not_found", "m", False),
        Product("1", "a.jpg"),
        EmbeddedImage("a.jpg", "0" * 64, 4, 6, np.ones(3, np.float32)),
        LoadFailure("load", "not_found", "m", False),
        Frame((60, 80), (12, 16), (0, 10, 60, 60)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_are_frozen_and_cross_a_shuffle(record: object) -> None:
    name = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, "changed")
    assert repr(pickle.loads(pickle.dumps(record))) == repr(record)


def test_an_embedding_is_not_printed() -> None:
    image = EmbeddedImage("a.jpg", "0" * 64, 4, 6, np.full(3, 0.125, np.float32), np.full(3, 0.375, np.float32))
    assert "0.125" not in repr(image)
    assert "0.375" not in repr(image)


def test_letters_tell_ids_apart() -> None:
    ids = [content_id("x", letter=letter) for letter in "pmav"]
    assert all(left != right for left, right in itertools.combinations(ids, 2))
    assert all(one[0].isalpha() and len(one) == 25 for one in ids)
