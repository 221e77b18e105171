"""What is said of an option beside its type: what is shown, what is checked, what is kept of it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs, PydanticUndefined

from pipeline.options.formats import FORMATS, Format
from transforms.core.errors import UsageError
from transforms.core.redaction import redact

CONFIG = ConfigDict(strict=True, extra="forbid", defer_build=True)
"""Of every dataclass of options: no value is taken for another type's, so that "5" is no number and True no 1. What is
checked by is made with the first options, not with the class: ``--help`` needs none of it."""

BEHIND = "--"
"""The flag of the option that takes the words behind ``--``, which are another program's."""


@dataclass(frozen=True)
class Heading:
    """A heading of ``--help``, and the name that a table of a config file may have."""

    title: str


@dataclass(frozen=True)
class Option:
    """What a field says of its option.

    Attributes:
      help: its line in ``--help``, without the default, which is added; a function where a library has to say it.
      flag: where it is not ``--`` and the field's name.
      metavar: of its value.
      positional: it has no flag, and is known by its place.
      expected: what a value must be, where its bounds do not say it well; follows "must be".
      left_out: its value where it is not given, from those that are; the field's default is that of the class alone.
      explains: it says how an audit explains, and nothing of what: whoever makes the maps again needs it.
      recorded: it goes into the table of runs.
      most_recorded: the largest number that is believed of a record, which may be of anybody.
    """

    help: str | Callable[[], str]
    flag: str = ""
    metavar: str | tuple[str, ...] | None = None
    positional: bool = False
    expected: str = ""
    left_out: Callable[[Mapping[str, Any]], Any] | None = None
    explains: bool = False
    recorded: bool = True
    most_recorded: int | None = None

    @property
    def said(self) -> str:
        """The text of ``help``."""
        return self.help() if callable(self.help) else self.help


@dataclass(frozen=True)
class Declared:
    """An option as its field declares it: ``kind`` is the type without None, ``default`` None where there is none."""

    name: str
    option: Option
    group: Heading | None
    format: Format
    kind: Any
    required: bool
    default: Any
    bounds: tuple[Any, ...]
    field: FieldInfo

    @property
    def flag(self) -> str:
        """As it is given on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """As a config file names it."""
        named = self.option.positional or self.flag == BEHIND
        return self.name.replace("_", "-") if named else self.flag.removeprefix("--")

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The values, where there are only so many."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else None

    @property
    def help(self) -> str:
        """What ``--help`` says, with the default where there is one to speak of."""
        empty = self.default is None or self.default is False or self.default in (0, (), {})
        said = self.option.said
        return said if empty else f"{said} (default: {self.format.write(self.default)})"

    @property
    def bounded(self) -> str:
        """What a value of the type must be, too; empty where all are as good."""
        return self.option.expected or _in_words(self.bounds)

    @property
    def expected(self) -> str:
        """What a value must be."""
        kind = f"one of {', '.join(self.choices)}" if self.choices else self.format.expected
        return f"{kind}, {self.bounded}" if self.bounded else kind

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        annotated: Any = Annotated[(self.field.annotation, self.option, *self.field.metadata)]
        return TypeAdapter(annotated, config=CONFIG)

    def check(self, value: Any) -> Any:
        """``value`` as an option has it; UsageError where it cannot be, in words that follow the option's name."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            raise UsageError(self.refusal(error.errors()[0]["type"], value)) from None

    def refusal(self, kind: str, value: Any) -> str:
        """What is said of a value that pydantic refuses for the reason ``kind``."""
        expected = self.bounded if kind in _OUT_OF_BOUNDS and self.bounded else self.expected
        return f"must be {expected}, not {_shown(value)}"


_OUT_OF_BOUNDS = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "string_pattern_mismatch",
    "too_short",
}


def _in_words(bounds: tuple[Any, ...]) -> str:
    low = next((one for one in bounds if hasattr(one, "ge") or hasattr(one, "gt")), None)
    high = next((one for one in bounds if hasattr(one, "le") or hasattr(one, "lt")), None)
    match getattr(low, "ge", None), getattr(low, "gt", None), getattr(high, "le", None), getattr(high, "lt", None):
        case least, None, most, None if least is not None and most is not None:
            return f"from {least} to {most}"
        case None, above, None, below if above is not None and below is not None:
            return f"between {above} and {below}"
        case least, above, most, below:
            said = {"at least": least, "above": above, "at most": most, "below": below}
            return " and ".join(f"{words} {bound}" for words, bound in said.items() if bound is not None)


def _shown(value: Any) -> str:
    text = repr(value)
    return redact(text) if len(text) <= 1000 else f"a value of {len(text)} characters"


def declared(options: type) -> tuple[Declared, ...]:
    """The options of a command, in the order of its fields."""
    return _all_declared(options)


@cache
def _all_declared(options: type) -> tuple[Declared, ...]:
    fields: dict[str, FieldInfo] = options.__pydantic_fields__  # type: ignore[attr-defined]
    return tuple(_declared(name, field) for name, field in fields.items())


def _declared(name: str, field: FieldInfo) -> Declared:
    kind, said = _without_none(field.annotation)
    said = (*field.metadata, *said)
    options = [one for one in said if isinstance(one, Option)]
    if len(options) != 1:
        raise TypeError(f"the field {name} needs one Option beside its type")
    formats = [one for one in said if isinstance(one, Format)]
    form = formats[0] if formats else FORMATS[str if get_origin(kind) is Literal else kind]
    groups = [one for one in said if isinstance(one, Heading)]
    default = None if field.default is PydanticUndefined else field.default
    bounds = tuple(one for one in said if not isinstance(one, (Option, Format, Heading)))
    # what may be left out with a value of its own has a default that is the class's alone
    required = field.is_required() and options[0].left_out is None
    shown = None if options[0].left_out else default
    return Declared(name, options[0], groups[0] if groups else None, form, kind, required, shown, bounds, field)


def _without_none(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type but for None, and what stands beside it within."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Annotated:
        kind, *beside = get_args(annotation)
        return kind, tuple(beside)
    return annotation, ()


class Options:
    """What all commands' options have in common: a wrong value is a UsageError that names the flag."""

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, given: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(given)
        except ValidationError as error:
            first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] in ("missing", "unexpected_keyword_argument") and len(first["loc"]) == 1:
            raise TypeError(f"{cls.__name__}: {first['msg']}: {name}")
        one = next(one for one in declared(cls) if one.name == name)
        raise UsageError(f"{one.flag} {one.refusal(first['type'], _given(cls, given, name))}")

    def recorded(self) -> dict[str, Any]:
        """The options as they go into a table: every address without its credentials."""
        kept = {one.name for one in declared(type(self)) if one.option.recorded}
        return {name: redacted(value) for name, value in asdict(self).items() if name in kept}  # type: ignore[call-overload]


def _given(options: type, given: ArgsKwargs, name: str) -> Any:
    """The value that options were to be made with."""
    by_place = dict(zip((one.name for one in declared(options)), given.args, strict=False))
    return {**by_place, **(given.kwargs or {})}[name]


def redacted(value: Any) -> Any:
    """``value`` as it may stand in a table: texts in it, however deep in lists and mappings, without credentials."""
    if isinstance(value, (str, Path)):
        return redact(str(value))
    if isinstance(value, (tuple, list)):
        return [redacted(item) for item in value]
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item) for key, item in value.items()}
    return value


def headings(options: type) -> Iterator[Heading]:
    """The groups of a command's options, in their order."""
    yield from dict.fromkeys(one.group for one in declared(options) if one.group is not None)


def completed(options: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values``, and those that an option has of its own where it is left out or empty."""
    own = {
        one.name: one.option.left_out(values)
        for one in declared(options)
        if one.option.left_out and not values.get(one.name)
    }
    return {**values, **own}
