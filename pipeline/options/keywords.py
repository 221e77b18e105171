"""A command's options as a program gives them: by the keys of a config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pipeline.options.config_file import option_named, value_of
from pipeline.options.declaration import completed

Asked = TypeVar("Asked")


def options_from(options: type[Asked], given: Mapping[str, Any]) -> Asked:
    """The ``options`` that ``given`` has, checked as those of a config file; UsageError where they cannot be.

    Values are of TOML's types; tuples stand for lists, and paths for texts.
    """
    values = {}
    for key, value in given.items():
        option = option_named(key, options)
        values[option.name] = value_of(option, _plain(value))
    return options(**completed(options, values))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, Mapping) else value
