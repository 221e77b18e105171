"""Which images nulls are made of: drawn by a hash from all there are, whatever is sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audits import audit, table, write_csv
from tests.support.models.bundles import small_bundle
from tests.support.photographs import picture
from transforms.core.statistics.nulls import REFERENCES, SPARE, place
from transforms.inputs.random_references import _first, of_catalogue, of_manifest


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(0, 9))
def test_those_come_first_whose_place_does_however_often_and_in_whatever_order(numbers: list[int], seed: int) -> None:
    named = [(f"p{number}", f"{number}.jpg") for number in numbers]
    expected = sorted(set(named), key=lambda one: place(one[0], seed))[: REFERENCES + SPARE]
    assert _first(iter(named), seed) == tuple(address for _, address in expected)
    assert _first(iter(named[::-1]), seed) == _first(iter(named), seed)


def test_of_two_addresses_of_a_name_the_first_in_the_alphabet() -> None:
    assert _first(iter([("a", "2.jpg"), ("b", "3.jpg"), ("a", "1.jpg")]), 0) in (("1.jpg", "3.jpg"), ("3.jpg", "1.jpg"))


def test_from_the_catalogue_or_the_other_side_of_the_manifest(tmp_path: Path) -> None:
    catalogue = write_csv(tmp_path / "c.csv", [{"id": f"p{at}", "image": f"{at}.jpg", "x": "y"} for at in range(5)])
    found = of_catalogue(str(catalogue), ("query", "reference"), 0)
    assert set(found) == {"query", "reference"}
    assert found["query"] == found["reference"]
    assert sorted(Path(one).name for one in found["query"]) == [f"{at}.jpg" for at in range(5)]
    rows = [{"q": f"q{at}.jpg", "reference": f"r{at % 3}.jpg"} for at in range(6)]
    manifest = write_csv(tmp_path / "m.csv", [*rows, {"q": "last.jpg", "reference": ""}])
    drawn = of_manifest([str(manifest)], {"query": "q"}, ("query", "reference"), 0)
    assert sorted(drawn["query"]) == [str(tmp_path / f"r{at}.jpg") for at in range(3)]
    assert sorted(drawn["reference"]) == sorted(str(tmp_path / name) for name in ["last.jpg", *(r["q"] for r in rows)])


@pytest.mark.engine
def test_a_sampled_query_has_the_rows_that_it_has_in_the_whole_audit(tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{seed}.png", seed) for seed in range(14)]
    rows = [
        {"query": one, "reference": images[(at + step) % 14]} for at, one in enumerate(images) for step in (1, 2, 5)
    ]
    manifest, bundle, out = write_csv(tmp_path / "pairs.csv", rows), tmp_path / "bundle", tmp_path / "out"
    small_bundle(bundle)
    assert audit(manifest, bundle, out, "whole") == 0
    assert audit(manifest, bundle, out, "part", "--sample", "0.5", "--sampling-seed", "3") == 0
    judged = (
        "explained",
        "unexplained_reason",
        "weight",
        "schema_version",
    )  # by thresholds of the run, for the catalogue
    whole, part = (
        {
            row["pair_id"]: {name: cell for name, cell in row.items() if name not in judged}
            for row in table(out, "explanations", run)
        }
        for run in ("whole", "part")
    )
    assert 0 < len(part) < len(whole) == 42
    assert part == {pair_id: whole[pair_id] for pair_id in part}
