"""A command's options as a program gives them: by the keys of a config file."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pipeline.options.config_file import option_named, value_of
from pipeline.options.declaration import completed, declared
from transforms.core.errors import UsageError

Asked = TypeVar("Asked")


def options_from(options: type[Asked], given: Mapping[str, Any]) -> Asked:
    """The ``options`` that ``given`` has, checked as those of a config file; UsageError where they cannot be.

    Values are of TOML's types; tuples stand for lists, and paths for texts.
    """
    values = {}
    for key, value in given.items():
        option = option_named(key, options)
        if option.name in values:
            raise UsageError(f"{key!r} is given twice")
        values[option.name] = value_of(option, _plain(value))
    values = completed(options, values)
    if missing := [one.key for one in declared(options) if one.required and one.name not in values]:
        raise UsageError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return options(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, numbers.Integral) else float(value)  # numpy's
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, Mapping) else value
