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
from pipeline.evaluation.options import EvaluateOptions
from pipeline.options.command_line import options_of


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
    given = options_of(cli.build_parser().parse_args(["audit", "--manifest", "m.csv", "--bundle", "b", "--out", "o"]))
    assert re.fullmatch(r"run-\d{8}T\d{6}", given.run_id)
    assert given.threads >= 1
    assert given == AuditOptions(("m.csv",), "b", "o", given.run_id, threads=given.threads)


def test_defaults_of_evaluate_are_those_of_its_options() -> None:
    given = options_of(cli.build_parser().parse_args(["evaluate", "tables", "--bundle", "b"]))
    assert re.fullmatch(r"evaluation-\d{8}T\d{6}", given.evaluation_id)
    assert given == EvaluateOptions("tables", "b", given.evaluation_id, threads=given.threads)


def test_what_is_shared_among_workers_is_known_of_them() -> None:
    def threads(*more: str) -> object:
        named = ["audit", "--manifest", "m.csv", "--bundle", "b", "--out", "o", *more]
        return options_of(cli.build_parser().parse_args(named)).threads

    assert threads("--runner", "spark") == threads("--workers", "10000") == 1
    assert threads("--threads", "3", "--workers", "10000") == 3


def test_beam_arguments_belong_to_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "somewhere", "--", "--region=x"]) == 2
    assert "only `audit`, `plan` and `evaluate`" in capsys.readouterr().err
