"""Lines of text files as records: CSV records and JSON objects, whatever the bytes are.

A record that cannot be read is a text that says why, and the stream goes on. Nothing passes ``MAX_ROW_BYTES``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from transforms.core.errors import BadRow, UsageError
from transforms.core.messages import quoted

MAX_ROW_BYTES = 2**20
"""A longer CSV record or JSON line is a bad row."""
_TOO_LONG = f"the row is longer than {MAX_ROW_BYTES} bytes"


class Lines:
    """Lines of a file with their ends, without a byte order mark; None for one longer than ``MAX_ROW_BYTES``."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._first = True
        self.name = name

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes | None:
        line = self._stream.readline(MAX_ROW_BYTES + 1)
        if self._first:
            self._first = False
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UsageError(f"{self.name} is UTF-16; save it as UTF-8")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            raise StopIteration
        if len(line) <= MAX_ROW_BYTES:
            return line
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(MAX_ROW_BYTES)
        return None


class _LongRecordError(Exception):
    """The record at hand passes ``MAX_ROW_BYTES``."""


def records(lines: Lines) -> Iterator[list[str] | str]:
    """Records of a CSV file: a list of cells each, or a text that says why a line is no record."""
    taken: list[str | None] = []  # the lines that the record at hand consists of
    size = 0

    def feed() -> str:
        nonlocal size
        line = next(lines, b"")
        # Bytes that are not UTF-8 become surrogates here; the cells that hold them are refused when they are read.
        text = None if line is None else line.decode("utf-8", "surrogateescape")
        taken.append(text)
        size += len(line or b"")
        if text is None or size > MAX_ROW_BYTES:
            raise _LongRecordError
        return text

    # strict: a quotation mark in a wrong place is an error, not a guess. After an error the reader starts afresh.
    reader = csv.reader(iter(feed, ""), strict=True)
    while True:
        taken.clear()
        size = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _LongRecordError):
            for text in taken:
                if record := _alone(text):
                    yield record
        else:
            if not _blank(cells):
                yield cells


def _blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _alone(text: str | None) -> list[str] | str:
    """The record that a line is on its own, after it was taken for a part of one that is none."""
    if text is None:
        return _TOO_LONG
    try:
        cells = next(csv.reader([text], strict=True), [])
        return [] if _blank(cells) else cells
    except csv.Error as error:
        if "unexpected end" in str(error):
            return "a quotation mark is opened and not closed"
        if "new-line character" in str(error):
            return "the row is no CSV: a carriage return outside of quotation marks; lines end in LF or CR LF"
        return f"the row is no CSV: {error}"


class RawFloat(float):
    """A JSON number with a fraction or an exponent that remembers how it was written."""

    text: str


def _written(text: str) -> RawFloat:
    number = RawFloat(text)
    number.text = text
    return number


def _refuse_constant(text: str) -> Any:
    raise BadRow(f"{text} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRow(f"the key {quoted(next(key for key in keys if keys.count(key) > 1))} is there more than once")
    return found


_DECODER = json.JSONDecoder(parse_float=_written, parse_constant=_refuse_constant, object_pairs_hook=_object)


def objects(lines: Lines) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number of each line that is not blank and its object, or a text that says why it has none."""
    for number, line in enumerate(lines, 1):
        if line is None:
            yield number, _TOO_LONG
        elif line.strip():
            yield number, _parsed(line)


def is_unicode(text: str) -> bool:
    """Whether ``text`` is Unicode: no surrogates, which stand for bytes that are not UTF-8 or are half a character."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        found = _DECODER.decode(line.decode("utf-8").strip())
        if not isinstance(found, dict):
            return "the line is JSON and no object"
        if bad := [key for key in found if "\0" in key or not is_unicode(key)]:
            return f"the key {quoted(bad[0])} is no text"
        return found
    except BadRow as error:
        return str(error)
    except UnicodeDecodeError as error:
        return f"the line is not UTF-8 ({error.reason}); save the file as UTF-8"
    except RecursionError:
        return "the line is nested too deeply"
    except ValueError as error:
        return f"the line is no JSON: {error}"
