"""Lists of pairs as text: ``image image label`` a line, as released with SANE (Plummer et al., ECCV 2020)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline.datasets.reading import local_place, opened
from pipeline.datasets.writing import Item, LeftOutItems, PairOf
from transforms import storage
from transforms.core.errors import BadRow, UsageError
from transforms.core.messages import quoted
from transforms.inputs.lines import Lines

NO_MATCH = "lines of pair lists with label 0, no match"
REPEATED = "lines of pair lists that repeat a pair"
UNUSABLE = "lines of pair lists that cannot be used"

_EXTENSION = re.compile(r"\.(jpg|jpeg|png)", re.IGNORECASE)
_LABELS = {"0": 0, "1": 1}


def parse(line: bytes | None) -> tuple[str, str, int]:
    """The two images as they are written, and the label, 1 for a match and 0 for none.

    BadRow where the line is no pair. None stands for a line that is too long to be read.
    """
    if line is None:
        raise BadRow("the line is too long")
    try:
        fields = line.decode("utf-8").split()
    except UnicodeDecodeError:
        raise BadRow("the line is not UTF-8") from None
    if len(fields) != 3:
        raise BadRow(f"the line has {len(fields)} fields, 'image image label' is expected")
    first, second, label = fields
    if label not in _LABELS:
        raise BadRow(f"the label is {quoted(label)}, 0 or 1 is expected")
    return first, second, _LABELS[label]


def product_id(image: str, known: Collection[str]) -> str:
    """The id among ``known`` of an image that is named by it, perhaps with folders before and an extension behind.

    BadRow where there is none.
    """
    name = re.split(r"[/\\]", image)[-1]
    ending = _EXTENSION.search(name, max(0, name.rfind(".")))
    for found in (name, name[: ending.start()] if ending and ending.end() == len(name) else name):
        if found in known:
            return found
    raise BadRow(f"the catalogue has no image {quoted(image)}")


def read(
    files: Sequence[str], items: Mapping[str, Item], left_out: LeftOutItems, *, all_pairs: bool, conditions: bool
) -> Iterator[PairOf]:
    """The pairs of the lists in ``files``, each once and in order; only matches unless ``all_pairs``.

    Every line that is not blank is a pair, or is counted in ``left_out``: a line of no match by its number alone,
    every other one with its file, its place and the reason. Of lines of one pair the first counts. With
    ``conditions`` both products need a type.

    UsageError where a file cannot be read, or has no line that can be used.
    """
    seen: dict[tuple[str, str], tuple[str, int, int | None]] = {}
    for file in files:
        path = local_place(file, "--pairs")
        usable = no_match = repeated = lines = 0
        first = ""
        with opened(path) as stream:
            for number, line in enumerate(Lines(stream, storage.shown(path)), 1):
                if line is not None and not line.strip():
                    continue
                lines += 1
                place = f"{storage.shown(path)} line {number}"
                try:
                    pair = _pair(line, items, conditions)
                except BadRow as error:
                    left_out.add(UNUSABLE, f"{place}: {error}")
                    first = first or f"line {number}: {error}"
                    continue
                before = seen.setdefault((pair.query, pair.reference), (path, number, pair.label))
                if before != (path, number, pair.label):
                    left_out.add(REPEATED, f"{place}: {_as_in(before, path, pair.label)}")
                    repeated += 1
                    continue
                if pair.label == 0 and not all_pairs:
                    left_out.count(NO_MATCH)
                    no_match += 1
                    continue
                usable += 1
                yield pair if all_pairs else PairOf(pair.query, pair.reference)
        if not usable:
            wrong = f"{lines - no_match - repeated:,} are wrong{first and ', the first: '}{first}"
            hint = "; --all-pairs keeps pairs of label 0" if no_match else ""
            raise UsageError(
                f"{storage.shown(path)} has no line that can be used: of {lines:,} lines {no_match:,} have label 0, "
                f"{repeated:,} repeat a pair, {wrong}. A line is 'image image label' with images "
                f"of the catalogue and label 1 for a match{hint}"
            )


def _pair(line: bytes | None, items: Mapping[str, Item], conditions: bool) -> PairOf:
    first, second, label = parse(line)
    query, reference = product_id(first, items), product_id(second, items)
    if query == reference:
        raise BadRow(f"both images are {quoted(query)}")
    if conditions and (lacking := [each for each in (query, reference) if items[each].type is None]):
        raise BadRow(f"{quoted(lacking[0])} has no type, so the pair has no condition")
    return PairOf(query, reference, label)


def _as_in(before: tuple[str, int, int | None], path: str, label: int | None) -> str:
    where = f"line {before[1]}" if before[0] == path else f"{storage.shown(before[0])} line {before[1]}"
    return f"the pair of {where}" + ("" if before[2] == label else f", which has the label {before[2]}")
