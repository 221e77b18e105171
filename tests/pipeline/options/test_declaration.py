"""An option is one field: it is explained, it has a flag, and a config file may name it."""

from __future__ import annotations

import argparse
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from pipeline import cli
from pipeline.audit.options import AuditOptions
from pipeline.options.command_line import Command, CommandFamily, add_commands, options_of
from pipeline.options.config_file import read_config
from pipeline.options.declaration import BEHIND, CONFIG, Declared, Heading, Option, Options, declared
from pipeline.options.formats import Names, NamesOrNone
from transforms.core.errors import UsageError
from transforms.core.saliency.methods import METHODS
from transforms.core.saliency.rise import RiseMethod

COMMANDS = [
    (command, f"{one.name} {command.name}" if isinstance(one, CommandFamily) else command.name)
    for one in cli.COMMANDS
    for command in (one.commands if isinstance(one, CommandFamily) else (one,))
]
OPTIONS = [(name, option) for command, name in COMMANDS for option in declared(command.options)]
MODELS = {name: command.options for command, name in COMMANDS}


def test_all_are_looped_over() -> None:
    assert len(COMMANDS) == 18
    assert len(OPTIONS) > 250


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main([*name.split(), "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_explained(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    said = help_of(name, capsys)
    for option in declared(MODELS[name]):
        assert len(option.option.said) > 5, option.name
        assert option.help in said, option.name
        if not option.option.positional:
            assert re.search(rf"(?<!\S){option.flag}(?![\w-])", said), option.name
        if option.group:
            assert f"{option.group.title}:" in said


def toml(option: Declared) -> str:
    """A value that the option may have, as TOML."""
    if option.choices:
        return f'"{option.choices[-1]}"'
    if option.kind is int:
        return "5"
    by_kind = {bool: "true", float: "0.5", str: '"text"', Path: '"folder"'}
    by_format = {
        "a list of texts": '["text"]',
        "HxW in pixels, such as 224x224": "[4, 5]",
        "3 numbers with commas between them": "[0.5, 1, 2.5]",
        "two paths": '["a", "b"]',
    }
    if option.kind in by_kind:
        return by_kind[option.kind]
    return by_format.get(option.format.expected, '{ key = "text" }')


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name} {option.key}" for name, option in OPTIONS])
@pytest.mark.parametrize("spelling", ["-", "_"])
def test_every_option_is_a_key_of_a_config_file(name: str, option: Declared, spelling: str, tmp_path: Path) -> None:
    value = '["mean"]' if option.name == "fills" else toml(option)
    path = tmp_path / "options.toml"
    path.write_text(f"{option.key.replace('-', spelling)} = {value}\n")
    found = read_config(str(path), MODELS[name])
    assert found.values.keys() == {option.name}
    assert found.values[option.name] not in (None, (), {})


@pytest.mark.parametrize("name", MODELS)
def test_no_two_options_share_a_flag_or_a_key(name: str) -> None:
    options = declared(MODELS[name])
    assert len({option.key for option in options}) == len({option.flag for option in options}) == len(options)


def test_help_tells_what_the_methods_do() -> None:
    said = {option.name: option.help for option in declared(AuditOptions)}
    assert f"a row each: {', '.join(METHODS)} (default: rise)" in said["methods"]
    assert f"(default: {RiseMethod.masks})" in said["masks"]
    assert f"(default: {RiseMethod.sampling})" in said["sampling"]


@dataclass(frozen=True, config=CONFIG)
class Small(Options):
    name: Annotated[str, Option("a name", expected="short", metavar="N"), Field(max_length=3), Heading("first")]
    share: Annotated[FiniteFloat, Option("a share, 5% say"), Field(gt=0, lt=1), Heading("second")] = 0.5
    among: Annotated[Names, Option("some"), Heading("first")] = ("a", "b")
    few: Annotated[NamesOrNone | None, Option("few", flag="--fewer")] = None
    count: Annotated[int | None, Option("how many", left_out=lambda values: len(values["name"])), Field(ge=1)] = None
    rest: Annotated[Names, Option("Words behind -- are left.", flag=BEHIND, recorded=False)] = ()


SMALL = Command("small", Small, lambda _: 0, "do little")


def read(*words: str, behind: tuple[str, ...] = ()) -> Any:
    parser = argparse.ArgumentParser()
    add_commands(parser, [SMALL])
    return options_of(parser.parse_args(["small", *words]), behind)


def test_a_new_option_is_one_field() -> None:
    assert read("--name", "abc") == Small("abc", count=3)
    given = read("--name", "a", "--share", "0.25", "--among", "c,d", "--fewer", "none", "--count", "2", behind=("x",))
    assert given == Small("a", 0.25, ("c", "d"), (), 2, ("x",))
    assert given.recorded() == {"name": "a", "share": 0.25, "among": ["c", "d"], "few": [], "count": 2}
    assert SMALL.takes_more
    assert [option.help for option in declared(Small)][1:3] == ["a share, 5% say (default: 0.5)", "some (default: a,b)"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 1.0}, "--share must be between 0 and 1, not 1.0"),
        ({"share": float("nan")}, "--share must be between 0 and 1, not nan"),
        ({"share": "1"}, "--share must be a number, between 0 and 1, not '1'"),
        ({"name": "abcd"}, "--name must be a text, short, not 'abcd'"),
        ({"name": None}, "--name must be a text, short, not None"),
        ({"few": "a"}, "--fewer must be a list of texts, not 'a'"),
        ({"few": (1,)}, "--fewer must be a list of texts, not (1,)"),
        ({"count": True}, "--count must be a whole number, at least 1, not True"),
        ({"name": "https://u:hunter2@host/"}, "--name must be a text, short, not 'https://***@host/'"),
    ],
)
def test_wrong_values_name_the_flag_and_what_was_expected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        Small(**{"name": "a", **changes})
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        replace(Small("a"), **changes)


def test_options_are_a_dataclass() -> None:
    options = Small("a")
    assert replace(options, share=0.25) == Small("a", 0.25)
    assert pickle.loads(pickle.dumps(AuditOptions(("m",), "b", "o", "r"))) == AuditOptions(("m",), "b", "o", "r")
    with pytest.raises(AttributeError):
        options.share = 0.1  # type: ignore[misc]
    with pytest.raises(TypeError, match="nothing"):
        Small("a", nothing=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="name"):
        Small()  # type: ignore[call-arg]


def test_a_field_without_its_option_is_refused() -> None:
    @dataclass(frozen=True, config=CONFIG)
    class Bare(Options):
        name: str

    with pytest.raises(TypeError, match="the field name needs one Option"):
        declared(Bare)
