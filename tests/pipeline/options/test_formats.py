"""How values are written on the command line and in TOML."""

from __future__ import annotations

import argparse
import re
from typing import Any, get_args

import pytest

from pipeline.options import formats
from pipeline.options.formats import Format
from transforms.core.errors import UsageError


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (formats.size, "112x96", (112, 96)),
        (formats.size_in_bytes, "512M", 512 * 2**20),
        (formats.size_in_bytes, "4g", 4 * 2**30),
        (formats.size_in_bytes, "1024", 1024),
        (formats.names, "a, b,", ("a", "b")),
        (formats.names_or_none, "a,none", ("a", "none")),
        (formats.names_or_none, "none", ()),
        (formats.setting, "lime.samples=500", ("lime.samples", "500")),
        (formats.mapping, "query_id=sku,rank=pos", {"query_id": "sku", "rank": "pos"}),
        (formats.three, "0.5,0.4,0.3", (0.5, 0.4, 0.3)),
    ],
)
def test_values(parse: object, text: str, value: object) -> None:
    assert callable(parse)
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (formats.size, "0x5"),
        (formats.size, "12"),
        (formats.size_in_bytes, "4T"),
        (formats.mapping, "a="),
        (formats.three, "1,2"),
        (formats.three, "a,b,c"),
    ],
)
def test_wrong_values_name_what_was_expected(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
        parse(text)


def form(kind: Any) -> Format:
    (found,) = (one for one in get_args(kind) if isinstance(one, Format))
    return found


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (formats.Names, ("a", "b"), "a,b"),
        (formats.Size, (28, 14), "28x14"),
        (formats.Bytes, 6 * 2**30, "6G"),
        (formats.Bytes, 1536 * 2**20, "1536M"),
        (formats.Bytes, 5, "5"),
        (formats.Three, (0.5, 0.25, 0.0), "0.5,0.25,0"),
    ],
)
def test_a_default_is_written_as_it_is_given(kind: Any, value: object, text: str) -> None:
    assert form(kind).write(value) == text
    assert form(kind).read(text) == value


@pytest.mark.parametrize(
    ("kind", "toml", "value"),
    [
        (formats.Names, "a,b", ("a", "b")),
        (formats.Names, ["a,b"], ["a,b"]),
        (formats.Words, "m.csv", ("m.csv",)),
        (formats.Repeated, "folder", ("folder",)),
        (formats.Size, "28x14", (28, 14)),
        (formats.Size, [28, 14], [28, 14]),
        (formats.Bytes, "4K", 4096),
        (formats.Bytes, 4096, 4096),
        (formats.Columns, "rank=pos", {"rank": "pos"}),
        (formats.Settings, {"rise.masks": 256, "lime": {"samples": 50}}, {"rise.masks": "256", "lime.samples": "50"}),
        (formats.Settings, "rise.masks=256", "rise.masks=256"),
    ],
)
def test_toml(kind: Any, toml: object, value: object) -> None:
    assert form(kind).from_toml(toml) == value


def test_a_setting_is_set_once() -> None:
    with pytest.raises(UsageError, match=re.escape("--set: rise.p is set twice")):
        formats.once([("rise.p", "0.5"), ("rise.q", "1"), ("rise.p", "0.5")])
    with pytest.raises(UsageError, match=re.escape("rise.p is set twice")):
        form(formats.Settings).from_toml({"rise.p": 0.5, "rise": {"p": 0.25}})
