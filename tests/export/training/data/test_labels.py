"""Labels and attributes from a catalogue's columns."""

from __future__ import annotations

import pytest

from export.training.data.labels import attribute_targets, label_ids
from transforms.core.errors import UsageError
from transforms.core.records import Product


def test_similar_by_several_columns() -> None:
    products = [
        Product("a", "a.jpg", (("type", "shirt"), ("colour", "red"))),
        Product("b", "b.jpg", (("type", "shirt"), ("colour", "blue"))),
        Product("c", "c.jpg", (("type", "shirt"),)),
        Product("d", "d.jpg", (("colour", "red"), ("type", "shirt"))),
    ]
    labels, names = label_ids(products, ["type", "colour"])
    assert labels.tolist() == [1, 0, -1, 1]
    assert names == (("shirt", "blue"), ("shirt", "red"))
    with pytest.raises(UsageError, match=r"no attribute column 'size'; it has colour, type"):
        label_ids(products, ["type", "size"])


def test_empty_cells_say_nothing_of_their_column() -> None:
    products = [
        Product("a", "a.jpg", (("type", "shirt"), ("colour", "red"))),
        Product("b", "b.jpg", (("type", "shoe"),)),
    ]
    targets, known = attribute_targets(products, ["type=shirt", "colour=red", "colour=blue"])
    assert targets.tolist() == [[True, True, False], [False, False, False]]
    assert known.tolist() == [[True, True, True], [True, False, False]]
