"""A file that gives a command's options, for ``--config``: TOML, a key for each under its flag's name.

Keys may have - or _ between their words, and may stand in tables under their headings of ``--help``. What is wrong is
named with its line and, for a key that is no option, with the nearest that is one.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.options.declaration import Declared, declared, headings
from transforms.core.errors import UsageError
from transforms.core.messages import quoted
from transforms.core.redaction import shown

_MAX_BYTES = 2**20
_LEAST_LIKE = 0.5  # of difflib's ratio: 'batches' is like 'batch', and 'speed' like 'seed', but nothing like 'workers'

Path = tuple[str, ...]


@dataclass(frozen=True)
class ConfigFile:
    """What a file gives: options by field, where in it each stands, and where each METHOD.PARAMETER does."""

    options: type
    address: str
    text: str
    values: Mapping[str, Any]
    keys: Mapping[str, Path]
    parameters: Mapping[str, Path]

    def located(self, error: UsageError, names: Collection[str]) -> UsageError:
        """``error`` with the file and line of what it speaks of, where that is one of the options ``names``."""
        message = str(error)
        flags = {one.flag: one.name for one in declared(self.options)}
        told = [flags.get(flag, "") for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", message)]
        places = [path for name, path in self.parameters.items() if _speaks_of(message, name)]
        places += [self.keys[name] for name in told if name in names]
        return UsageError(f"{_place(self.address, self.text, places[0])}: {message}") if places else error


def _speaks_of(message: str, parameter: str) -> bool:
    """Whether a message is of that METHOD.PARAMETER, by its name or as one that the method does not have."""
    method, _, name = parameter.partition(".")
    named = re.search(rf"(?<![\w.-]){re.escape(method)}\.{re.escape(name)}(?![\w-])", message)
    return named is not None or f"{method} has no parameter {name!r}" in message


def read_config(address: str, options: type) -> ConfigFile:
    """Reads a config file of a command's ``options``; UsageError for a key or a value that cannot be."""
    from transforms import storage

    data = storage.read_file(address, max_bytes=_MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
        table = tomllib.loads(text)
    except UnicodeDecodeError:
        raise UsageError(f"{shown(address)} is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_syntax(address, str(error))) from None
    values: dict[str, Any] = {}
    keys: dict[str, Path] = {}
    parameters: dict[str, Path] = {}
    for path, value in _entries(table, options):
        option = _option(path, options, address, text)
        if option.name in values:
            raise UsageError(f"{_place(address, text, path)}: {quoted(path[-1])} is given twice")
        values[option.name] = _value(option, value, path, address, text)
        keys[option.name] = path
        if isinstance(value, dict):
            parameters.update(_parameters(value, path))
    return ConfigFile(options, address, text, values, keys, parameters)


def _parameters(table: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Path]]:
    """Where the keys of a table stand, those of a table within it as METHOD.PARAMETER."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", (*path, key, inner)) for inner in value)
        else:
            yield key, (*path, key)


def _entries(table: Mapping[str, Any], options: type) -> Iterator[tuple[Path, Any]]:
    """Every option's key with its value: those on top, then those in a table under a heading."""
    groups = {_plain(group.title) for group in headings(options)}
    keys = {one.key for one in declared(options)}
    for key, value in table.items():
        if isinstance(value, dict) and _plain(key) in groups - keys:
            yield from (((key, inner), one) for inner, one in value.items())
        else:
            yield (key,), value


def _plain(name: str) -> str:
    return name.replace(" ", "-").replace("_", "-")


def _option(path: Path, options: type, address: str, text: str) -> Declared:
    try:
        option = option_named(path[-1], options)
        if len(path) > 1:
            _belongs(option, path[0], path[-1])
    except UsageError as error:
        raise UsageError(f"{_place(address, text, path)}: {error}") from None
    return option


def _belongs(option: Declared, heading: str, key: str) -> None:
    """UsageError where ``key`` stands under another heading than its option's; one that has none may stand anywhere."""
    if option.group and _plain(heading) != _plain(option.group.title):
        raise UsageError(f"{quoted(key)} belongs under {quoted(option.group.title)}, not under {quoted(heading)}")


def option_named(key: str, options: type) -> Declared:
    """The option of that key, - or _ between its words; UsageError, with the nearest key, where there is none."""
    known = {one.key: one for one in declared(options)}
    if _plain(key) in known:
        return known[_plain(key)]
    like = difflib.get_close_matches(_plain(key), known, n=1, cutoff=_LEAST_LIKE)
    nearest = like[0].replace("-", "_") if like and "_" in key else "".join(like)
    meant = f"did you mean '{nearest}'?" if nearest else "--help lists those that there are, by their flags"
    raise UsageError(f"there is no option {quoted(key)}; {meant}")


def _value(option: Declared, value: Any, path: Path, address: str, text: str) -> Any:
    try:
        return value_of(option, value)
    except UsageError as error:
        raise UsageError(f"{_place(address, text, path)}: {error}") from None


def value_of(option: Declared, value: Any) -> Any:
    """What ``value``, of TOML's types, is of the option; UsageError where it can be none."""
    try:
        return option.check(option.format.from_toml(value))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{option.key}: {error}") from None
    except UsageError as error:
        raise UsageError(f"{option.key} {error}" if str(error).startswith("must be") else str(error)) from None


def _place(address: str, text: str, path: Path) -> str:
    return f"{shown(address)}:{_line(text, path)}"


def _line(text: str, path: Path) -> int:
    """The line, from 1, on which the key at ``path`` of a TOML text begins: behind the last cut that does not have it.

    Lines end with a line feed alone, as those of an editor and of TOML do.
    """
    cuts = _cuts(text)
    begins = cuts[bisect_left(cuts, True, lo=1, key=lambda cut: _has(text[:cut], path)) - 1]
    return text.count("\n", 0, begins) + 1


_LEXEMES = re.compile(
    r"""
      \"{3} (?: \\. | [^\\] )*? \"{3,5}  |  '{3} .*? '{3,5}  # up to two quotes may stand before the last three
    | " (?: \\. | [^"\\] )* "  |  ' [^']* '
    | \# [^\n]*
    | (?P<opens> [\[{] )  |  (?P<closes> [\]}] )  |  (?P<ends> \n )
    """,
    re.VERBOSE | re.DOTALL,
)


def _cuts(text: str) -> list[int]:
    """Where a TOML text may be cut between lines so that what is before is a TOML text, too; both of its ends as well.

    One pass over the text: to ask tomllib of every line takes seconds where a list has thousands of lines.
    """
    cuts, depth = [0], 0
    for lexeme in _LEXEMES.finditer(text):
        match lexeme.lastgroup:
            case "opens":
                depth += 1
            case "closes":
                depth -= 1
            case "ends" if not depth:
                cuts.append(lexeme.end())
    return [*cuts, len(text)]


def _has(text: str, path: Path) -> bool:
    table: Any = tomllib.loads(text)
    for key in path:
        table = table.get(key) if isinstance(table, dict) else None
    return table is not None


def _syntax(address: str, reason: str) -> str:
    said = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", reason, re.DOTALL)
    if not said:
        return f"{shown(address)} is no TOML: {reason}"
    return f"{shown(address)}{f':{said[2]}' if said[2] else ''}: {said[1]}; see https://toml.io for how TOML is written"
