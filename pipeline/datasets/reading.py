"""Files of a data set that somebody else wrote: texts, folders and JSON, read under limits.

Nothing of such a file is trusted. What is wrong is a UsageError that names the file, the place in it and what to do.
JSON is read entry by entry, so that memory is bounded by one entry and not by the file.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, NoReturn

from transforms import storage
from transforms.core.errors import RunError, UsageError
from transforms.core.messages import quoted
from transforms.inputs.lines import Lines
from transforms.storage.addresses import is_local, local_path

MAX_ENTRY = 2**20
"""Characters of one entry of a JSON list or object."""
MAX_LABEL = 200
"""Characters of an id, a type or a category."""

_CHUNK = 2**18
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = frozenset(" \t\n\r,:]}")  # what may stand behind a value
# What may be a part of a path and of a list with commas, and is no hidden file and no ".."
_PLAIN = re.compile(r"[^\W_][\w+.-]*")


def local_folder(address: str, what: str) -> str:
    """The absolute path of a folder that must be there and be local."""
    path = local_place(address, what)
    if not os.path.isdir(path):
        raise UsageError(
            f"{what} {storage.shown(address)} is no folder; give the one that the data set was unpacked to"
        )
    return path


def local_place(address: str, what: str) -> str:
    """The absolute path of a local address; UsageError for another one."""
    if not is_local(address):
        raise UsageError(
            f"{what} {storage.shown(address)} is not local; data sets are read from and written to local folders only: "
            "copy it to one"
        )
    if not address or "\0" in address:
        raise UsageError(f"{what} {quoted(address)} is no path; give a local folder")
    return os.path.abspath(local_path(address))


def names_in(folder: str, *, folders: bool = False) -> Iterator[str]:
    """The names of the files in ``folder``, or of its folders, by one listing: no file is looked at, links count."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=folders) == folders:
                    yield entry.name
    except OSError as error:
        raise UsageError(
            f"the folder {storage.shown(folder)} cannot be listed: {error.strerror}; it is a part of the data set: "
            "unpack it again, or correct its permissions"
        ) from None


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A regular local file; UsageError where there is none."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{storage.shown(path)} is no file; unpack the data set again")
    with storage.open_file(path) as file:
        try:
            yield file
        except OSError as error:
            raise RunError(f"reading {storage.shown(path)} failed: {error.strerror}") from None


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """Number and text, stripped, of each line that is not blank; UsageError for one that is not UTF-8 or too long."""
    with opened(path) as file:
        for number, line in enumerate(Lines(file, storage.shown(path)), 1):
            if line is None:
                raise _unfit(path, f"line {number}", "it is too long", "copy the file again")
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise _unfit(path, f"line {number}", "it is not UTF-8", "save the file as UTF-8") from None
            if text:
                yield number, text


def plain_name(value: Any, path: str, place: str, what: str) -> str:
    """An id that names a file or a folder: letters, digits and ``+ - _ .``, the first a letter or a digit.

    An integer is its digits. UsageError for anything else: such a name could lead out of the data set's folder.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > MAX_LABEL or not _PLAIN.fullmatch(text):
        raise _unfit(
            path,
            place,
            f"the {what} is {_told(value)}, no plain name of letters, digits and + - _ .",
            "it names a file of the data set: correct or remove the entry",
        )
    return text


def label(value: Any, path: str, place: str, what: str) -> str | None:
    """A type or a category as text, None for an empty one; UsageError where it is no short text on one line."""
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > MAX_LABEL or not text.strip().isprintable():
        raise _unfit(path, place, f"the {what} is {_told(value)}, no text on one line", "correct or remove the entry")
    return text.strip() or None


def member(entry: Any, name: str, kind: type[Any], path: str, place: str) -> Any:
    """``entry[name]`` of an object; UsageError where the entry is no object or has no such member of that type."""
    found = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(found, kind):
        needs = "a list" if kind is list else "a value"
        raise _unfit(
            path, place, f"it is no object with {needs} {name!r}", "this is another layout: see docs/datasets.md"
        )
    return found


def _told(value: Any) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return quoted(str(value))
    kinds = {dict: "an object", list: "a list", float: "a number with a fraction", bool: "a boolean"}
    return kinds.get(type(value), "nothing")


def _unfit(path: str, place: str, why: str, remedy: str) -> UsageError:
    return UsageError(f"{storage.shown(path)}, {place}: {why}; {remedy}")


# JSON


class _TwiceError(ValueError):
    """An object has a key more than once."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(f"the key {quoted(next(key for key in counts if counts[key] > 1))} is there more than once")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_entries(path: str, opening: Literal["[", "{"]) -> Iterator[tuple[str, Any]]:
    """The entries of the JSON list or object in a file: their place, for messages, or their key, and their value.

    A key that comes again is yielded again. UsageError where the file is not UTF-8, holds another JSON value, is
    damaged, has an object with a key twice, or an entry that is too long or nested too deeply.
    """
    with opened(path) as file:
        text = _Json(file, path)
        if text.peek() != opening:
            text.refuse(f"the file does not begin with {opening!r}")
        text.at += 1
        closing = {"[": "]", "{": "}"}[opening]
        if text.peek() == closing:
            text.at += 1
        else:
            number, mark = 0, ","
            while mark == ",":
                number += 1
                key: Any = f"entry {number:,}"
                if opening == "{":
                    key = text.value()
                    if not isinstance(key, str) or text.take() != ":":
                        text.refuse("a key with a colon is expected")
                yield key, text.value()
                mark = text.take()
            if mark != closing:
                text.refuse(f"',' or {closing!r} is expected" if mark else "the file is cut short")
        if text.peek():
            text.refuse("there is more behind the end")


class _Json:
    """A window on JSON text that is read as it is needed. ``at`` is the place in the window."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._before, self._bytes, self._ended = 0, 0, False
        self._text, self.at = "", 0

    def refuse(self, why: str, at: int | None = None) -> NoReturn:
        place = f"character {self._before + (self.at if at is None else at) + 1:,}"
        raise _unfit(self._path, place, why, "the file is damaged or of another layout: unpack the data set again")

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self.at = self._after_space(self.at)
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def take(self) -> str:
        """As :meth:`peek`, and goes past it."""
        found = self.peek()
        self.at += len(found)
        return found

    def value(self) -> Any:
        """The next JSON value, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.at)
            except json.JSONDecodeError as error:
                wrong, at = error.msg, error.pos
            except RecursionError:
                self.refuse("the entry is nested too deeply")
            except _TwiceError as error:
                self.refuse(str(error))
            except ValueError:
                self.refuse("the entry holds a number of too many digits")
            else:
                # A number may go on behind the window's end, also where "0." is all that it shows of 0.5.
                if self._text[end : end + 1] in _AFTER or self._ended:
                    self.at = end
                    return value
                wrong, at = "the entry does not end", end
            if len(self._text) - self.at > MAX_ENTRY:
                self.refuse(f"the entry is no JSON ({wrong}) or longer than {MAX_ENTRY:,} characters")
            if self._ended:
                self.refuse(f"the entry is no JSON: {wrong}", at)
            self._more()

    def _after_space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _more(self) -> bool:
        """Reads on, and forgets what is before ``at``; whether there was more."""
        if self._ended:
            return False
        raw = self._file.read(_CHUNK)
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise _unfit(
                self._path, f"about byte {self._bytes + error.start:,}", "it is not UTF-8", "save the file as UTF-8"
            ) from None
        self._bytes += len(raw)
        self._text = self._text[self.at :] + text
        self._before, self.at, self._ended = self._before + self.at, 0, not raw
        return not self._ended
