"""The stratum of a row: the manifest's column or the catalogue's, fit to stand in a table."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from transforms.core.errors import UsageError
from transforms.core.statistics.sampling import UNREADABLE
from transforms.inputs import rows
from transforms.inputs.strata import MAX_NAME, Strata, find, name_of


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    lines = ["id,image,kind,boxes,split", "1,1.jpg,coat,,a", "2,2.jpg,,,a", "3,3.jpg,hat,,a", "3,3.jpg,coat,,a"]
    lines += [
        "4,4.jpg,hat,,a",
        "4,5.jpg,hat,,b",
        "3,3.jpg,hat,,a",
        "5,5.jpg",
        ",6.jpg,hat,,a",
        "7,7.jpg,,,",
        "7,,bag,,",
    ]
    path = tmp_path / "catalogue.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write(tmp_path: Path, *headers: str) -> list[str]:
    files = []
    for number, header in enumerate(headers):
        files.append(str(tmp_path / f"part-{number}.csv"))
        Path(files[-1]).write_text(header + "\n")
    return files


# Where the column is


def test_no_column_is_one_stratum(tmp_path: Path) -> None:
    strata = find(write(tmp_path, "a,b"), None)
    assert strata == Strata(None, None)
    assert (strata.columns(), strata.of({}, "q")) == ((), "all")


def test_the_manifests_column_comes_first(tmp_path: Path, catalogue: str) -> None:
    files = write(tmp_path, "query_id,kind", "kind,query_id")
    strata = find(files, "kind", catalogue_address=catalogue)
    assert strata == Strata("kind")
    assert strata.columns() == ("kind",)
    assert [strata.of({"kind": kind}, "1") for kind in ("hat", None)] == ["hat", "(none)"]


def test_a_column_that_some_files_lack_is_the_catalogues(tmp_path: Path, catalogue: str) -> None:
    files = write(tmp_path, "query_id,kind", "query_id")
    strata = find(files, "kind", catalogue_address=catalogue)
    assert strata == Strata("kind", catalogue)
    assert strata.columns() == ()
    with pytest.raises(
        UsageError,
        match=r"no column 'kind' in 1 of the manifest's 2 files, such as part-1\.csv; there is no catalogue.*--cat",
    ):
        find(files, "kind")


def test_a_column_that_neither_has_is_said_with_theirs(tmp_path: Path, catalogue: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(write(tmp_path, "query_id,reference_id"), "brand", catalogue_address=catalogue)
    assert str(caught.value) == (
        "--stratify: there is no column 'brand' in the manifest, whose columns are 'query_id', 'reference_id', nor in "
        "the catalogue, whose columns are 'id', 'image', 'kind', 'boxes', 'split'"
    )


@pytest.mark.parametrize("column", ["query", "query_id", "reference", "reference_id", "pair_id", "anchor"])
def test_what_names_images_or_pairs_is_no_stratum(tmp_path: Path, column: str) -> None:
    with pytest.raises(UsageError, match=r"names images or pairs.*such as a category"):
        find(write(tmp_path, f"anchor,query,{column}x,kind"), column, columns={"query_id": "anchor"})


@pytest.mark.parametrize("column", ["id", "image", "boxes"])
def test_what_names_products_is_no_stratum(tmp_path: Path, catalogue: str, column: str) -> None:
    with pytest.raises(UsageError, match="in the catalogue it names products or images"):
        find(write(tmp_path, "query_id"), column, catalogue_address=catalogue)


def test_other_columns_of_whymatch_are_strata(tmp_path: Path, catalogue: str) -> None:
    assert find(write(tmp_path, "query_id,condition"), "condition") == Strata("condition")
    assert find(write(tmp_path, "query_id"), "split", catalogue_address=catalogue) == Strata("split", catalogue)


# The catalogue's values


def test_products_have_their_strata(catalogue: str) -> None:
    """3 and 7 occur with different values, 4 twice with one, 2 has none, 5 is no row, 9 is not there."""
    strata = Strata("kind", catalogue)
    found = {product: strata.of({"kind": "the manifest's"}, product) for product in "1234579"}
    assert found == {
        "1": "coat",
        "2": "(none)",
        "3": "(none)",
        "4": "hat",
        "5": "(none)",
        "7": "(none)",
        "9": "(none)",
    }


def test_the_catalogue_is_read_once_and_late_and_not_sent(catalogue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = rows.read_rows

    def spy(address: str, columns: Any) -> Any:
        read.append(address)
        return original(address, columns)

    monkeypatch.setattr(rows, "read_rows", spy)
    strata = Strata("kind", catalogue)
    assert not read
    assert [strata.loaded().of({}, product) for product in "14"] == ["coat", "hat"]
    assert read == [catalogue]
    sent = pickle.dumps(strata)
    assert b"coat" not in sent
    again = pickle.loads(sent)
    assert again == strata
    assert again.of({}, "1") == "coat"
    assert read == [catalogue] * 2


# Names


@pytest.mark.parametrize("value", ["coat", "Süß 裙子", "007", "a" * MAX_NAME, "https://shop.example/coats", "all"])
def test_a_value_is_its_name(value: str) -> None:
    assert name_of(value) == value


def test_long_values_are_cut_and_stay_apart() -> None:
    names = {name_of("x" * 300 + end) for end in ("a", "b", "")}
    assert len(names) == 3
    assert {len(name) for name in names} == {MAX_NAME}
    assert all(name.startswith("x" * 150) for name in names)


def test_secrets_are_masked_and_stay_apart() -> None:
    names = {name_of(f"token={secret}") for secret in ("hunter2-A", "hunter2-B")}
    assert len(names) == 2
    assert not any("hunter2" in name for name in names)
    assert "hunter2" not in name_of("x" * 180 + " https://user:hunter2@shop.example/")


def test_a_value_is_not_taken_for_rows_without_a_query() -> None:
    assert name_of(UNREADABLE) != UNREADABLE
    assert name_of(UNREADABLE).startswith(UNREADABLE)
