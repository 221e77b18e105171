"""The command line: help that stands alone, exit codes, and values that are parsed."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline import cli
from pipeline.audit.options import AuditOptions
from pipeline.commands import values
from pipeline.evaluation.options import EvaluateOptions


def commands(
    parser: argparse.ArgumentParser, name: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that can be run, with its parser."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, child in action.choices.items():
            yield from commands(child, (*name, word))


ALL = dict(commands(cli.build_parser()))


def test_the_commands() -> None:
    assert {" ".join(name) for name in ALL} == {
        "demo", "catalogue polyvore-outfits", "catalogue awa2", "train similarity", "train attributes", "export",
        "bundle", "calibrate", "priors", "pairs", "check", "plan", "audit", "evaluate", "summary", "sql", "show",
        "erase",
    }  # fmt: skip


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_help_stands_alone(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(ALL[name].description or "") > 20
    for action in ALL[name]._actions:
        assert action.help, f"{action.dest} is not explained"
        assert all(option in text for option in action.option_strings)


def test_help_of_the_console_script() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], capture_output=True, text=True, check=True)
    assert all(re.search(rf"^    {name[0]}\s", done.stdout, re.MULTILINE) for name in ALL)


@pytest.mark.parametrize(
    "arguments",
    [[], ["dance"], ["audit"], ["audit", "--manifest", "a", "--bundle", "b", "--out", "c", "--map-size", "28"]],
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: whymatch" in capsys.readouterr().err


def test_defaults_of_the_command_are_those_of_the_options() -> None:
    given = cli.build_parser().parse_args(["audit", "--manifest", "m.csv", "--bundle", "b", "--out", "o"])
    for name, field in AuditOptions.__dataclass_fields__.items():
        if name in ("manifest", "bundle", "out", "run_id", "threads", "beam_args"):
            continue
        expected = field.default_factory() if callable(field.default_factory) else field.default
        found = values.once(given.settings) if name == "settings" else getattr(given, name)
        assert (tuple(found) if isinstance(found, list) else found) == expected, name


def test_defaults_of_evaluate_are_those_of_its_options() -> None:
    given = cli.build_parser().parse_args(["evaluate", "tables", "--bundle", "b"])
    for name, field in EvaluateOptions.__dataclass_fields__.items():
        if name not in ("tables", "bundle", "evaluation_id", "threads", "beam_args"):
            found = getattr(given, name)
            assert (tuple(found) if isinstance(found, list) else found) == field.default, name


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.size, "112x96", (112, 96)),
        (values.size_in_bytes, "512M", 512 * 2**20),
        (values.size_in_bytes, "4g", 4 * 2**30),
        (values.size_in_bytes, "1024", 1024),
        (values.names, "a, b,", ("a", "b")),
        (values.setting, "lime.samples=500", ("lime.samples", "500")),
        (values.mapping, "query_id=sku,rank=pos", {"query_id": "sku", "rank": "pos"}),
        (values.three, "0.5,0.4,0.3", (0.5, 0.4, 0.3)),
    ],
)
def test_values(parse: object, text: str, value: object) -> None:
    assert callable(parse)
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.size, "0x5"),
        (values.size, "12"),
        (values.size_in_bytes, "4T"),
        (values.mapping, "a="),
        (values.three, "1,2"),
        (values.three, "a,b,c"),
    ],
)
def test_wrong_values_name_what_was_expected(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
        parse(text)


def test_beam_arguments_belong_to_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "somewhere", "--", "--region=x"]) == 2
    assert "only `audit`, `plan` and `evaluate`" in capsys.readouterr().err
