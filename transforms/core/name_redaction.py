"""Names in a text, hidden where they stand as whole words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = "***"
_WORD = re.compile(r"\w+")
_ROUNDS = 10


class NameRedactor:
    """Finds any of many ``names`` in texts, in a time that does not grow with their number.

    A name stands in a text where the characters before and after it are no letters, digits or underscores: ``shoe-7``
    stands in ``'shoe-7.jpg'``, and not in ``shoe-77``. Letters match in their own case only.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first_word: dict[str, list[tuple[str, int]]] = {}  # the word: names, and where in them it begins
        self._wordless: list[str] = []
        for name in sorted(set(names) - {""}):
            if word := _WORD.search(name):
                self._by_first_word.setdefault(word[0], []).append((name, word.start()))
            else:
                self._wordless.append(name)

    def hide(self, text: str) -> str:
        """``text`` with ``***`` for every run of names in it; the same text where none stands in it."""
        for _ in range(_ROUNDS):  # a name may hold *** itself
            hidden = self._hide_once(text)
            if hidden == text:
                break
            text = hidden
        return text

    def _hide_once(self, text: str) -> str:
        parts, end = [], 0
        for start, stop in _merged(self._spans(text)):
            parts += [text[end:start], MASK]
            end = stop
        return "".join([*parts, text[end:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        if self._by_first_word:
            for word in _WORD.finditer(text):
                for name, offset in self._by_first_word.get(word[0], ()):
                    start = word.start() - offset
                    if start >= 0 and text.startswith(name, start) and _whole(text, start, start + len(name)):
                        yield start, start + len(name)
        for name in self._wordless:
            start = text.find(name)
            while start >= 0:
                if _whole(text, start, start + len(name)):
                    yield start, start + len(name)
                start = text.find(name, start + 1)


def _whole(text: str, start: int, stop: int) -> bool:
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return not (_WORD.match(before) or _WORD.match(after))


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap or touch as one: what is left between two names may tell of both."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
