"""How addresses are put together, and which shapes are refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.errors import AddressRefused
from transforms.storage import addresses


@pytest.mark.parametrize(
    ("address", "base", "expected"),
    [
        ("a.jpg", "/data/catalogue.csv", "/data/a.jpg"),
        ("images/a.jpg", "/data/x/catalogue.csv", "/data/x/images/a.jpg"),
        ("/other/a.jpg", "/data/catalogue.csv", "/other/a.jpg"),
        ("a.jpg", "file:///data/catalogue.csv", "/data/a.jpg"),
        ("file:///data/a%20b.jpg", "/data/catalogue.csv", "/data/a b.jpg"),
        ("file://localhost/data/a.jpg", "/data/catalogue.csv", "/data/a.jpg"),
        ("file://elsewhere/data/a.jpg", "/data/catalogue.csv", "file://elsewhere/data/a.jpg"),
        ("a.jpg", "s3://bucket/folder/catalogue.csv", "s3://bucket/folder/a.jpg"),
        ("images/a.jpg", "gs://bucket/catalogue.csv", "gs://bucket/images/a.jpg"),
        ("s3://other/a.jpg", "/data/catalogue.csv", "s3://other/a.jpg"),
        ("https://h.example/a.jpg?b=c/d", "s3://bucket/catalogue.csv", "https://h.example/a.jpg?b=c/d"),
        ("a.jpg", "https://h.example/c/catalogue.csv?sig=a/b", "https://h.example/c/a.jpg"),
        ("size:10.jpg", "/data/catalogue.csv", "/data/size:10.jpg"),
        ("file:/etc/passwd", "/data/catalogue.csv", "file:/etc/passwd"),
        # '..' stays, for the check to refuse it.
        ("../a.jpg", "/data/x/catalogue.csv", "/data/x/../a.jpg"),
        ("../other/a.jpg", "s3://bucket/catalogue.csv", "s3://bucket/../other/a.jpg"),
    ],
)
def test_resolve(address: str, base: str, expected: str) -> None:
    assert addresses.resolve(address, base) == expected


def test_resolve_against_a_relative_base() -> None:
    assert addresses.resolve("a.jpg", "catalogue.csv") == f"{os.getcwd()}/a.jpg"


@pytest.mark.parametrize(
    ("folder", "names", "expected"),
    [
        ("/out", ("runs", "a.parquet"), "/out/runs/a.parquet"),
        ("/out/", ("a",), "/out/a"),
        ("/", ("a",), "/a"),
        ("", ("a", "b"), "a/b"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        ("s3://bucket/x/", ("a", "b"), "s3://bucket/x/a/b"),
    ],
)
def test_join(folder: str, names: tuple[str, ...], expected: str) -> None:
    assert addresses.join(folder, *names) == expected


@pytest.mark.parametrize(
    "address",
    [
        "/data/a.jpg",
        "/data/a b & c (1).jpg",
        "/data/..a/b..c/...jpg",
        "/data/100%25.jpg",
        "/data/50%.jpg",
        "/data/größe/衣.jpg",
        "/data/size:10.jpg",
        "s3://bucket/a/b.jpg",
        "gs://bucket/a@2x.jpg",
        "https://h.example/a.jpg?x=1&y=2",
    ],
)
def test_ordinary_addresses_pass_unchanged(address: str) -> None:
    assert addresses.checked(address) == address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "0 characters"),
        ("x" * 9000, "9,000 characters"),
        ("/data/a\nb.jpg", "control"),
        ("/data/a\0.jpg", "control"),
        ("/data/a%00.jpg", "control"),
        ("/data/a\u2028.jpg", "control"),
        ("/data/\ud800.jpg", "control"),
        ("simplecache::s3://b/k", "chains"),
        ("/data/a::b.jpg", "chains"),
        ("/data/../a.jpg", "climbs"),
        ("..", "climbs"),
        ("s3://b/a/../../c", "climbs"),
        ("/data/%2e%2E/a.jpg", "climbs"),
        ("/data/%252e%252e%252fa.jpg", "climbs"),
        ("/data/..\\a.jpg", "climbs"),
        ("/a%2525252525252e.jpg", "several times"),
        ("file://elsewhere/a.jpg", "no address"),
        ("file:/etc/passwd", "no address"),
        ("FILE:a.jpg", "no address"),
        ("data:image/png;base64,AAAA", "no address"),
        ("http:/h.example/a.jpg", "no address"),
    ],
)
def test_what_is_refused(address: str, why: str) -> None:
    with pytest.raises(AddressRefused, match=why):
        addresses.checked(address)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://bucket", "no object"),
        ("s3://bucket/", "no object"),
        ("s3:///key", "no object"),
        ("s3://user:word@bucket/key", "credentials"),
        ("s3://token@bucket/key", "credentials"),
        ("gs://127.0.0.1:80/key", "credentials"),
    ],
)
def test_objects_that_are_none(address: str, why: str) -> None:
    with pytest.raises(AddressRefused, match=why) as caught:
        addresses.object_address(address)
    assert "word" not in str(caught.value)


def test_object_address_lowers_the_scheme() -> None:
    assert addresses.object_address("S3://Bucket/Key") == "s3://Bucket/Key"


@given(st.text(max_size=60))
def test_any_text_is_refused_or_one_clean_address(address: str) -> None:
    try:
        found = addresses.checked(address)
    except AddressRefused:
        return
    assert "::" not in found
    assert ".." not in found.replace("\\", "/").split("/")
    assert addresses.scheme_of(found) != "file"
    assert not any(ord(character) < 32 for character in found)
