"""Commands, their parsers, and what was given: the command line first, then the config file, then the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipeline.options.config_file import ConfigFile, read_config
from pipeline.options.declaration import BEHIND, Declared, Heading, completed, declared
from transforms.core.errors import UsageError

CONFIG_FLAG = "--config"


@dataclass(frozen=True)
class Command:
    """A command: ``run`` takes the options, an instance of ``options``, and returns the exit code.

    ``summary`` is its line in the list of commands; ``more`` follows it in its own ``--help``. With ``config`` a file
    may give its options.
    """

    name: str
    options: type
    run: Callable[[Any], int]
    summary: str
    more: str = ""
    config: bool = False

    @property
    def takes_more(self) -> bool:
        """Whether words behind ``--`` are one of its options."""
        return any(one.flag == BEHIND for one in declared(self.options))


@dataclass(frozen=True)
class CommandFamily:
    """Commands of one name, told apart by a second word."""

    name: str
    summary: str
    metavar: str
    commands: tuple[Command, ...]


def add_commands(
    parser: argparse.ArgumentParser, commands: Sequence[Command | CommandFamily], words: Sequence[str] | None = None
) -> None:
    """Gives ``parser`` the ``commands``.

    Where the ``words`` that it will parse are known, commands that they do not name get no options: what some options
    say of themselves takes a library to say.
    """
    parsers = parser.add_subparsers(dest="word", required=True, metavar="COMMAND")
    for one in commands:
        if words is not None and one.name not in words:
            parsers.add_parser(one.name, help=one.summary)
        elif isinstance(one, Command):
            _add(parsers, one)
        else:
            kinds = parsers.add_parser(one.name, help=one.summary)
            kind = kinds.add_subparsers(dest="kind", required=True, metavar=one.metavar)
            for command in one.commands:
                _add(kind, command)


def _add(parsers: Any, command: Command) -> None:
    behind = [one.option.said for one in declared(command.options) if one.flag == BEHIND]
    said = " ".join(filter(None, [f"{command.summary[0].upper()}{command.summary[1:]}.", command.more, *behind]))
    parser = parsers.add_parser(command.name, help=command.summary, description=said)
    parser.set_defaults(command=command)
    if command.config:
        parser.add_argument(
            CONFIG_FLAG,
            action=_ReadConfig,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help="TOML file with options under the names of their flags; the command line's own come first",
        )
    headings: dict[Heading | None, Any] = {None: parser}
    for option in declared(command.options):
        if option.flag == BEHIND:
            continue
        if option.group not in headings:
            headings[option.group] = parser.add_argument_group(cast(Heading, option.group).title)
        headings[option.group].add_argument(*_names(option), **_argument(option))


def _names(option: Declared) -> tuple[str, ...]:
    return (option.name,) if option.option.positional else (option.flag,)


def _argument(option: Declared) -> dict[str, Any]:
    """What argparse is told of an option. It puts nothing in the place of what is not given."""
    told: dict[str, Any] = {"help": option.help.replace("%", "%%"), "default": argparse.SUPPRESS}
    if not option.option.positional:
        told |= {"dest": option.name, "required": option.required}
    if option.option.metavar is not None:
        told["metavar"] = option.option.metavar
    if option.kind is bool:
        return told | {"action": "store_true"}
    if option.choices:
        return told | {"choices": option.choices}
    if option.format.words is not None:
        told["nargs"] = option.format.words
    if option.format.repeated:
        told["action"] = "append"
    return told if option.format.read is str else told | {"type": option.format.read}


class _ReadConfig(argparse.Action):
    """Reads the file; what it gives is no longer asked for."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        if hasattr(namespace, self.dest):
            raise UsageError(f"{CONFIG_FLAG} is given twice; one file has all options")
        config = read_config(value, parser.get_default("command").options)
        setattr(namespace, self.dest, config)
        for action in parser._actions:
            if action.dest in config.values:
                action.required = False


def options_of(given: argparse.Namespace, behind: Sequence[str] = ()) -> Any:
    """The options of the command that was given, those of ``--`` among them; UsageError where they cannot be."""
    command: Command = given.command
    config: ConfigFile | None = getattr(given, "config", None)
    own = {
        one.name: one.format.join(value) if one.format.repeated or one.format.words else value
        for one in declared(command.options)
        if (value := getattr(given, one.name, None)) is not None
    }
    own |= {one.name: tuple(behind) for one in declared(command.options) if one.flag == BEHIND and behind}
    values = completed(command.options, {**(config.values if config else {}), **own})
    try:
        return command.options(**values)
    except UsageError as error:
        raise (config.located(error, set(config.values) - set(own)) if config else error) from None
