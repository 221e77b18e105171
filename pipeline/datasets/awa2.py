"""Animals with Attributes 2: Y. Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and
the Ugly", TPAMI 2018 (arXiv 1707.00600), one of the two data sets of SANE (Plummer et al., ECCV 2020, section 4).

A product is an image. Attributes are those of its class: a column for each predicate, ``yes`` or ``no``. Both are
written, since the matrix says both: an empty cell means that a catalogue does not say (``export.training.data.labels``,
``transforms.core.metrics.removal``, ``on_reference`` in the tables), and with ``yes`` alone a training would see no
image without an attribute. The names that SANE speaks of, which attributes an image has, are those that end in
``=yes``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from pipeline.datasets.reading import local_folder, names_in, plain_name, text_lines
from pipeline.datasets.writing import Item, LeftOutItems, PairOf, PublishedDataset
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import quoted
from transforms.core.records import content_id
from transforms.inputs.catalogue import ID, IMAGE, REGIONS, SPLIT

IMAGES, CLASS = "JPEGImages", "class"
YES, NO = "yes", "no"


def read(folder: str, *, valid_share: float = 0.1, seed: int = 0) -> PublishedDataset:
    """The images of all classes, in the order of classes.txt and then of their names, with class and predicates.

    Images of train classes are valid where a hash of ``seed`` and id falls below ``valid_share``, else they train;
    those of test classes test. Classes that are in neither list, folders of no class and files of other names are left
    out.

    UsageError where a file is missing, or the lists and the matrix do not fit each other.
    """
    if not 0 <= valid_share < 1:
        raise UsageError(f"--valid-share is a share of the training images, at least 0 and below 1, not {valid_share}")
    folder = local_folder(folder, "the data set")
    left_out = LeftOutItems()
    classes, predicates = (_numbered(os.path.join(folder, f"{name}.txt")) for name in ("classes", "predicates"))
    if taken := [name for name in predicates if name in (ID, IMAGE, SPLIT, REGIONS, CLASS)]:
        raise UsageError(
            f"{storage.shown(folder)}/predicates.txt: the predicate {taken[0]!r} is the name of a column that "
            "catalogues have anyway; give it another one"
        )
    has = _matrix(os.path.join(folder, "predicate-matrix-binary.txt"), len(classes), len(predicates))
    split_of = _class_splits(folder, classes)
    known = set(classes)
    for name in sorted(names_in(os.path.join(folder, IMAGES), folders=True)):
        if name not in known:
            left_out.add(f"folders in {IMAGES}/ of no class in classes.txt", quoted(name))
    items: dict[str, Item] = {}
    for name, row in zip(classes, has, strict=True):
        if name not in split_of:
            left_out.add("classes in neither trainclasses.txt nor testclasses.txt", name)
            continue
        values = (name, *row)
        count = len(items)
        for item in _images(folder, name, left_out):
            split = split_of[name]
            if split == "train" and _share(seed, item) < valid_share:
                split = "valid"
            items[item] = Item(item, f"{IMAGES}/{name}/{item}.jpg", split, values)
        if len(items) == count:
            left_out.add("classes without an image", name)
    return PublishedDataset(folder, (CLASS, *predicates), items, left_out)


def same_class_pairs(dataset: PublishedDataset, each: int = 8, seed: int = 0) -> Iterator[PairOf]:
    """``each`` references of the query's class and split for every image, or all where there are fewer.

    The images of a class and split stand in a ring by a hash of ``seed`` and id; an image's references are those that
    follow it. So the pairs do not depend on the order of the images, and each is as often a reference as a query.
    """
    if each < 1:
        raise UsageError(f"--pairs-per-image must be at least 1, not {each}")
    rings: dict[tuple[str | None, str], list[str]] = {}
    for item in dataset.items.values():
        rings.setdefault((item.values[0], item.split), []).append(item.id)
    place: dict[str, int] = {}
    for ring in rings.values():
        ring.sort(key=lambda item: content_id(str(seed), item, letter="r", digits=64))
        place |= {item: at for at, item in enumerate(ring)}
        if len(ring) == 1:
            dataset.left_out.add("queries that are alone in their class and split", ring[0])
    for item in dataset.items.values():
        ring = rings[item.values[0], item.split]
        for step in range(1, min(each, len(ring) - 1) + 1):
            yield PairOf(item.id, ring[(place[item.id] + step) % len(ring)])


def _share(seed: int, item: str) -> float:
    """A number in [0, 1) that is the item's own."""
    return int(content_id(str(seed), item, letter="", digits=13), 16) / 16**13


def _images(folder: str, name: str, left_out: LeftOutItems) -> list[str]:
    """The ids of a class's images, sorted: file names without their extension."""
    path = os.path.join(folder, IMAGES, name)
    if not os.path.isdir(path):
        return []
    usual = re.compile(re.escape(name) + r"_[0-9]{1,20}\.jpg")
    found = []
    for file in sorted(names_in(path)):
        if usual.fullmatch(file):
            found.append(file.removesuffix(".jpg"))
        else:
            left_out.add(f"files in {IMAGES}/ that are not named <class>_<number>.jpg", quoted(f"{name}/{file}"))
    return found


def _numbered(path: str) -> list[str]:
    """The names of a list with a number before each, from 1 on: rows and columns of the matrix are told by it."""
    names: dict[str, int] = {}
    for number, text in text_lines(path):
        fields = text.split()
        if len(fields) != 2 or fields[0] != str(len(names) + 1):
            raise UsageError(
                f"{storage.shown(path)}, line {number}: {quoted(text)}; expected {len(names) + 1} and a name: the "
                "file is damaged, unpack it again"
            )
        name = plain_name(fields[1], path, f"line {number}", "name")
        if name in names:
            raise UsageError(
                f"{storage.shown(path)}, line {number}: {quoted(name)} is in line {names[name]} too; remove one"
            )
        names[name] = number
    if not names:
        raise UsageError(f"{storage.shown(path)} names nothing; unpack the data set again")
    return list(names)


def _matrix(path: str, rows: int, columns: int) -> list[tuple[str, ...]]:
    """``YES`` or ``NO`` for each of ``rows`` classes and ``columns`` predicates."""
    found = []
    for number, text in text_lines(path):
        cells = text.split()
        if len(cells) != columns or not set(cells) <= {"0", "1"}:
            odd = next((cell for cell in cells if cell not in ("0", "1")), None)
            why = f"{len(cells)} numbers" if odd is None else f"the number {quoted(odd)}"
            raise UsageError(
                f"{storage.shown(path)}, line {number}: {why}; expected {columns} of 0 or 1, one for each line of "
                "predicates.txt: these two are of different releases, or damaged"
            )
        found.append(tuple(YES if cell == "1" else NO for cell in cells))
        if len(found) > rows:
            break
    if len(found) != rows:
        count = f"more than {rows}" if len(found) > rows else str(len(found))
        raise UsageError(
            f"{storage.shown(path)} has {count} lines; expected {rows}, one for each line of classes.txt: these two "
            "are of different releases, or damaged"
        )
    return found


def _class_splits(folder: str, classes: list[str]) -> dict[str, str]:
    """The split of each class that trainclasses.txt or testclasses.txt names."""
    found: dict[str, str] = {}
    for split in ("train", "test"):
        path = os.path.join(folder, f"{split}classes.txt")
        for number, name in text_lines(path):
            if name not in classes or name in found:
                why = "listed twice, or to train and to test" if name in found else "no class of classes.txt"
                raise UsageError(f"{storage.shown(path)}, line {number}: {quoted(name)} is {why}; correct the line")
            found[name] = split
    return found
