"""Records as plain lists and back: nothing changes, and equal records are equal lists."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from transforms.core.packing import Form, Packing, form_of
from transforms.core.records import EmbeddedImage, LoadFailure, Pair
from transforms.core.target import ExplanationTarget

PACKING = Packing({kind: form_of(kind) for kind in (Pair, ExplanationTarget, EmbeddedImage, LoadFailure)})
PAIR = Pair("p", "q", "r", rank=3, served_score=0.1, query_attributes=("colour=red", "naïve"), reference_attributes=())


@pytest.mark.parametrize(
    "value",
    [
        PAIR,
        ExplanationTarget(PAIR, "reference"),
        LoadFailure("load", "not_found", "", False),
        (PAIR, (LoadFailure("load", "not_found", "", True), None)),
        "lone \udcff surrogate",
        replace(PAIR, source="manifest-\udce4.csv row 1"),
        (1, 1.0, True, b"\x00", "", (), None, 2**70),
    ],
)
def test_values_come_back_as_they_were(value: object) -> None:
    back = PACKING.unpack(PACKING.pack(value))
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal, too


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.1, -0.0, np.nan], [np.inf, 1e-45, 3]], np.float32),
        np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2],
        np.zeros((0, 5), np.float64),
        np.array(2.5),
    ],
)
def test_arrays_come_back_to_the_bit_and_can_be_written(array: NDArray[np.generic]) -> None:
    image = EmbeddedImage("a.png", "0" * 64, 7, 9, array)  # type: ignore[arg-type]
    back: EmbeddedImage = PACKING.unpack(PACKING.pack(image))
    assert back.embedding.dtype == array.dtype
    assert back.embedding.shape == array.shape
    assert back.embedding.tobytes() == array.tobytes()
    assert back.embedding.flags.writeable
    assert back.scores is None


def test_numpy_s_scalars_become_python_s() -> None:
    packed = PACKING.pack((np.float32(0.1), np.int64(3), np.bool_(True)))
    assert [type(value) for value in packed] == [float, int, bool]
    assert packed == (float(np.float32(0.1)), 3, True)


def test_equal_records_are_equal_lists_whatever_objects_they_share() -> None:
    text = "".join(["a", "b"])
    one, two = Pair(text, text, text), Pair("ab", "".join(["a", "b"]), "".join(["a", "b"]))
    assert PACKING.pack(one) == PACKING.pack(two)
    assert pickle.dumps(one) != pickle.dumps(two)


def test_no_name_of_a_field_crosses() -> None:
    assert PACKING.pack(LoadFailure("load", "not_found", "gone", True)) == [3, "load", "not_found", "gone", True]


def test_a_class_may_have_a_form_of_its_own() -> None:
    @dataclass(frozen=True)
    class Bag:
        row: dict[str, int]

    packing = Packing({Bag: Form(lambda bag: sorted(bag.row.items()), lambda *items: Bag(dict(items)))})
    assert packing.pack(Bag({"b": 1, "a": 2})) == [0, ("a", 2), ("b", 1)]
    assert packing.unpack(packing.pack(Bag({"b": 1, "a": 2}))) == Bag({"a": 2, "b": 1})


def test_what_no_record_holds_is_refused() -> None:
    for value in ({}, [], object(), replace(PAIR, extra={"a": 1})):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no record holds a value of"):
            PACKING.pack(value)
